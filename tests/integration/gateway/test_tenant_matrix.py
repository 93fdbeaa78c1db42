"""Every object by every route as a stranger: byte for byte what an unknown id gets.

Routes come from the OpenAPI document and, for what is below `/v1`, from the gateway's own table. An
object's id is tried in every place where an id may stand, whatever kind of id belongs there.

`STRANGERS` are those who may see nothing of a tenant's: with a key, and with a ticket for
another job.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from itertools import product
from typing import Any, NamedTuple, TypeAlias

import aiohttp
import pytest
from redis.asyncio import Redis

from darkq import Client
from darkq_gateway.app import ROUTES
from darkq_gateway.native.openapi import make_document
from darkq_worker.files import run as file_batch
from darkq_worker.files import runner as file_batch_runners
from support.http_api import Api
from support.waiting import wait_until

MakeKey: TypeAlias = Callable[..., Awaitable[str]]

ID = re.compile(r"\{(\w+_id)\}")
QUERIES = ("", "?wait_s=0.05", "?after=0-1", "?stream=true", "?stream=true&starting_after=0")
CHAT = "/v1/chat/completions"
LINE = {
    "custom_id": "1",
    "method": "POST",
    "url": CHAT,
    "body": {"model": "gpt-4o", "messages": [{"role": "user", "content": "a line"}]},
}


async def with_a_key(api: Api, _: Api, make_key: MakeKey) -> Api:
    return api.with_key(await make_key("bob"))


async def with_a_limited_key(api: Api, _: Api, make_key: MakeKey) -> Api:
    limits = {"max_prompt_bytes": 10, "rate_per_s": 9999, "concurrency": 99}
    return api.with_key(await make_key("carol", models=["gpt-4o"], **limits))


async def with_a_ticket(api: Api, _: Api, make_key: MakeKey) -> Api:
    async with api.with_key(await make_key("dave")) as dave:
        return await with_a_ticket_of(dave)


async def with_a_ticket_of_its_own(_: Api, alice: Api, __: MakeKey) -> Api:
    return await with_a_ticket_of(alice)


async def with_a_ticket_of(caller: Api) -> Api:
    job_id = await caller.enqueue("x", priority="bulk")
    answer = await caller("POST", f"/jobs/{job_id}/ticket", {"cancel": True})
    api = caller.with_ticket(answer.json["ticket"])
    assert (await api("GET", f"/jobs/{job_id}")).status == 200
    return api


STRANGERS: dict[str, Callable[[Api, Api, MakeKey], Awaitable[Api]]] = {
    "a key of another tenant": with_a_key,
    "a limited key of another tenant": with_a_limited_key,
    "a ticket of another tenant": with_a_ticket,
    "a ticket of the owner, for another job": with_a_ticket_of_its_own,
}
"""Each makes a caller, from one without a key and from the owner."""


class Route(NamedTuple):
    method: str
    path: str

    def to(self, object_id: str, query: str = "") -> str:
        return ID.sub(object_id, self.path) + query


class Seen(NamedTuple):
    """An answer as it comes over the wire, without what is of the moment."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes


def routes() -> list[Route]:
    """All that take an id: of the document, and those that the table has beside it."""
    documented = {
        Route(method.upper(), path)
        for path, item in make_document()["paths"].items()
        for method in item
        if method != "parameters"
    }
    table = {Route(route.method, route.path) for route in ROUTES}
    table |= {Route(method, route.path) for route in table for method in ("PUT", "OPTIONS")}
    return sorted(route for route in documented | table if ID.search(route.path))


def test_the_matrix_has_all_routes_of_objects() -> None:
    """Red when a route takes an id by another name, and is not tried."""
    paths = {route.path for route in ROUTES}
    with_id = {path for path in paths if "{" in path} - {"/v1/models/{model:.+}"}
    assert {route.path for route in routes()} == with_id
    assert len(routes()) >= 3 * 11


class Owner:
    """Makes one object of each kind, and says their ids."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def objects(self) -> dict[str, str]:
        """Return the ids of everything that a tenant may own."""
        made = {
            "failed job": await self._job("[fault: truncate=2] x", "failed", tries=1),
            "running job": await self._job("[fault: stall=1] x", "running"),
            "completed job": await self._job("x", "completed"),
            "cancelled job": await self._cancelled(),
            "running response": await self._response("[fault: stall=1] x"),
            "completed response": await self._ended("/v1/responses", await self._response("x")),
        }
        return made | await self._files()

    async def waiting(self) -> dict[str, str]:
        """As `objects`, of what waits in a queue that is paused."""
        return {
            "waiting job": await self._job("x", "queued", priority="bulk"),
            "large job": await self._job("x" * 500_000, "queued", priority="bulk"),
        }

    async def _job(self, prompt: str, state: str, **fields: Any) -> str:
        job_id = await self._api.enqueue(prompt, **fields)

        async def is_there() -> bool:
            return bool((await self._api("GET", f"/jobs/{job_id}")).json["state"] == state)

        await wait_until(f"a job that is {state}", is_there)
        return job_id

    async def _cancelled(self) -> str:
        job_id = await self._api.enqueue("[fault: stall=1] x")
        await self._api("POST", f"/jobs/{job_id}/cancel")
        return job_id

    async def _response(self, prompt: str) -> str:
        body = {"model": "gpt-4o", "input": prompt, "background": True}
        answer = await self._api("POST", "/v1/responses", body)
        response_id: str = answer.json["id"]
        return response_id

    async def _ended(self, path: str, object_id: str) -> str:
        async def has_ended() -> bool:
            answer = await self._api("GET", f"{path}/{object_id}")
            return bool(answer.json["status"] == "completed")

        await wait_until(f"the end of {object_id}", has_ended)
        return object_id

    async def _files(self) -> dict[str, str]:
        form = aiohttp.FormData({"purpose": "batch"})
        form.add_field("file", json.dumps(LINE).encode() + b"\n", filename="in.jsonl")
        file_id = (await self._api("POST", "/v1/files", data=form)).json["id"]
        body = {"input_file_id": file_id, "endpoint": CHAT, "completion_window": "24h"}
        batch_id = (await self._api("POST", "/v1/batches", body)).json["id"]
        await self._ended("/v1/batches", batch_id)
        output = (await self._api("GET", f"/v1/batches/{batch_id}")).json["output_file_id"]
        return {"file": file_id, "batch": batch_id, "output file": output}


async def ask(api: Api, route: Route, object_id: str, query: str) -> Seen:
    path = route.to(object_id, query)
    async with api.http.request(route.method, api.locate(path)) as answer:
        moment = (b"x-request-id", b"date")
        headers = [each for each in answer.raw_headers if each[0].lower() not in moment]
        return Seen(answer.status, tuple(headers), await answer.read())


def never_given(object_id: str) -> str:
    """An id of the same shape that nobody has."""
    return object_id[:-32] + secrets.token_hex(16)


def pairs(objects: dict[str, str]) -> Iterator[tuple[str, Route, str]]:
    for (name, _), route in product(objects.items(), routes()):
        for query in QUERIES if route.method == "GET" else ("",):
            yield name, route, query


@pytest.fixture
async def owned(
    api: Api,
    make_key: MakeKey,
    working: Any,
    monkeypatch: pytest.MonkeyPatch,
    client: Client,
) -> AsyncIterator[Any]:
    """A tenant, and its objects."""
    monkeypatch.setattr(file_batch_runners, "LOOK_S", 0.05)
    monkeypatch.setattr(file_batch, "PAUSE_S", 0.05)
    await working(chunks=3)
    async with api.with_key(await make_key("alice")) as alice:
        objects = await Owner(alice).objects()
        await client.queue("bulk").pause()
        yield alice, objects | await Owner(alice).waiting()
    await client.queue("bulk").resume()


@pytest.mark.slow
async def test_what_is_anothers_does_not_exist(api: Api, make_key: MakeKey, owned: Any) -> None:
    """Red when any handler finds an object without asking whose it is, or tells it apart."""
    alice, objects = owned
    tried = 0
    async with AsyncExitStack() as stack:
        strangers = {
            who: await stack.enter_async_context(await make(api, alice, make_key))
            for who, make in STRANGERS.items()
        }
        before = await alices(alice)
        for who, stranger in strangers.items():
            for name, route, query in pairs(objects):
                object_id = objects[name]
                foreign = await ask(stranger, route, object_id, query)
                unknown = await ask(stranger, route, never_given(object_id), query)
                assert foreign == unknown, (who, name, route, query)
                is_nothing = foreign.status >= 400 or foreign.status == NOTHING.get(route.path)
                assert is_nothing or route.method == "OPTIONS", (who, name, route, query)
                assert object_id.encode() not in foreign.body
                tried += 1
            for path in ("/jobs", "/v1/files", "/v1/batches"):
                found = (await stranger("GET", path)).json
                assert not found.get("jobs", found.get("data")), (who, path)
    print(f"{tried} pairs: {len(objects)} objects, {len(routes())} routes")
    assert await alices(alice) == before
    await owner_finds_them(alice, objects)


async def alices(alice: Api) -> list[Any]:
    """What a tenant sees of its own, without what goes on by itself."""
    jobs = (await alice("GET", "/jobs")).json["jobs"]
    others = [(await alice("GET", path)).json["data"] for path in ("/v1/files", "/v1/batches")]
    return [[(job["job_id"], job["state"]) for job in jobs], *others]


async def owner_finds_them(alice: Api, objects: dict[str, str]) -> None:
    """The other side: each object is found by its owner, or the matrix would show nothing."""
    places = {
        "job": "/jobs/{}",
        "response": "/v1/responses/{}",
        "file": "/v1/files/{}",
        "batch": "/v1/batches/{}",
    }
    for name, object_id in objects.items():
        path = places[name.rpartition(" ")[2]].format(object_id)
        assert (await alice("GET", path)).status == 200, name


NOTHING = {"/ui/chat/{chat_id}/stream": 204}
"""What a route answers when there is nothing, where that is no 404."""
RANDOM = "0" * 32
ODD = [
    "resp_", "resp_resp_", f"resp_resp_0-{RANDOM}", f"RESP_0-{RANDOM}", "resp_%00",
    f"resp_{RANDOM}",
    f"0-{RANDOM}0", f"00-{RANDOM}", f"10000-{RANDOM}", f"-1-{RANDOM}", f"0-{'A' * 32}", "0-", "-",
    f"%D9%A3-{RANDOM}", f"0-{RANDOM}%0A", f"%00-{RANDOM}", "%ff", "%ed%a0%80", "%",
    "batch-", f"batch-resp_0-{RANDOM}", f"batch-0-{RANDOM}%00", "file-", f"file-{'A' * 32}", "null",
    f"file-{RANDOM}%2e%2e", "x" * 7000, "*", "None", "about.json", "0-" + "%" + RANDOM,
]  # fmt: skip


async def test_an_id_of_any_shape_is_answered_as_an_unknown_one(
    api: Api, make_key: MakeKey
) -> None:
    """Red with a 500 when `resp_` is taken for the id "", which stands for none being given."""
    async with api.with_key(await make_key("alice")) as alice:
        for route in routes():
            unknown = await ask(alice, route, f"0-{RANDOM}", "")
            nothing = NOTHING.get(route.path, 404)
            assert unknown.status in (nothing, 405, 200) or route.method == "OPTIONS"
            for object_id in ODD:
                assert await ask(alice, route, object_id, "") == unknown, (route, object_id)


async def test_a_strangers_question_costs_the_same_whatever_the_size(
    api: Api, make_key: MakeKey, redis: Redis
) -> None:
    """Red when a record is read whole before it is known whose it is: the time tells its size."""

    async def sent_for(caller: Api, path: str) -> int:
        before = int((await redis.info("stats"))["total_net_output_bytes"])
        assert (await caller("GET", path)).status == 404
        return int((await redis.info("stats"))["total_net_output_bytes"]) - before

    async with (
        api.with_key(await make_key("alice")) as alice,
        api.with_key(await make_key("bob")) as bob,
    ):
        small, large = [await alice.enqueue("x" * size) for size in (10_000, 1_000_000)]
        for path in ("/jobs/{}", "/jobs/{}/events", "/jobs/{}/result", "/v1/responses/resp_{}"):
            costs = [await sent_for(bob, path.format(job_id)) for job_id in (small, large)]
            assert abs(costs[1] - costs[0]) < 4096, (path, costs)
            assert costs[1] < 32_000, (path, costs)
