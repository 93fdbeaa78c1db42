"""Group commit, against a real server that is sometimes slow, away or forgetful."""

# mypy: disable-error-code="misc"

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from redis.asyncio import Redis

from darkq import Client, Settings
from darkq.event import Chunk, Completed, Queued, Started, decode
from darkq.event import encode as encode_event
from darkq.protocol.keys import JobKeys
from darkq.protocol.record import Details, ResultRecord, encode
from darkq.redis.servers import servers_of
from darkq_worker.attempts.settlement import Finish
from darkq_worker.leases import Claim, Leases
from darkq_worker.pieces import assemble
from darkq_worker.writing.attempt_log import AttemptLog, Entry
from darkq_worker.writing.writer import Writer
from integration.model.faulty_writer import Faults, FaultyWriter
from support.servers import Server
from support.waiting import wait_until

MakeSettings = Callable[..., Settings]


@pytest.fixture
async def writer(make_settings: MakeSettings) -> AsyncIterator[Writer]:
    settings = make_settings(redis_timeout_s=0.5, worker_buffer_chars=1024)
    writer = Writer(servers_of(settings), settings)
    task = asyncio.create_task(writer.run())
    yield writer
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


@pytest.fixture
async def claim(client: Client, redis: Redis) -> Claim:
    """A job that has been claimed."""
    await client.enqueue("prompt")
    leases = Leases(redis, "tester", lease_s=60, job_ttl_s=600)
    ((claim,), _) = await leases.claim(0, slots=1, bulk_slots=0)
    return claim


def open_log(writer: Writer, claim: Claim, lost: list[str] | None = None) -> AttemptLog:
    """Begin the claim's log; `lost` hears when it is lost."""
    heard = [] if lost is None else lost
    log = writer.open(claim.keys, claim.attempt, claim.token, on_lost=lambda: heard.append("lost"))
    log.start(model="m", upstream="u", at_ms=1)
    return log


async def chunks_in(redis: Redis, keys: JobKeys) -> list[Chunk]:
    events = [decode(fields[b"e"]) for _, fields in await redis.xrange(keys.events)]
    return [event for event in events if isinstance(event, Chunk)]


async def finish(writer: Writer, claim: Claim, log: AttemptLog) -> bool:
    pieces, cursor = log.close()
    record = ResultRecord(
        t=claim.attempt, et=1, s=True, r=assemble(pieces)[0], st=1, ft=1, q=claim.queue,
        id=claim.keys.arq_id, d=Details(outcome="completed"),
    )  # fmt: skip
    event = Completed(id=str(cursor), at_ms=1)
    entry = Entry(event.id, encode_event(event))
    return await writer.settle(Finish(claim, log, entry, encode(record), result_ttl_s=60))


async def commands(redis: Redis) -> int:
    """How many commands the server has been sent, without those inside scripts."""
    stats = await redis.info("commandstats")
    return int(stats.get("cmdstat_evalsha", {"calls": 0})["calls"])


async def test_idle_one_chunk_is_one_event_and_one_call(
    writer: Writer, claim: Claim, redis: Redis
) -> None:
    log = open_log(writer, claim)
    await wait_until("started", lambda: redis.xlen(claim.keys.events))
    for n in range(5):
        await wait_until("the log to be at rest", lambda: not log.has_work)
        before = await commands(redis)
        log.add(f"word {n} ")
        await wait_until("the flush", lambda: not log.has_work)
        assert await commands(redis) - before == 1
    assert [chunk.merged for chunk in await chunks_in(redis, claim.keys)] == [1] * 5


async def test_waiting_text_is_flushed_as_one_event(
    writer: Writer, claim: Claim, redis: Redis
) -> None:
    log = open_log(writer, claim)
    for n in range(100):
        log.add(f"{n} ")
    await wait_until("the flush", lambda: not log.has_work)
    (chunk,) = await chunks_in(redis, claim.keys)
    assert chunk.merged == log.chunks == 100
    assert chunk.text == "".join(f"{n} " for n in range(100))


async def test_an_event_has_a_bounded_size(writer: Writer, claim: Claim, redis: Redis) -> None:
    log = open_log(writer, claim)
    piece = "x" * (Settings().worker_max_event_chars // 3)
    for _ in range(7):
        log.add(piece)
    await wait_until("the flushes", lambda: not log.has_work)
    assert [chunk.merged for chunk in await chunks_in(redis, claim.keys)] == [3, 3, 1]


async def test_many_logs_share_a_flush(writer: Writer, client: Client, redis: Redis) -> None:
    await client.enqueue_many(["prompt"] * 50)
    leases = Leases(redis, "tester", lease_s=60, job_ttl_s=600)
    claims, _ = await leases.claim(0, slots=50, bulk_slots=0)
    logs = [open_log(writer, claim) for claim in claims]
    await wait_until("started", lambda: not any(log.has_work for log in logs))
    before = await commands(redis)
    for log in logs:
        log.add("word")
    await wait_until("the flush", lambda: not any(log.has_work for log in logs))
    assert await commands(redis) - before == 1
    for claim in claims:
        assert [chunk.text for chunk in await chunks_in(redis, claim.keys)] == ["word"]


async def test_frozen_redis_pauses_reading_and_loses_nothing(
    writer: Writer, claim: Claim, redis: Redis, redis_server: Server
) -> None:
    """Red when `_resume` does not ask the logs where they stand: the flush before the freeze
    may or may not have arrived."""
    log = open_log(writer, claim)
    await wait_until("started", lambda: not log.has_work)
    assert redis_server.process is not None
    redis_server.process.send_signal(signal.SIGSTOP)
    try:
        written = 0
        while not writer.budget.exhausted:
            log.add("0123456789")
            written += 1
            await asyncio.sleep(0)
        assert written == 103, "the buffer holds 1,024 characters and no more"
        waiting = asyncio.create_task(writer.budget.room())
        await asyncio.sleep(1.2)  # past two socket timeouts: the fault itself
        assert not waiting.done()
    finally:
        redis_server.process.send_signal(signal.SIGCONT)
    async with asyncio.timeout(10):
        await waiting
    assert await finish(writer, claim, log)
    chunks = await chunks_in(redis, claim.keys)
    assert "".join(chunk.text for chunk in chunks) == "0123456789" * 103
    assert [chunk.cursor.seq for chunk in chunks] == list(range(1, len(chunks) + 1))


async def test_events_that_redis_lost_are_sent_again(
    writer: Writer, claim: Claim, redis: Redis
) -> None:
    """As after a restart with `appendfsync everysec`. The events keep their ids and content."""
    log = open_log(writer, claim)
    for n in range(3):
        log.add(f"early {n} ")
        await wait_until("the flush", lambda: not log.has_work)
    older = await redis.dump(claim.keys.events)
    for n in range(3):
        log.add(f"late {n} ")
        await wait_until("the flush", lambda: not log.has_work)
    newer = await redis.xrange(claim.keys.events)
    await redis.restore(claim.keys.events, 60_000, older, replace=True)
    await redis.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    log.add("after ")
    await wait_until("the flush", lambda: not log.has_work)
    assert (await redis.xrange(claim.keys.events))[: len(newer)] == newer
    assert await finish(writer, claim, log)
    text = "".join(chunk.text for chunk in await chunks_in(redis, claim.keys))
    assert text == "early 0 early 1 early 2 late 0 late 1 late 2 after "


async def become_another_run(redis: Redis, claim: Claim) -> list[Any]:
    """Change the data as a failover may, and cut all connections; return the log's entries.

    The server that takes over gave the attempt to another worker, which has died since.
    """
    await redis.delete(claim.keys.events, claim.keys.in_progress)
    queued = Queued(id="0-1", at_ms=1)
    begun = Started(id="1-0", attempt=1, model="m", upstream="u", at_ms=2)
    for event in (queued, begun, Chunk(id="1-1", text="of another run", merged=1)):
        await redis.xadd(claim.keys.events, {"e": encode_event(event)}, id=event.id)
    await redis.expire(claim.keys.events, 60)
    await redis.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    return list(await redis.xrange(claim.keys.events))


async def test_log_of_another_run_with_the_same_number_is_not_changed(
    writer: Writer, claim: Claim, redis: Redis
) -> None:
    """Red when `go_on` does not compare what began the attempt: two texts are joined."""
    lost: list[str] = []
    log = open_log(writer, claim, lost)
    for n in range(3):
        log.add(f"{n} ")
        await wait_until("the flush", lambda: not log.has_work)
    theirs = await become_another_run(redis, claim)
    log.add("late")
    await wait_until("the loss", lambda: lost)
    assert await redis.xrange(claim.keys.events) == theirs


async def test_waiting_settlement_does_not_end_another_run_with_the_same_number(
    writer: Writer, claim: Claim, redis: Redis
) -> None:
    """Red when the settlement of such a log is sent: its result gets another run's text."""
    log = open_log(writer, claim)
    log.add("all of it")
    await wait_until("the flush", lambda: not log.has_work)
    theirs = await become_another_run(redis, claim)
    assert not await finish(writer, claim, log)
    assert await redis.xrange(claim.keys.events) == theirs
    assert not await redis.exists(claim.keys.result)


async def test_writer_loads_scripts_into_a_new_server(
    writer: Writer, claim: Claim, redis: Redis
) -> None:
    log = open_log(writer, claim)
    await wait_until("started", lambda: not log.has_work)
    await redis.script_flush()
    log.add("word")
    await wait_until("the flush", lambda: not log.has_work)
    assert [chunk.text for chunk in await chunks_in(redis, claim.keys)] == ["word"]


async def test_superseded_attempt_is_stopped_and_frees_its_buffer(
    writer: Writer, claim: Claim, redis: Redis
) -> None:
    lost: list[str] = []
    log = open_log(writer, claim, lost)
    await wait_until("started", lambda: not log.has_work)
    await redis.xadd(claim.keys.events, {"e": "another attempt began"}, id="2-0")
    log.add("x" * 2000)
    assert exhausted(writer)
    await wait_until("the refusal", lambda: lost)
    assert not exhausted(writer)
    assert not await chunks_in_or_none(redis, claim)


def exhausted(writer: Writer) -> bool:
    return writer.budget.exhausted


async def chunks_in_or_none(redis: Redis, claim: Claim) -> list[Any]:
    entries = await redis.xrange(claim.keys.events)
    return [id_ for id_, _ in entries if id_ not in (b"0-1", b"1-0", b"2-0")]


async def test_settlement_during_a_flush_is_sent_after_it(
    writer: Writer, client: Client, redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """Red when a closed log still counts as having work: its last chunk would go twice."""
    await client.enqueue_many(["prompt"] * 30)
    leases = Leases(redis, "tester", lease_s=60, job_ttl_s=600)
    claims, _ = await leases.claim(0, slots=30, bulk_slots=0)
    for steps, claim in enumerate(claims):
        log = open_log(writer, claim)
        log.add("early ")
        for _ in range(steps):  # leave the flush at each of its awaits
            await asyncio.sleep(0)
        log.add("late")
        assert await finish(writer, claim, log)
        assert "".join(chunk.text for chunk in await chunks_in(redis, claim.keys)) == "early late"
    assert not [record for record in caplog.records if record.name == "darkq.worker.writer"]


async def test_settlement_with_a_foreign_token_changes_nothing(
    writer: Writer, claim: Claim, redis: Redis
) -> None:
    log = open_log(writer, claim)
    log.add("word")
    await wait_until("the flush", lambda: not log.has_work)
    await redis.set(claim.keys.in_progress, "somebody:2", px=60_000)
    assert not await finish(writer, claim, log)
    assert not await redis.exists(claim.keys.result)


@asynccontextmanager
async def lingering(make_settings: MakeSettings, linger_s: float) -> AsyncIterator[Writer]:
    settings = make_settings(worker_max_event_chars=8)
    settings = settings.model_copy(update={"worker_linger_s": linger_s})  # may be above a second
    writer = Writer(servers_of(settings), settings)
    task = asyncio.create_task(writer.run())
    yield writer
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def test_text_within_the_linger_time_shares_a_flush(
    make_settings: MakeSettings, claim: Claim, redis: Redis
) -> None:
    async with lingering(make_settings, 0.2) as writer:
        log = open_log(writer, claim)
        await wait_until("started", lambda: not log.has_work)
        before = await commands(redis)
        for n in range(4):
            log.add(f"{n} ")
            await asyncio.sleep(0.01)
        await wait_until("the flush", lambda: not log.has_work)
        assert await commands(redis) - before == 1
        assert [(c.text, c.merged) for c in await chunks_in(redis, claim.keys)] == [("0 1 2 3 ", 4)]


async def test_max_event_chars_bounds_merged_text(
    make_settings: MakeSettings, claim: Claim, redis: Redis
) -> None:
    async with lingering(make_settings, 0.01) as writer:
        log = open_log(writer, claim)
        for text in ("12345", "678", "9", "a text longer than that", "b"):
            log.add(text)
        await wait_until("the flushes", lambda: not log.has_work)
        merged = [(c.text, c.merged) for c in await chunks_in(redis, claim.keys)]
        assert merged == [("12345678", 2), ("9", 1), ("a text longer than that", 1), ("b", 1)]


async def test_settlement_is_sent_without_linger(
    make_settings: MakeSettings, claim: Claim, redis: Redis
) -> None:
    """Red when `settle` waits for a flush that lingers: here, for longer than the test may take."""
    async with lingering(make_settings, 3600) as writer:
        log = open_log(writer, claim)
        await wait_until("started", lambda: not log.has_work)
        log.add("word")
        assert await finish(writer, claim, log)
        assert [chunk.text for chunk in await chunks_in(redis, claim.keys)] == ["word"]


async def test_settlement_without_started_counts_if_its_reply_is_lost(
    make_settings: MakeSettings, claim: Claim, redis: Redis
) -> None:
    """Red when our own end, which stands where `started` would, is taken for another run's."""
    faults = Faults()
    writer = FaultyWriter(make_settings(), faults)
    task = asyncio.create_task(writer.run())
    log = writer.open(claim.keys, claim.attempt, claim.token, on_lost=lambda: None)
    faults.fault = "reply lost"
    assert await finish(writer, claim, log)
    assert faults.replies_lost == 1
    ids = [entry_id for entry_id, _ in await redis.xrange(claim.keys.events)]
    assert ids == [b"0-1", b"1-0"]
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
