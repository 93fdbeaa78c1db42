"""`limit_admit.lua`: which jobs may call now, and the turns of the others."""

# mypy: disable-error-code="misc"

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from support.door import GO, SECOND, Door, admitted, turns_s


class TestWindows:
    async def test_each_job_gets_the_turn_at_which_all_windows_have_room(
        self, redis: Redis
    ) -> None:
        """Red when a turn looks at one window alone, or not at those who wait before."""
        door = Door(redis, (2, 60 * SECOND), (3, 3600 * SECOND))
        answers = await door.ask(*(door.job() for _ in range(8)))
        assert await turns_s(door, answers) == [0, 0, 60, 3600, 3600, 3600, 7200, 7200]
        assert [answer.word for answer in answers[:3]] == ["go", "go", "wait"]

    async def test_turns_at_the_same_time_keep_the_order(self, redis: Redis) -> None:
        door = Door(redis, (2, 60 * SECOND))
        answers = await door.ask(*(door.job() for _ in range(6)))
        turns = [answer.turn_ms for answer in answers[2:]]
        assert turns == sorted(set(turns))

    @pytest.mark.parametrize("limits", [([(2, 60 * SECOND)], 0), ([], 2)])
    async def test_a_question_asked_twice_is_one_call(
        self, redis: Redis, limits: tuple[list[tuple[int, int]], int]
    ) -> None:
        """A reply may be lost. Red without either half of `is_granted`."""
        windows, concurrency = limits
        door = Door(redis, *windows, concurrency=concurrency)
        job = door.job()
        assert await door.ask(job, job) == [GO, GO]
        assert await door.ask(job, door.job()) == [GO, GO]
        assert not await admitted(door, door.job())

    async def test_a_call_counts_whatever_becomes_of_it(self, redis: Redis) -> None:
        door = Door(redis, (1, 60 * SECOND))
        job = door.job()
        await door.ask(job)
        await door.tell(job, "failed")
        assert not await admitted(door, door.job())

    async def test_a_call_counts_from_when_it_has_surely_arrived(self, redis: Redis) -> None:
        """The service counts arrivals, and the way there may be slow.

        Red when a grant is stamped with the time of the question.
        """
        door = Door(redis, (1, 240 * SECOND), lease_ms=600 * SECOND)
        first, second = door.job(), door.job()
        await door.ask(first)
        await door.let_pass(250 * SECOND)
        assert not await admitted(door, second)
        await door.tell(first, "answered")
        assert not await admitted(door, second)
        await door.let_pass(200 * SECOND)
        assert not await admitted(door, second)
        await door.let_pass(50 * SECOND)
        assert await admitted(door, second)

    async def test_a_call_of_a_dead_worker_has_arrived_by_the_end_of_its_lease(
        self, redis: Redis
    ) -> None:
        door = Door(redis, (1, 240 * SECOND), lease_ms=600 * SECOND)
        dead, waiting = door.job(), door.job()
        await door.ask(dead)
        for _ in range(3):
            await door.let_pass(250 * SECOND)
            assert not await admitted(door, waiting)
        await door.let_pass(100 * SECOND)
        assert await admitted(door, waiting)

    async def test_a_call_that_goes_on_unanswered_keeps_counting(self, redis: Redis) -> None:
        """Red when `calling` does not renew the grant."""
        door = Door(redis, (1, 60 * SECOND), lease_ms=600 * SECOND)
        job, other = door.job(), door.job()
        await door.ask(job)
        for _ in range(4):
            await door.let_pass(250 * SECOND)
            await door.tell(job, "calling")
            assert not await admitted(door, other)

    async def test_nobody_is_put_off_for_longer_than_the_horizon(self, redis: Redis) -> None:
        door = Door(redis, (1, 3600 * SECOND), horizon_ms=60 * SECOND)
        answers = await door.ask(*(door.job() for _ in range(4)))
        assert await turns_s(door, answers) == [0, 60, 60, 60]

    async def test_a_limit_that_was_lowered_holds_at_once(self, redis: Redis) -> None:
        wide = Door(redis, (4, 60 * SECOND))
        await wide.ask(*(wide.job() for _ in range(4)))
        narrow = Door(redis, (2, 60 * SECOND))
        answers = await narrow.ask(*(narrow.job() for _ in range(3)))
        assert await turns_s(narrow, answers) == [60, 60, 120]


class TestOrder:
    async def test_nobody_overtakes_who_waits(self, redis: Redis) -> None:
        """Red when `limit_admit` looks at the room alone."""
        door = Door(redis, concurrency=1)
        running, first, later = door.job(), door.job(), door.job()
        await door.ask(running, first)
        await door.tell(running, "left")
        assert not await admitted(door, later)
        assert await admitted(door, first)

    async def test_who_asks_first_may_have_come_last(self, redis: Redis) -> None:
        door = Door(redis, concurrency=1)
        running, first, later = door.job(), door.job(), door.job()
        await door.ask(running, later)
        await door.ask(first)
        await door.tell(running, "left")
        assert door.was_called() == [first.keys.arq_id]
        assert not await admitted(door, later)
        assert await admitted(door, first)

    async def test_a_job_comes_back_with_the_place_it_had(self, redis: Redis) -> None:
        """Its score in the queue is another by then."""
        door = Door(redis, concurrency=1)
        running, first, later = door.job(), door.job(), door.job()
        await door.ask(running, first, later)
        back = first._replace(attempt=2, place_ms=door.job().place_ms)
        await door.tell(running, "left")
        assert await admitted(door, back)

    async def test_interactive_jobs_do_not_stand_behind_bulk(self, redis: Redis) -> None:
        """Red when the waiting are in order of their places alone."""
        door = Door(redis, (1, 60 * SECOND))
        bulk = [door.job("bulk") for _ in range(3)]
        await door.ask(*bulk)
        answers = await door.ask(door.job(), door.job("bulk"))
        assert await turns_s(door, answers) == [60, 240]

    async def test_who_does_not_come_is_waited_for_no_longer_than_a_lease(
        self, redis: Redis
    ) -> None:
        """A job that was cancelled meanwhile, say. Red when `late` is kept."""
        door = Door(redis, concurrency=1, lease_ms=600 * SECOND)
        running, gone, next_one = door.job(), door.job(), door.job()
        await door.ask(running, gone, next_one)
        await door.tell(running, "left")
        assert door.was_called() == [gone.keys.arq_id]
        await door.let_pass(500 * SECOND)
        assert not await admitted(door, next_one)
        await door.let_pass(110 * SECOND)
        assert await admitted(door, next_one)
