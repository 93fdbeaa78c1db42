"""Tickets: what one opens, that it opens nothing else, and when it ends."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from redis.asyncio import Redis

from darkq import Client, InvalidJob, Settings
from darkq.event import Cursor
from darkq.jobs import tickets as making
from darkq.protocol.keys import api_key_use
from darkq.sync import Client as SyncClient
from darkq_gateway.app import ROUTES
from darkq_gateway.http import auth
from support.by_hand import Hand, chunk, started
from support.http_api import Answer, Api
from support.waiting import wait_until

BEFORE_END = (aiohttp.ClientError, ConnectionError)
UNKNOWN = "0-" + "0" * 32
READS = ("", "/events", "/result", "/ui-stream")
ONE, TWO = "1" * 32, "2" * 32


@pytest.fixture
async def alice(api: Api, make_key: Any) -> AsyncIterator[Api]:
    async with api.with_key(await make_key("alice")) as caller:
        yield caller


async def ticket_of(caller: Api, job_id: str, **fields: Any) -> str:
    answer = await caller("POST", f"/jobs/{job_id}/ticket", fields)
    assert answer.status == 200, answer
    ticket: str = answer.json["ticket"]
    return ticket


async def ask(api: Api, path: str, ticket: str, method: str = "GET") -> Answer:
    return await api(method, path, params={"ticket": ticket})


async def is_refused(api: Api, path: str, ticket: str) -> bool:
    answer = await ask(api, path, ticket)
    return answer.status == 401


def same(one: Answer, other: Answer) -> bool:
    own = {"X-Request-ID", "Date"}
    heads = [{k: v for k, v in a.headers.items() if k not in own} for a in (one, other)]
    return (one.status, one.json, heads[0]) == (other.status, other.json, heads[1])


async def test_a_ticket_reads_its_job_from_any_cursor(api: Api, alice: Api, working: Any) -> None:
    await working(chunks=5)
    job_id = await alice.enqueue()
    text = (await alice("GET", f"/jobs/{job_id}/result?wait_s=20")).json["text"]
    ticket = await ticket_of(alice, job_id)
    assert (await ask(api, f"/jobs/{job_id}", ticket)).json["state"] == "completed"
    assert (await ask(api, f"/jobs/{job_id}/result", ticket)).json["text"] == text
    path = f"/jobs/{job_id}/events?ticket={ticket}"
    seen = await api.events(path)
    for number, event in enumerate(seen[:-1]):
        assert await api.events(path, Last_Event_ID=event.id) == seen[number + 1 :]
    last = await api("GET", path, headers={"Last-Event-ID": seen[-1].id})
    assert last.status == 204


async def test_a_ticket_opens_nothing_else(api: Api, alice: Api) -> None:
    """Red when a route takes a ticket that is not marked, or does not compare the id."""
    job_id, other = await alice.enqueue(), await alice.enqueue()
    ticket = await ticket_of(alice, job_id, cancel=True)
    for what in READS:
        foreign = await ask(api, f"/jobs/{other}{what}", ticket)
        unknown = await ask(api, f"/jobs/{UNKNOWN}{what}", ticket)
        assert foreign.status == 404
        assert same(foreign, unknown)
    assert (await ask(api, f"/jobs/{other}/cancel", ticket, "POST")).status == 404
    opened = {("GET", f"/jobs/{{job_id}}{what}") for what in READS}
    opened |= {("POST", "/jobs/{job_id}/cancel")}
    batches = {("GET", "/batches/{batch_id}"), ("GET", "/batches/{batch_id}/events")}
    batches |= {("POST", "/batches/{batch_id}/cancel")}
    for route in ROUTES:
        if getattr(route.handler, "darkq_is_public", False) or route.path == "/metrics":
            continue
        path = route.path
        for name in ("job_id", "response_id", "batch_id", "file_id", "completion_id"):
            path = path.replace(f"{{{name}}}", job_id)
        answer = await ask(api, path.replace("{model:.+}", "gpt-4o"), ticket, route.method)
        if (route.method, route.path) in batches:
            assert answer.status == 404, route
        elif (route.method, route.path) not in opened:
            assert answer.status == 401, route
    assert (await ask(api, "/metrics", ticket)).status == 401


@pytest.mark.parametrize("what", READS)
async def test_tickets_that_are_none_are_refused_alike(
    api: Api,
    alice: Api,
    make_key: Any,
    client: Client,
    what: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Forged, expired, revoked, doubled: as a wrong key is."""
    job_id = await alice.enqueue()
    good = await ticket_of(alice, job_id)
    path = f"/jobs/{job_id}{what}"
    wrong = await api("GET", path, headers={"Authorization": "Bearer x"})
    assert (wrong.status, wrong.code) == (401, "invalid_api_key")
    other = making.Tickets(client._redis, Settings(_env_file=None, ticket_secrets="x" * 32))
    _, forged = await other.make(job_id, ttl_s=60, cancel=False)
    _, expired = await client.tickets.make(job_id, ttl_s=0.001, cancel=False)
    async with api.with_key(await make_key("gone", tenant="alice")) as gone:
        revoked = await ticket_of(gone, job_id)
        (key,) = [key for key in await client.api_keys.listed() if key.name == "gone"]
        assert (await ask(api, f"/jobs/{job_id}", revoked)).status == 200
        await client.api_keys.revoke(key.id)
    await wait_until("the ticket to expire", lambda: is_refused(api, path, expired))
    for bad in ("", "x", good[:-1], good + "x", good.swapcase(), forged, expired, revoked):
        assert same(await ask(api, path, bad), wrong), bad
    double = await api("GET", f"{path}?ticket={good}&ticket={good}")
    assert same(double, wrong)


async def test_a_ticket_does_not_widen_a_key(api: Api, alice: Api, make_key: Any) -> None:
    """Red when a request with another tenant's key is let in by its ticket, or without it."""
    job_id = await alice.enqueue()
    ticket = await ticket_of(alice, job_id)
    async with api.with_key(await make_key("bob")) as bob:
        assert (await ask(bob, f"/jobs/{job_id}", ticket)).status == 404
        assert (await bob("POST", f"/jobs/{job_id}/ticket", {})).status == 404
    wrong = {"Authorization": "Bearer x"}
    answer = await api("GET", f"/jobs/{job_id}?ticket={ticket}", headers=wrong)
    assert answer.status == 401
    basic = {"Authorization": "Basic eDp5"}  # of a proxy's, which a browser adds by itself
    answer = await api("GET", f"/jobs/{job_id}?ticket={ticket}", headers=basic)
    assert answer.status == 200


async def test_only_a_ticket_that_says_so_cancels(api: Api, alice: Api) -> None:
    job_id = await alice.enqueue()
    reads, cancels = await ticket_of(alice, job_id), await ticket_of(alice, job_id, cancel=True)
    refused = await ask(api, f"/jobs/{job_id}/cancel", reads, "POST")
    assert (refused.status, refused.code) == (403, "ticket_not_allowed")
    assert (await alice("GET", f"/jobs/{job_id}")).json["state"] == "queued"
    assert (await ask(api, f"/jobs/{job_id}/cancel", cancels, "POST")).json["state"] == "cancelled"
    for what in ("retry", "ticket"):
        assert (await ask(api, f"/jobs/{job_id}/{what}", cancels, "POST")).status == 401


async def test_what_a_ticket_may_be_is_checked(alice: Api, client: Client) -> None:
    job_id = await alice.enqueue()
    body: Any
    for body in ({"ttl_s": 0}, {"ttl_s": 604801}, {"ttl_s": -1}, {"ttl_s": "1"}, {"x": 1}, []):
        assert (await alice("POST", f"/jobs/{job_id}/ticket", body)).status == 422, body
    for body, least_s, most_s in ((None, 3500, 3600), ({"ttl_s": 60}, 50, 60)):
        made = await alice("POST", f"/jobs/{job_id}/ticket", body)
        assert least_s < made.json["expires_ms"] / 1000 - time.time() <= most_s
    assert (await alice("POST", f"/jobs/{UNKNOWN}/ticket", {})).status == 404
    for ttl_s in (0, 604801, float("nan"), float("inf")):
        with pytest.raises(InvalidJob, match="ttl_s"):
            await client.job(job_id).ticket(ttl_s=ttl_s)


async def test_calls_with_a_ticket_count_against_the_key_that_requested_it(
    api: Api, make_key: Any, redis: Redis
) -> None:
    """Red when a key of one slot reads any number of streams by its tickets."""
    async with api.with_key(await make_key(concurrency=1)) as caller:
        job_id = await caller.enqueue()
        path = f"/jobs/{job_id}/events?ticket={await ticket_of(caller, job_id)}"
        async with api.stream(path) as events:
            await anext(events)
            assert (await api("GET", path)).code == "too_many_calls"
        (key,) = [name.decode() for name in await redis.keys("darkq:key:*")]
        calls = api_key_use(key.removeprefix("darkq:key:")[:16])[1]

        async def is_free() -> bool:
            return not await redis.zcard(calls)

        await wait_until("the slot to be free", is_free)


@pytest.mark.parametrize("how", ["key revoked", "ticket expired"])
async def test_a_stream_ends_soon_after_its_ticket(
    start_gateway: Any, make_key: Any, client: Client, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(auth, "CHECK_INTERVAL_S", 0.05)
    api = await start_gateway()
    key, secret = await client.api_keys.create("alice")
    async with api.with_key(secret) as caller:
        job_id = await caller.enqueue()
        ticket = await ticket_of(caller, job_id, ttl_s=1.5 if how == "ticket expired" else 60)
        async with api.stream(f"/jobs/{job_id}/events?ticket={ticket}") as events:
            await anext(events)
            if how == "key revoked":
                await client.api_keys.revoke(key.id)
            with pytest.raises(BEFORE_END):
                async with asyncio.timeout(10):
                    await anext(events)


async def test_a_ticket_without_a_key_ends_when_there_is_one(api: Api, make_key: Any) -> None:
    """Red when what was requested before the first key stays valid after it."""
    job_id = await api.enqueue()
    ticket = await ticket_of(api, job_id)
    assert (await ask(api, f"/jobs/{job_id}", ticket)).status == 200
    assert (await ask(api, f"/jobs/{job_id}", "x")).status == 401, "a wrong one is never ignored"
    await make_key()
    assert (await ask(api, f"/jobs/{job_id}", ticket)).status == 401


async def test_a_ticket_of_the_library_is_for_one_tenant_or_any(
    api: Api, make_key: Any, client: Client
) -> None:
    await make_key()
    job = await client.enqueue("x", tenant="alice")
    path = f"/jobs/{job.id}"
    for tenant, status in ((None, 200), ("alice", 200), ("bob", 404)):
        assert (await ask(api, path, await job.ticket(tenant=tenant))).status == status
    free = await client.enqueue("x")
    assert (await ask(api, f"/jobs/{free.id}", await free.ticket())).status == 200
    assert (await ask(api, f"/jobs/{free.id}", await free.ticket(tenant="alice"))).status == 404


async def test_with_secrets_the_library_makes_tickets_without_redis(
    start_gateway: Any, make_key: Any, client: Client
) -> None:
    """Red when making one asks Redis for anything."""
    await make_key()
    api = await start_gateway(ticket_secrets=f"{ONE},{TWO}")
    job = await client.enqueue("x")
    away = Settings(_env_file=None, redis_url="redis://127.0.0.1:1", ticket_secrets=TWO)
    async with Client(settings=away) as unconnected:
        ticket = await unconnected.job(job.id).ticket()
    assert (await ask(api, f"/jobs/{job.id}", ticket)).status == 200

    def blocking() -> tuple[str, str]:
        with SyncClient(settings=away) as sync:
            made = sync.batch(batch.id).ticket(ttl_s=5)
            return sync.job(job.id).ticket(ttl_s=5, cancel=True), made

    async with client.batch() as batch:
        ticket, of_batch = await asyncio.to_thread(blocking)
        assert (await ask(api, f"/batches/{batch.id}", of_batch)).status == 200
    assert (await ask(api, f"/jobs/{job.id}/cancel", ticket, "POST")).status == 200


async def test_secrets_are_rotated_without_a_gap(
    start_gateway: Any, make_key: Any, make_settings: Any, client: Client
) -> None:
    """Add the new one last everywhere, then first everywhere, then remove the old one."""
    await make_key()
    job_id = (await client.enqueue("x")).id
    old, both, turned, new = ONE, f"{ONE},{TWO}", f"{TWO} {ONE}", TWO
    for signer, verifier, status in (
        (old, both, 200),
        (both, old, 200),
        (both, turned, 200),
        (turned, both, 200),
        (turned, new, 200),
        (both, new, 401),
    ):
        api = await start_gateway(ticket_secrets=verifier)
        async with Client(settings=make_settings(ticket_secrets=signer)) as maker:
            ticket = await maker.job(job_id).ticket()
        assert (await ask(api, f"/jobs/{job_id}", ticket)).status == status, (signer, verifier)


async def test_without_secrets_all_processes_share_one_of_redis(
    start_gateway: Any,
    make_key: Any,
    make_settings: Any,
    redis: Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await make_key()
    api = await start_gateway()
    clients = [Client(settings=make_settings()) for _ in range(8)]
    job = await clients[0].enqueue("x")
    made = await asyncio.gather(*(each.job(job.id).ticket() for each in clients))
    assert {(await ask(api, f"/jobs/{job.id}", ticket)).status for ticket in made} == {200}
    secret = await redis.get("darkq:tickets")
    assert secret is not None
    assert len(secret) == 64
    before = int((await redis.info("stats"))["total_commands_processed"])
    await clients[0].job(job.id).ticket()
    assert int((await redis.info("stats"))["total_commands_processed"]) == before + 1
    await redis.delete("darkq:tickets")
    monkeypatch.setattr(making, "SECRET_FRESH_S", 0.0)
    assert (await ask(api, f"/jobs/{job.id}", made[0])).status == 401, "deleted: all have ended"
    ticket = await clients[0].job(job.id).ticket()
    assert (await ask(api, f"/jobs/{job.id}", ticket)).status == 200
    for each in clients:
        await each.aclose()


async def test_a_ticket_of_a_batch_reads_and_cancels_it(
    api: Api, alice: Api, client: Client, redis: Redis
) -> None:
    hand = Hand(redis)
    async with client.batch(metadata={"tenant": "alice"}) as batch:
        await batch.add("a")
        await batch.add("b")
        await batch.add("c")
        claims = await hand.claim(slots=2)
        for claim in claims:
            await hand.append(claim, started(1))
            await hand.complete(claim, "x", Cursor(1, 1))
        reads = await batch.ticket()
        made = await alice("POST", f"/batches/{batch.id}/ticket", {"cancel": True})
        path = f"/batches/{batch.id}"
        status = (await ask(api, path, reads)).json
        assert (status["completed"], status["runner"]) == (2, None), "no host is named"
        assert (await ask(api, f"{path}/cancel", reads, "POST")).status == 403
        done = await ask(api, f"{path}/cancel", made.json["ticket"], "POST")
        assert done.json["cancelled"] == 1
    seen = await api.events(f"{path}/events?ticket={reads}")
    assert [b'"completed"' in end.data or b'"cancelled"' in end.data for end in seen] == [True] * 3
    rest = await api.events(f"{path}/events?ticket={reads}", Last_Event_ID=seen[0].id)
    assert rest == seen[1:]
    end = await api("GET", f"{path}/events?ticket={reads}&after={seen[-1].id}")
    assert end.status == 204
    for cursor in ("x", "1-1", "9" * 40, "1,2:1-1", "é"):
        answer = await api("GET", f"{path}/events", params={"ticket": reads, "after": cursor})
        assert answer.code == "invalid_cursor", cursor
    job_id = claims[0].keys.public_id
    assert (await ask(api, f"/jobs/{job_id}", reads)).status == 404
    async with client.batch() as other:
        assert (await ask(api, f"/batches/{other.id}", reads)).code == "batch_not_found"
        assert (await alice("GET", f"/batches/{other.id}")).code == "batch_not_found"
        await redis.set(f"darkq:batch:{{0}}{other.id[-32:]}", "no hash", ex=9)
        assert (await alice("GET", f"/batches/{other.id}")).code == "batch_not_found"


async def test_no_log_has_a_ticket(
    api: Api, alice: Api, redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """Also when it is refused, when the stream breaks, and when a handler fails."""
    hand = Hand(redis)
    claim = await hand.take()
    job_id = await alice.enqueue()
    ticket = await ticket_of(alice, job_id)
    caplog.clear()
    caplog.set_level(logging.DEBUG)
    for name in ("darkq", "aiohttp", "asyncio", "redis", "py.warnings"):
        caplog.set_level(logging.DEBUG, logger=name)
    path = f"/jobs/{job_id}/events?ticket={ticket}"
    async with api.stream(path) as events:
        await anext(events)
    await redis.set(f"arq:job:{{0}}{job_id[-32:]}", b"\xff", keepttl=True)
    for target in (
        path,
        f"/jobs/{claim.keys.public_id}?ticket={ticket}",
        f"/jobs/{job_id}?ticket={ticket}x",
        f"/jobs/{job_id}/result?ticket={ticket}&wait_s=x",
        f"/jobs/{job_id}\x01?ticket={ticket}",
        f"/nothing?ticket={ticket}",
    ):
        await api.bare(f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode(), 0.3)
    await hand.append(claim, started(1), chunk(1, 1))
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("darkq")]
    assert sum("request method=" in line for line in lines) >= 6, lines
    for record in caplog.records:
        if not record.name.startswith("aiohttp.client"):
            line = f"{record.getMessage()} {record.exc_text or ''}"
            assert ticket[8:40] not in line, line
            assert ticket[-40:] not in line, line
