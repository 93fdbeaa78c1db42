"""`limits.lua`: what both scripts of an upstream's limits share."""

# mypy: disable-error-code="misc"

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from support.door import SECOND, Door, admitted


class TestOutages:
    """No script runs for two leases, though the calls go on."""

    @pytest.mark.parametrize("limits", [([(1, 60 * SECOND)], 0), ([], 1)])
    async def test_nobody_is_admitted_before_calls_in_progress_are_known_again(
        self, redis: Redis, limits: tuple[list[tuple[int, int]], int]
    ) -> None:
        """Red without `no_call_until` in `room`: the second job is admitted beside the first."""
        windows, concurrency = limits
        door = Door(redis, *windows, concurrency=concurrency, lease_ms=600 * SECOND)
        running, waiting = door.job(), door.job()
        await door.ask(running, waiting)
        await door.let_pass(1200 * SECOND)
        assert not await admitted(door, waiting)
        await door.tell(running, "calling")
        for _ in range(4):
            await door.let_pass(150 * SECOND)
            assert not await admitted(door, waiting)
            await door.tell(running, "calling")
        await door.tell(running, "answered")
        await door.tell(running, "left")
        await door.let_pass(70 * SECOND)
        assert await admitted(door, waiting)

    async def test_without_calls_in_progress_there_is_no_respite(self, redis: Redis) -> None:
        """Red when every pause between calls is taken for an outage."""
        door = Door(redis, (9, 60 * SECOND), concurrency=1, lease_ms=600 * SECOND)
        before = door.job()
        await door.ask(before)
        await door.tell(before, "answered")
        await door.tell(before, "left")
        await door.let_pass(1200 * SECOND)
        assert await admitted(door, door.job())

    async def test_a_foreign_word_about_the_last_script_is_ignored(self, redis: Redis) -> None:
        door = Door(redis, concurrency=1)
        await redis.set(door.keys.heard, "1.2.3 yesterday", px=5000)
        assert await admitted(door, door.job())


class TestOldCalls:
    async def test_what_is_over_counts_no_more_and_is_dropped_a_thousand_at_a_time(
        self, redis: Redis
    ) -> None:
        """Red with ZREMRANGEBYSCORE, and where what is left of it takes room."""
        door = Door(redis, (2, 60 * SECOND), concurrency=2)
        old = {f"old {n}": n for n in range(2500)}
        await redis.zadd(door.keys.grants, old)
        await redis.zadd(door.keys.places, old)
        answers = await door.ask(*(door.job() for _ in range(3)))
        assert [answer.word for answer in answers] == ["go", "go", "wait"]
        assert [await redis.zcard(name) for name in door.keys[:2]] == [1502, 1502]
        await door.beat()
        await door.beat()
        assert [await redis.zcard(name) for name in door.keys[:2]] == [2, 2]


class TestLate:
    """Jobs that do not come when it is their turn."""

    async def test_a_job_that_comes_late_has_the_place_it_had(self, redis: Redis) -> None:
        """Red when a late job's rank is dropped, or not looked for when it comes."""
        door = Door(redis, concurrency=1, lease_ms=600 * SECOND)
        running, first, second = door.job(), door.job(), door.job()
        await door.ask(running, first, second)
        await door.tell(running, "left")
        assert door.was_called() == [first.keys.arq_id]
        await door.let_pass(610 * SECOND)
        await door.beat()
        assert await redis.zscore(door.keys.late, first.keys.arq_id) is not None
        assert await admitted(door, second), "it holds up no other job"
        younger = door.job()
        late = first._replace(attempt=2, place_ms=door.job().place_ms)
        await door.ask(younger, late)
        await door.tell(second, "left")
        assert not await admitted(door, younger)
        assert await admitted(door, late)
        assert await redis.exists(door.keys.late) == 0

    async def test_a_job_that_is_away_lets_others_pass_at_once(self, redis: Redis) -> None:
        door = Door(redis, concurrency=1)
        running, away, next_one = door.job(), door.job(), door.job()
        await door.ask(running, away, next_one)
        await door.tell(running, "left")
        await door.tell_of(away, "away")
        assert door.was_called() == [next_one.keys.arq_id]
        assert await admitted(door, next_one)

    async def test_a_job_that_is_gone_leaves_nothing(self, redis: Redis) -> None:
        door = Door(redis, concurrency=1)
        running, gone = door.job(), door.job()
        await door.ask(running, gone)
        await door.tell_of(gone, "gone")
        assert await redis.exists(door.keys.waiting, door.keys.due, door.keys.late) == 0

    async def test_the_late_are_bounded(self, redis: Redis) -> None:
        """Red without `MOST_LATE`."""
        door = Door(redis, concurrency=1)
        await redis.zadd(door.keys.late, {f"old {n}": n - 4e12 for n in range(10_000)})
        running, away = door.job(), door.job()
        await door.ask(running, away)
        await door.tell_of(away, "away")
        assert await redis.zcard(door.keys.late) == 10_000
        assert await redis.zscore(door.keys.late, "old 0") is None
