"""Waiting jobs moved to the other queue, and to another Redis, wherever that is interrupted."""

# mypy: disable-error-code="misc"

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from redis.asyncio import Redis

from darkq import (
    Backlog,
    CannotMove,
    Client,
    Job,
    JobNotFound,
    QueueFull,
    QueueHandle,
    RedisUnavailable,
    Settings,
)
from darkq.event import Cursor
from darkq.operate.transfer import Transfer
from darkq.protocol.keys import JobKeys, PartitionKeys
from support.by_hand import Hand, chunk, event_ids, snapshot, started
from support.servers import Server, binaries, running

MakeSettings = Callable[..., Settings]


@pytest.fixture
async def target(
    there: Redis, other_server: Server, make_settings: MakeSettings
) -> AsyncIterator[Client]:
    async with Client(settings=make_settings(redis_url=other_server.url)) as client:
        yield client


async def moved(source: QueueHandle, target: QueueHandle, limit: int | None = None) -> Backlog:
    last = Backlog()
    async with aclosing(source.move_to(target, limit=limit)) as tallies:
        async for tally in tallies:
            last = tally
    return last


async def held(client: Client) -> QueueHandle:
    bulk = client.queue("bulk")
    await bulk.pause()
    await bulk.close()
    return bulk


def bulk(prompt: str, **wishes: Any) -> Job:
    return Job.create(prompt, priority="bulk", **wishes)


async def test_a_job_arrives_whole(
    client: Client, redis: Redis, target: Client, there: Redis
) -> None:
    hand = Hand(redis)
    wishes: dict[str, Any] = {"metadata": {"a": "b"}, "options": {"seed": 7}, "tenant": "alice"}
    first = await client.enqueue_job(bulk("first", **wishes), idempotency_key="k")
    (claim,) = await hand.claim()
    await hand.append(claim, started(1), chunk(1, 1, "half"))
    await hand.release(claim, chunk(1, 2), delay_ms=60_000, burns=True)
    second = await client.enqueue_job(bulk("second"))
    names = [JobKeys.parse(first.id).job, JobKeys.parse(second.id).job]
    records, log = await redis.mget(names), await event_ids(redis, JobKeys.parse(first.id))
    places = await redis.zrange(PartitionKeys(0).queue("bulk"), 0, -1, withscores=True)
    before = await first.status()
    tally = await moved(await held(client), target.queue("bulk"))
    assert tally == Backlog(moved=2, keys=1)
    assert await there.mget(names) == records
    assert await event_ids(there, JobKeys.parse(first.id)) == log
    assert await there.zrange(PartitionKeys(0).queue("bulk"), 0, -1, withscores=True) == places
    after = await target.job(first.id).status()
    assert (after.state, after.attempt, after.tries) == ("deferred", 1, 1)
    assert (after.metadata, after.tenant) == (before.metadata, "alice")
    assert [job.job_id for job in await target.jobs(tenant="alice")] == [first.id]
    again = await target.enqueue_job(bulk("first", **wishes), idempotency_key="k")
    assert (again.id, again.duplicate) == (first.id, True)
    with pytest.raises(JobNotFound):
        await first.status()
    kept = {key.decode() for key in await redis.keys("*{0}*")}
    assert not any("job:" in key or "events:" in key or "state:" in key for key in kept)


async def test_what_runs_and_lines_of_batches_stay(
    client: Client, redis: Redis, target: Client
) -> None:
    hand = Hand(redis)
    await client.enqueue_job(bulk("runs"))
    await hand.claim()
    async with client.batch() as batch:
        await batch.add(bulk("a line"))
    await client.enqueue_many([bulk("a"), bulk("b")])
    source = await held(client)
    counted = [tally async for tally in source.backlog()][-1]
    assert counted == Backlog(moved=2, running=1, lines=1)
    assert await moved(source, target.queue("bulk")) == counted
    assert (await source.status()).running == 1


async def test_a_queue_that_is_not_held_is_not_moved(
    client: Client, redis: Redis, target: Client, there: Redis
) -> None:
    await client.enqueue_job(bulk("a"))
    source, before = client.queue("bulk"), await snapshot(redis)
    for word in (None, source.pause):
        if word:
            await word()
        with pytest.raises(CannotMove, match="pause and close"):
            await moved(source, target.queue("bulk"))
    await source.resume()
    assert await snapshot(redis) == before
    with pytest.raises(CannotMove, match="keeps its priority"):
        await moved(source, target.queue("interactive"))


async def test_the_same_redis_by_another_name_is_no_target(
    client: Client, redis: Redis, settings: Settings
) -> None:
    """Red without the token: the job would meet itself, and be let go."""
    job = await client.enqueue_job(bulk("a"))
    source = await held(client)
    async with Client(settings=settings) as same:
        for _ in range(2):
            with pytest.raises(CannotMove, match="same Redis"):
                await moved(source, same.queue("bulk"))
    assert (await job.status()).state == "queued"
    assert not await redis.hexists(PartitionKeys(0).control, "moving:bulk")


async def test_a_full_target_stops_it_and_it_goes_on_later(
    client: Client, target: Client, make_settings: MakeSettings, other_server: Server
) -> None:
    await client.enqueue_many(bulk(str(n)) for n in range(5))
    await target.enqueue_many(bulk(str(n)) for n in range(3))
    source = await held(client)
    small = Client(settings=make_settings(queue_max_jobs=4))
    async with small:
        with pytest.raises(QueueFull):
            await moved(small.queue("bulk"), target.queue("bulk"))
    standing = await source.status()
    assert (standing.moving, standing.waiting) == (4, 0)
    assert (await moved(source, target.queue("bulk"))).moved == 4
    assert (await target.queue("bulk").status()).waiting == 8


async def test_a_limit_is_kept_and_the_first_go_first(client: Client, target: Client) -> None:
    jobs = await client.enqueue_many(bulk(str(n)) for n in range(5))
    source = await held(client)
    assert (await moved(source, target.queue("bulk"), limit=2)).moved == 2
    assert (await source.status()).waiting == 3
    assert (await target.job(jobs[1].id).status()).state == "queued"
    assert (await moved(source, target.queue("bulk"))).moved == 3


class Cut(Exception):
    """The process has died here."""


class Faulty:
    """A Redis to which the connection breaks at one command: before it is sent, or after."""

    def __init__(self, redis: Redis, ticks: Iterator[int], at: int, *, sent: bool) -> None:
        self._redis, self._ticks, self._at, self._sent = redis, ticks, at, sent

    def pipeline(self, **options: Any) -> Any:
        pipe: Any = self._redis.pipeline(**options)
        execute = pipe.execute
        pipe.execute = lambda: self._do(execute)
        return pipe

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._redis, name)
        if name == "scan_iter":
            return method

        async def call(*args: Any, **options: Any) -> Any:
            return await self._do(lambda: method(*args, **options))

        return call

    async def _do(self, command: Callable[[], Any]) -> Any:
        mine = next(self._ticks) == self._at
        if mine and not self._sent:
            raise Cut
        reply = await command()
        if mine:
            raise Cut
        return reply


async def drain_by_hand(redis: Redis) -> list[JobKeys]:
    """Run all that waits, to its end, and forget it: nothing of it remains but the note."""
    hand, ran = Hand(redis, "target"), []
    for claim in await hand.claim():
        await hand.complete(claim, "x", Cursor(claim.attempt, 0))
        await redis.delete(claim.keys.result, claim.keys.events)
        ran.append(claim.keys)
    return ran


@pytest.mark.parametrize("sent", [False, True], ids=["request lost", "reply lost"])
async def test_cut_between_any_two_commands_no_job_is_lost_or_run_twice(
    client: Client, redis: Redis, target: Client, there: Redis, settings: Settings, sent: bool
) -> None:
    """A worker at the target ends and forgets each job as soon as it comes.

    Red without the note in transfer_arrive.lua, and with the deletion before the arrival.
    """
    cut_at = 0
    while True:
        await redis.flushall()
        await there.flushall()
        jobs = await client.enqueue_many(bulk(str(n)) for n in range(3))
        cancelled = await client.enqueue_job(bulk("cancelled on its way"))
        await held(client)
        was_cut, ran = False, list[JobKeys]()
        ticks = iter(range(10_000))
        source: Any = Faulty(redis, ticks, cut_at, sent=sent)
        sink: Any = Faulty(there, ticks, cut_at, sent=sent)
        try:
            async for _ in Transfer(source, sink, "bulk", settings).run():
                pass
        except Cut:
            was_cut = True
        ran += await drain_by_hand(there)
        if await redis.zscore(PartitionKeys(0).moving("bulk"), JobKeys.parse(cancelled.id).arq_id):
            assert (await client.job(cancelled.id).cancel()).state == "cancelling"
        async for _ in Transfer(redis, there, "bulk", settings).run():
            pass
        ran += await drain_by_hand(there)
        assert not await redis.keys("arq:*")
        assert await redis.zcard(PartitionKeys(0).moving("bulk")) == 0
        times = Counter(keys.public_id for keys in ran)
        assert all(times[job.id] == 1 for job in jobs), (cut_at, times)
        assert times[cancelled.id] <= 1
        if not was_cut:
            break
        cut_at += 1
    assert cut_at > 15


async def test_two_may_move_at_once_to_one_target_and_to_no_other(
    client: Client, redis: Redis, target: Client, make_settings: MakeSettings
) -> None:
    jobs = await client.enqueue_many(bulk(str(n)) for n in range(300))
    source = await held(client)
    await asyncio.gather(*(moved(source, target.queue("bulk")) for _ in range(2)))
    assert (await target.queue("bulk").status()).waiting == len(jobs)
    await source.open()
    await client.enqueue_many(bulk(str(n)) for n in range(300))
    await source.close()
    tallies = source.move_to(target.queue("bulk"))
    await anext(tallies)
    with running(binaries()["valkey"]) as third:
        async with Client(settings=make_settings(redis_url=third.url)) as elsewhere:
            with pytest.raises(CannotMove, match="has not ended"):
                await moved(source, elsewhere.queue("bulk"))
    await tallies.aclose()
    assert (await moved(source, target.queue("bulk"))).moved == 200


async def test_what_is_on_its_way_can_be_given_back(
    client: Client, redis: Redis, target: Client, there: Redis, settings: Settings
) -> None:
    jobs = await client.enqueue_many(bulk(str(n)) for n in range(3))
    source = await held(client)
    faulty: Any = Faulty(there, iter(range(1000)), 4, sent=False)
    with pytest.raises(Cut):
        async for _ in Transfer(redis, faulty, "bulk", settings).run():
            pass
    assert (await source.status()).moving == 3
    await there.flushall()
    with pytest.raises(CannotMove):
        await moved(source, target.queue("bulk"))
    assert await source.give_back() == 3
    await source.resume()
    claims = await Hand(redis).claim()
    assert [claim.keys.public_id for claim in claims] == [job.id for job in jobs]


async def test_there_and_back_again(client: Client, target: Client) -> None:
    """Red when a note of arrival outlives the next departure."""
    job = await client.enqueue_job(bulk("a traveller"))
    here, there_ = await held(client), await held(target)
    for _ in range(2):
        assert (await moved(here, there_)).moved == 1
        assert (await moved(there_, here)).moved == 1
    assert (await job.status()).state == "queued"


async def test_to_the_other_queue_under_load(client: Client, redis: Redis) -> None:
    hand = Hand(redis)
    await client.enqueue_job(bulk("runs"))
    await hand.claim()
    jobs = await client.enqueue_many(bulk(str(n), options={"top_p": 0.5}) for n in range(250))
    await client.enqueue("already there")
    tally = await moved(client.queue("bulk"), client.queue("interactive"), limit=120)
    assert (tally.moved, tally.running) == (120, 0)
    tally = await moved(client.queue("bulk"), client.queue("interactive"))
    assert (tally.moved, tally.running) == (130, 1)
    claims = await hand.claim(bulk_slots=0)
    assert [claim.keys.public_id for claim in claims][:250] == [job.id for job in jobs]
    assert all(b'"options":{"top_p":0.5}' in claim.record for claim in claims[:250])
    assert b'"priority":"interactive"' in claims[0].record
    with pytest.raises(CannotMove, match="same queue"):
        await moved(client.queue("bulk"), client.queue("bulk"))


async def test_a_line_of_a_batch_goes_along_and_is_told_once(client: Client, redis: Redis) -> None:
    hand = Hand(redis)
    async with client.batch() as batch:
        await batch.add(bulk("a line"))
        assert (await moved(client.queue("bulk"), client.queue("interactive"))).moved == 1
        (claim,) = await hand.claim(bulk_slots=0)
        assert not claim.is_bulk
        await hand.complete(claim, "x", Cursor(1, 0))
        page = await anext(batch.collected())
        assert [end.number for end in page] == [1]
        assert await redis.zcard(PartitionKeys(0).queue("interactive")) == 0


async def test_a_target_that_is_away_is_an_error_and_loses_nothing(
    client: Client, make_settings: MakeSettings, target: Client
) -> None:
    await client.enqueue_many(bulk(str(n)) for n in range(3))
    source = await held(client)
    gone = make_settings(redis_url="unix:///nowhere/redis.sock", redis_patience_s=0.01)
    async with Client(settings=gone) as away:
        with pytest.raises(RedisUnavailable):
            await moved(source, away.queue("bulk"))
    assert (await moved(source, target.queue("bulk"))).moved == 3


async def test_the_operators_user_of_the_docs_can_do_all_of_it(
    redis: Redis, there: Redis, redis_server: Server, other_server: Server, settings: Settings
) -> None:
    docs = (Path(__file__).parents[3] / "docs/security.md").read_text()
    (rule,) = re.findall(r"a user with `([^`]+)`", " ".join(docs.split()))
    clients = []
    for admin, server in ((redis, redis_server), (there, other_server)):
        await admin.execute_command("ACL", "SETUSER", "operator", "on", ">secret", *rule.split())
        url = SecretStr(f"unix://operator:secret@{server.socket}")
        clients.append(Client(settings=settings.model_copy(update={"redis_url": url})))
    here, target = clients
    try:
        async with here, target:
            job = bulk("x")
            await here.enqueue_job(job, idempotency_key="k")
            source = await held(here)
            assert await moved(source, target.queue("bulk")) == Backlog(moved=1, keys=1)
            assert await moved(target.queue("bulk"), target.queue("interactive")) == Backlog(
                moved=1
            )
            assert await source.give_back() == 0
            await source.resume()
            await source.open()
            assert [t.purged async for t in target.queue("interactive").purge()] == [1]
            assert [t.purged async for t in target.purge.results(older_than_s=0)] == [1]
            assert [t async for t in target.purge.tenant("alice")] == []
            assert [t async for t in target.purge.failed()] == []
    finally:
        for admin in (redis, there):
            await admin.execute_command("ACL", "DELUSER", "operator")
