"""How counts reach Redis: once each, whatever is lost on the way, and seldom."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path

import pytest
from redis.asyncio import Redis

from darkq import Settings
from darkq import event as ev
from darkq.operate.stats import Report, add, read_stats
from darkq.protocol.keys import STATS, WorkerKeys
from darkq.telemetry.metrics import (
    BOUNDS_S,
    CHUNK_RELAY,
    CHUNKS,
    CODES,
    LEASES_LOST,
    MEASURES,
    PICKUP,
    Tally,
    read_numbers,
    write_field,
)
from darkq_worker import main as whole_worker
from darkq_worker.attempts.settlement import Finish
from darkq_worker.attempts.telemetry import WorkerMetrics
from darkq_worker.upstreams.base import UpstreamError
from darkq_worker.writing.attempt_log import Budget, Entry
from integration.budget.conftest import Watch, names, watch
from integration.budget.test_budget import writing
from support.by_hand import Hand
from support.repository import files_of
from support.servers import binaries, running

__all__ = ["watch"]

WORKER = Path(__file__).parents[3] / "worker/darkq_worker"


def test_a_time_falls_into_the_first_bucket_that_holds_it() -> None:
    tally = Tally()
    for seconds in (-1.0, 0.0, BOUNDS_S[0], BOUNDS_S[0] * 1.01, BOUNDS_S[-1], 1e9, float("inf")):
        tally.observe(PICKUP, seconds, "bulk")
    (labels,), (times,) = zip(*PICKUP.times(tally.numbers).items(), strict=True)
    assert labels == ("bulk",)
    assert times.buckets == (3, 1, *[0] * (len(BOUNDS_S) - 3), 1, 2)
    assert times.sum_s >= 2e8


def test_what_is_written_is_read_again() -> None:
    tally = Tally()
    tally.count(LEASES_LOST, by=3)
    tally.count(CHUNKS, "vllm", by=2)
    tally.observe(PICKUP, 0.75, "interactive")
    fields = {write_field(field).encode(): str(n).encode() for field, n in tally.numbers.items()}
    assert read_numbers(fields.items()) == tally.take()
    assert tally.numbers == {}


def test_buckets_rise_and_names_are_told_apart() -> None:
    assert list(BOUNDS_S) == sorted(set(BOUNDS_S))
    assert len({measure.name for measure in MEASURES}) == len(MEASURES)


def test_every_code_of_a_worker_is_a_label() -> None:
    """Those of upstreams' errors, and those that `Failed("…")` names."""
    assert whole_worker  # with which all errors are imported
    known = codes_of(UpstreamError)
    for path in files_of(WORKER, "*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("oc.Failed", "Failed"):
                first = node.args[0]
                if isinstance(first, ast.Constant):
                    known.add(str(first.value))
    assert known == CODES - {"other", "worker_shutdown"}


def codes_of(kind: type[UpstreamError]) -> set[str]:
    """The codes of a class of errors and of all below it, in the worker's own modules."""
    codes = {kind.code} if kind.__module__.startswith("darkq_worker.") else set()
    return codes.union(*map(codes_of, kind.__subclasses__()))


@pytest.mark.parametrize("ours", [True, False])
async def test_chunks_that_go_with_the_end_count_too_if_it_is_ours(
    redis: Redis, make_settings: Callable[..., Settings], ours: bool
) -> None:
    hand = Hand(redis)
    claim = await hand.take()
    async with writing(make_settings(worker_linger_s=1)) as writer:
        log = writer.open(claim.keys, claim.attempt, claim.token, on_lost=lambda: None)
        log.start(model="m", upstream="u", at_ms=1)
        log.add("one ")
        log.add("event")
        _, cursor = log.close()
        if not ours:
            await redis.set(claim.keys.retry, 9, ex=60)
        end = ev.Completed(id=str(cursor), at_ms=1)
        finish = Finish(claim, log, Entry(end.id, ev.encode(end)), b"{}", result_ttl_s=60)
        assert await writer.settle(finish) == ours
        assert CHUNKS.counts(writer.tally.numbers) == ({("u",): 2} if ours else {})
        relays = CHUNK_RELAY.times(writer.tally.numbers)
        assert [sum(times.buckets) for times in relays.values()] == ([1] if ours else [])


async def test_a_report_that_is_sent_again_counts_once(redis: Redis) -> None:
    tally = Tally()
    tally.count(CHUNKS, "a", by=5)
    tally.observe(PICKUP, 1.0, "bulk")
    first = Report(1, tally.take(), 10, 100)
    for _ in range(3):
        await add(redis, "w", first)
    assert (await read_stats(redis)).numbers == first.numbers
    await add(redis, "w", Report(2, first.numbers, 0, 100))
    await add(redis, "other", first)
    stats = await read_stats(redis)
    assert stats.numbers == {field: 3 * number for field, number in first.numbers.items()}


async def test_a_reply_that_is_lost_loses_nothing_and_doubles_nothing(redis: Redis) -> None:
    """The server takes the report; its answer does not come."""
    with running(binaries()["valkey"]) as server:
        far = Redis.from_url(server.url, retry_on_timeout=False)
        tally = Tally()
        counting = WorkerMetrics(far, "w", tally, Budget(100))
        tally.count(CHUNKS, "a", by=5)
        server.stop()
        await counting.send()
        tally.count(CHUNKS, "a", by=2)
        await counting.send()
        server.start()
        await counting.send()
        assert CHUNKS.counts((await read_stats(far)).numbers) == {("a",): 5}, "as it was, first"
        await counting.send()
        assert CHUNKS.counts((await read_stats(far)).numbers) == {("a",): 7}
        await far.aclose()

    class Deaf(Redis):
        async def execute_command(self, *args: object, **options: object) -> object:
            await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]
            raise ConnectionError("the reply is lost")

    tally.count(CHUNKS, "b", by=3)
    pool = redis.connection_pool
    counting = WorkerMetrics(Deaf(connection_pool=pool), "w", tally, Budget(100))
    await counting.send()
    counting._redis = redis
    await counting.send()
    assert CHUNKS.counts((await read_stats(redis)).numbers) == {("b",): 3}


async def test_a_number_of_somebody_else_in_a_fields_place_stops_no_other(redis: Redis) -> None:
    await redis.execute_command("HSET", STATS, "darkq_chunks:a", "none")
    tally = Tally()
    for upstream in ("a", "b"):
        tally.count(CHUNKS, upstream)
    await add(redis, "w", Report(1, tally.take(), 0, 1))
    assert CHUNKS.counts((await read_stats(redis)).numbers) == {("b",): 1}


async def test_counts_outlive_workers_for_a_month_and_what_one_told_for_a_day(redis: Redis) -> None:
    await add(redis, "w", Report(1, {("darkq_leases_lost", (), 0): 1}, 0, 1))
    assert 29 * 86400 < await redis.ttl(STATS) <= 30 * 86400
    assert 23 * 3600 < await redis.ttl(WorkerKeys("w").stats) <= 86400


async def test_a_report_is_one_round_trip_and_none_when_there_is_nothing_to_tell(
    redis: Redis, watch: Watch
) -> None:
    tally, budget = Tally(), Budget(100)
    counting = WorkerMetrics(redis, "w", tally, budget)
    await counting.send()
    assert names(await watch.calls()) == []
    for number in range(10):
        tally.count(CHUNKS, f"u{number}")
    await counting.send()
    (call,) = await watch.calls()
    assert (call.name, call.inner["HINCRBY"]) == ("worker_count", 10)
    await counting.send()
    assert names(await watch.calls()) == []
    budget.spend(5)
    await counting.send()
    assert names(await watch.calls()) == ["worker_count"]
    assert (await read_stats(redis)).workers == 0


@pytest.mark.parametrize("chars", [0, 50, 500])
async def test_what_waits_in_a_worker_is_told(redis: Redis, chars: int) -> None:
    budget = Budget(100)
    budget.spend(chars)
    await WorkerMetrics(redis, "w", Tally(), budget).send()
    told = await redis.execute_command("HGET", WorkerKeys("w").stats, "buffer_chars")
    assert int(told or 0) == chars
