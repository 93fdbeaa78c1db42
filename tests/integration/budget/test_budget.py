"""What each thing costs in round trips and commands, counted by the server: exactly.

No clock is read here. A change that costs a round trip more, or saves one, turns one of these
red, on any machine.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress

import pytest
from msgspec import UNSET
from redis.asyncio import Redis

from darkq import Client, Settings
from darkq import event as ev
from darkq.event import Completed, Cursor
from darkq.protocol.keys import JobKeys
from darkq.redis import scripts
from darkq.redis.servers import servers_of
from darkq_worker import main
from darkq_worker.attempts.generate import Upstreams
from darkq_worker.leases import MAX_RENEWALS_PER_CALL
from darkq_worker.upstreams.base import End, Request
from darkq_worker.writing.attempt_log import AttemptLog
from darkq_worker.writing.writer import Writer
from integration.budget.conftest import Call, Watch, names
from support.by_hand import Hand, chunk, history_of, started
from support.waiting import wait_until

StartWorker = Callable[[Settings], asyncio.Task[None]]
MakeSettings = Callable[..., Settings]

POLL_SELDOM = {"worker_poll_s": 60, "worker_lease_s": 3600}


# Is a queue paused? Of both what is due, and what is due next; and the room that is left for each.
AN_EMPTY_CLAIM = Counter(TIME=1, HEXISTS=2, ZRANGEBYSCORE=2, ZRANGE=2, ZADD=2, PEXPIRE=2)
AN_EVENT = Call("append", Counter(XADD=1, PUBLISH=1))
ONE_CHUNK_JOB = [
    # Not there yet, is there room, and is the queue open? Then the record, a fresh log from a
    # template; once per call the template's making and end, the queue, the list of the tenant's
    # jobs, and whom to wake.
    Call(
        "enqueue",
        Counter(TIME=1, EXISTS=1, ZCARD=1, HGET=1, INFO=1, SET=1, COPY=1)
        + Counter(XADD=1, PEXPIRE=2, DEL=1, ZADD=2, ZREMRANGEBYRANK=1)
        + Counter(ZRANGEBYSCORE=1, ZREM=1, PUBLISH=1),
    ),
    # What an empty claim asks; then the lease, the attempt's number, what earlier attempts left
    # behind, the record, a new time to live for the four keys that live as long as the job, and
    # whether more are left, for others.
    Call(
        "claim",
        AN_EMPTY_CLAIM
        + Counter(PTTL=1, INCR=1, SET=1, ZADD=1, HSETNX=1, HMGET=1, GET=1, XREVRANGE=1, PEXPIRE=4)
        + Counter(ZRANGEBYSCORE=1),
    ),
    Call("append", Counter(GET=1, XADD=1, PUBLISH=1)),  # `started`: is it the latest attempt?
    AN_EVENT,  # the chunk
    # Still ours? Then the result with what the log had before the attempt, and the cleaning.
    Call("finish", Counter(GET=2, HMGET=1, XRANGE=1, SET=1, ZREM=1, DEL=2, PUBLISH=1)),
    Call("claim", AN_EMPTY_CLAIM),  # for the slot that is free again
]
SCRIPTS = set(scripts.ALL)
HEALTH = {"ZCARD", "PSETEX", "SET", "MULTI", "SADD", "EXPIRE", "EXEC"}  # every ten seconds


class Stepwise:
    """An upstream that goes on when it is told to: one chunk, then the end."""

    name = kind = "stepwise"
    options: frozenset[str] = frozenset()
    takes_chat_requests = False
    default_model = "m"
    models: Sequence[str] = ("m",)

    def __init__(self) -> None:
        self.may_send = asyncio.Event()
        self.may_end = asyncio.Event()

    def resolve_model(self, model: str | None) -> str:
        return model or self.default_model

    async def stream(self, _: Request) -> AsyncGenerator[str | End, None]:
        await self.may_send.wait()
        yield "word"
        await self.may_end.wait()
        yield End()

    async def probe(self, *, timeout_s: float) -> None: ...


@asynccontextmanager
async def writing(settings: Settings) -> AsyncIterator[Writer]:
    """Run a writer."""
    writer = Writer(servers_of(settings), settings)
    task = asyncio.create_task(writer.run())
    try:
        yield writer
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def open_logs(writer: Writer, hand: Hand, count: int) -> list[AttemptLog]:
    """Begin attempts by hand whose `started` is in Redis."""
    logs = []
    for _ in range(count):
        claim = await hand.take()
        logs.append(writer.open(claim.keys, claim.attempt, claim.token, on_lost=lambda: None))
        logs[-1].start(model="m", upstream="u", at_ms=1)
    await written(logs)
    return logs


async def written(logs: Sequence[AttemptLog]) -> None:
    await wait_until("all is written", lambda: not any(log.has_work for log in logs))


async def test_an_idle_chunk_is_one_round_trip(
    settings: Settings, hand: Hand, watch: Watch
) -> None:
    async with writing(settings) as writer:
        (log,) = await open_logs(writer, hand, 1)
        await watch.calls()
        log.add("word")
        await written([log])
        assert await watch.calls() == [AN_EVENT]


async def test_waiting_chunks_share_a_round_trip_and_an_event_per_job(
    settings: Settings, hand: Hand, watch: Watch
) -> None:
    async with writing(settings) as writer:
        logs = await open_logs(writer, hand, 50)
        await watch.calls()
        for log in logs:
            for _ in range(10):
                log.add("word")
        await written(logs)
        assert await watch.calls() == [Call("append", Counter(XADD=50, PUBLISH=50))]


async def test_a_job_of_one_chunk_is_six_round_trips(
    client: Client,
    redis: Redis,
    watch: Watch,
    make_settings: MakeSettings,
    start_worker: StartWorker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    upstream = Stepwise()
    monkeypatch.setattr(main, "make_upstreams", lambda *_: Upstreams([upstream]))
    start_worker(make_settings(**POLL_SELDOM))
    seen: list[Call] = []

    async def has_claimed() -> bool:  # what its start asks is not what a job costs
        seen.extend(await watch.calls())
        return "claim" in names(seen)

    await wait_until("the worker's first claim", has_claimed)

    job = await client.enqueue("hello")
    keys = JobKeys.parse(job.id)
    await wait_until("`started`", lambda: length_is(redis, keys, 2))
    upstream.may_send.set()
    await wait_until("the chunk", lambda: length_is(redis, keys, 3))
    upstream.may_end.set()
    await wait_until("`completed`", lambda: redis.exists(keys.result))

    calls: list[Call] = []

    async def is_over() -> bool:
        calls.extend(call for call in await watch.calls() if call.name in SCRIPTS)
        while calls and calls[0] == Call("claim", AN_EMPTY_CLAIM):  # of its start
            del calls[0]
        return names(calls).count("claim") == 2

    await wait_until("the claim for the slot that is free again", is_over)
    assert calls == ONE_CHUNK_JOB


async def length_is(redis: Redis, keys: JobKeys, length: int) -> bool:
    return bool(await redis.xlen(keys.events) == length)


async def test_500_jobs_are_enqueued_in_one_round_trip(client: Client, watch: Watch) -> None:
    await client.enqueue("connect")
    await watch.calls()
    await client.enqueue_many(["hello"] * 500)
    assert names(await watch.calls()) == ["enqueue"]


async def test_concurrent_enqueues_share_a_round_trip(client: Client, watch: Watch) -> None:
    await client.enqueue("connect")
    await watch.calls()
    await asyncio.gather(*(client.enqueue("hello") for _ in range(100)))
    assert names(await watch.calls()) == ["enqueue"]


async def test_a_heartbeat_of_1000_jobs_is_two_round_trips(
    client: Client, hand: Hand, watch: Watch
) -> None:
    await client.enqueue_many(["hello"] * 1000)
    claims = await hand.claim(slots=1000)
    await watch.calls()
    await hand.leases.renew(claims)
    calls = await watch.calls()
    assert names(calls) == ["renew", "renew"]
    assert len(claims) == 2 * MAX_RENEWALS_PER_CALL
    per_job = Counter(GET=2, HEXISTS=2, SET=1, ZADD=1, PTTL=1)
    half = Counter({name: n * MAX_RENEWALS_PER_CALL for name, n in per_job.items()})
    assert calls[0].inner == calls[1].inner == half + Counter(TIME=1)


async def test_idle_worker_makes_one_call_per_poll(
    watch: Watch, make_settings: MakeSettings, start_worker: StartWorker
) -> None:
    """Twice a second by default. Its health record comes on top, every ten seconds."""
    start_worker(make_settings(worker_poll_s=0.005))
    calls: list[Call] = []

    async def has_polled() -> bool:
        calls.extend(await watch.calls())
        return names(calls).count("claim") >= 51

    await wait_until("50 polls", has_polled)
    claims = [n for n, name in enumerate(names(calls)) if name == "claim"]
    polls = [call for call in calls[claims[10] :] if call.name not in HEALTH]  # it has started
    assert all(call == Call("claim", AN_EMPTY_CLAIM) for call in polls), names(polls)
    assert all(names(calls).count(name) <= 1 for name in HEALTH)


async def test_a_reader_costs_four_commands_however_long_it_reads(
    client: Client, hand: Hand, watch: Watch
) -> None:
    other = await hand.take()
    others = client.job(other.keys.public_id).events()
    await anext(others)  # the process's subscriber connection is there
    claim = await hand.take()
    await hand.append(claim, started(1))
    await watch.calls()

    events = client.job(claim.keys.public_id).events()
    assert [(await anext(events)).id for _ in range(2)] == ["0-1", "1-0"]
    assert names(await watch.calls()) == ["SUBSCRIBE", "XRANGE", "GET"]

    for number in range(1, 20):
        await hand.append(claim, chunk(1, number))
        assert (await anext(events)).id == f"1-{number}"
    await hand.complete(claim, "x" * 19, Cursor(1, 20))
    assert isinstance(await anext(events), Completed)
    with pytest.raises(StopAsyncIteration):
        await anext(events)
    own = [name for name in names(await watch.calls()) if name not in ("append", "finish")]
    assert own == ["UNSUBSCRIBE"]
    await others.aclose()


@pytest.mark.parametrize("has_history", [False, True])
async def test_a_finished_job_is_read_in_one_round_trip(
    client: Client, hand: Hand, watch: Watch, *, has_history: bool
) -> None:
    claim = await hand.take()
    await hand.append(claim, started(1), chunk(1, 1))
    kept = history_of([started(1), chunk(1, 1)]) if has_history else UNSET
    await hand.complete(claim, "x", Cursor(1, 2), history=kept)
    async for _ in client.job(claim.keys.public_id).events():  # so that a subscriber is there
        pass
    await watch.calls()
    events = [event async for event in client.job(claim.keys.public_id).events()]
    assert isinstance(events[-1], ev.Completed)
    assert names(await watch.calls()) == ["SUBSCRIBE", "XRANGE", "GET", "UNSUBSCRIBE"]
