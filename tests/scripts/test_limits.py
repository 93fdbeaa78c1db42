"""`admit.lua` and `report.lua`: windows, places, turns, the breaker.

Leases and windows are minutes, and `Door.let_pass` makes them pass: no test depends on how fast the
machine is.
"""

# mypy: disable-error-code="misc"

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from support.door import SECOND, Answer, Asker, Door

GO = Answer("go")
PROBE = Answer("probe")


async def admitted(door: Door, job: Asker) -> bool:
    return (await door.ask_one(job)).word != "wait"


async def turns_s(door: Door, answers: list[Answer]) -> list[float]:
    """How long each has to wait, to the nearest ten seconds; 0 for those who may go."""
    now_ms = await door.now_ms()
    waits_ms = [max(0, answer.turn_ms - now_ms) for answer in answers]
    return [round(wait_ms / (10 * SECOND)) * 10 for wait_ms in waits_ms]


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
        """Red when `admit` looks at the room alone."""
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


class TestPlaces:
    async def test_a_place_is_free_when_its_call_has_ended(self, redis: Redis) -> None:
        door = Door(redis, concurrency=2)
        jobs = [door.job() for _ in range(4)]
        answers = await door.ask(*jobs)
        assert [answer.word for answer in answers] == ["go", "go", "wait", "wait"]
        await door.tell(jobs[0], "answered")
        assert door.called == []
        await door.tell(jobs[0], "left")
        assert door.called == [(jobs[2].keys.arq_id, 0, jobs[2].place_ms)]
        answers = await door.ask(jobs[3], jobs[2])
        assert [answer.word for answer in answers] == ["wait", "go"]

    async def test_who_was_called_is_not_called_again_at_once(self, redis: Redis) -> None:
        door = Door(redis, concurrency=1)
        jobs = [door.job("bulk") for _ in range(2)]
        await door.ask(*jobs)
        await door.tell(jobs[0], "left")
        assert door.called == [(jobs[1].keys.arq_id, 1, jobs[1].place_ms)]
        await door.beat()
        assert door.called == []

    async def test_a_place_of_a_dead_worker_is_free_after_its_lease(self, redis: Redis) -> None:
        door = Door(redis, concurrency=1, lease_ms=600 * SECOND)
        dead, waiting = door.job(), door.job()
        assert await turns_s(door, await door.ask(dead, waiting)) == [0, 600]
        await door.let_pass(290 * SECOND)
        await door.beat()  # of another worker: it is no outage
        await door.let_pass(290 * SECOND)
        assert not await admitted(door, waiting)
        await door.let_pass(30 * SECOND)
        assert await admitted(door, waiting)

    async def test_a_beat_keeps_a_place(self, redis: Redis) -> None:
        door = Door(redis, concurrency=1, lease_ms=600 * SECOND)
        job, other = door.job(), door.job()
        await door.ask(job)
        for _ in range(4):
            await door.let_pass(250 * SECOND)
            await door.tell(job, "answering")
            assert not await admitted(door, other)

    async def test_a_beat_adds_again_what_redis_has_forgotten(self, redis: Redis) -> None:
        """Red with `XX` in `renew` of report.lua."""
        door = Door(redis, (3, 60 * SECOND), concurrency=1)
        job = door.job()
        await door.tell(job, "calling")
        assert not await admitted(door, door.job())
        await door.tell(job, "left")
        assert await redis.zcard(door.keys.grants) == 1, "it counts in the window too"

    async def test_a_forgotten_call_counts_from_its_answer(self, redis: Redis) -> None:
        """Red when `answering` does not restore the grant, or counts it from now."""
        door = Door(redis, (1, 60 * SECOND))
        await door.tell(door.job(), "answering", 20 * SECOND)
        assert await turns_s(door, await door.ask(door.job())) == [40]

    async def test_a_window_says_nothing_where_there_is_no_concurrency(self, redis: Redis) -> None:
        door = Door(redis, (2, 60 * SECOND))
        await door.tell(door.job(), "calling")
        assert await redis.exists(door.keys.places) == 0


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


class TestBreaker:
    async def test_it_opens_when_a_worker_says_so(self, redis: Redis) -> None:
        door = Door(redis, cooldown_ms=60 * SECOND)
        await door.tell(door.job(), "failed", 0)
        assert await admitted(door, door.job())
        await door.tell(door.job(), "failed", 1)
        assert door.shut
        assert await turns_s(door, await door.ask(door.job())) == [60]

    async def test_then_one_job_tries(self, redis: Redis) -> None:
        """Red without `probe_until` in `room`."""
        door = Door(redis, cooldown_ms=60 * SECOND, lease_ms=600 * SECOND)
        jobs = [door.job() for _ in range(4)]
        await door.tell(door.job(), "failed", 1)
        await door.ask(*jobs)
        await door.let_pass(70 * SECOND)
        assert await admitted(door, jobs[0])
        assert not any([await admitted(door, job) for job in jobs[1:]])
        assert await door.ask_one(jobs[0]) == PROBE, "asked twice, it is the same probe"

    async def test_anybody_may_try(self, redis: Redis) -> None:
        """Who waits first may have been run by a worker that does not know. Red in order."""
        door = Door(redis, cooldown_ms=60 * SECOND)
        await door.tell(door.job(), "failed", 1)
        await door.ask(door.job(), door.job())
        await door.let_pass(70 * SECOND)
        assert await admitted(door, door.job())

    async def test_an_answer_closes_it_and_calls_everybody(self, redis: Redis) -> None:
        door, jobs = await self.probing(redis)
        await door.tell(jobs[0], "answered")
        assert not door.shut
        assert door.was_called() == [job.keys.arq_id for job in jobs[1:]]
        assert await redis.exists(door.keys.waiting, door.keys.due) == 0
        assert await door.ask_one(door.job()) == GO

    async def test_a_refusal_closes_it_too(self, redis: Redis) -> None:
        door, jobs = await self.probing(redis)
        await door.tell(jobs[0], "alive")
        assert not door.shut

    async def test_a_failure_doubles_the_cooldown_up_to_a_bound(self, redis: Redis) -> None:
        door = Door(redis, cooldown_ms=40 * SECOND, cooldown_max_ms=100 * SECOND)
        await door.tell(door.job(), "failed", 1)
        for cooldown_ms in (80 * SECOND, 100 * SECOND, 100 * SECOND):
            probe = door.job()
            await door.let_pass(110 * SECOND)
            assert await admitted(door, probe)
            await door.tell(probe, "failed")
            assert await redis.hget(door.keys.breaker, "cooldown_ms") == b"%d" % cooldown_ms

    async def test_a_probe_that_tells_nothing_makes_room_for_another(self, redis: Redis) -> None:
        door, jobs = await self.probing(redis)
        await door.tell(jobs[0], "left")
        assert door.was_called() == [jobs[1].keys.arq_id]
        assert await door.ask_one(jobs[1]) == PROBE

    async def test_a_probe_whose_worker_died_does_too(self, redis: Redis) -> None:
        door, jobs = await self.probing(redis)
        await door.let_pass(500 * SECOND)
        assert not await admitted(door, jobs[1])
        await door.let_pass(110 * SECOND)
        assert await admitted(door, jobs[1])

    async def test_calls_from_before_do_not_move_it(self, redis: Redis) -> None:
        """Red when any failure re-opens, or any answer closes."""
        door, _ = await self.probing(redis)
        before = await redis.hgetall(door.keys.breaker)
        for word, argument in [("failed", 1), ("answered", 0), ("alive", 0), ("left", 0)]:
            await door.tell(door.job(), word, argument)
            assert await redis.hgetall(door.keys.breaker) == before

    @staticmethod
    async def probing(redis: Redis) -> tuple[Door, list[Asker]]:
        """An upstream whose breaker is half-open: the first of four jobs tries."""
        door = Door(redis, cooldown_ms=60 * SECOND, lease_ms=600 * SECOND)
        jobs = [door.job() for _ in range(4)]
        await door.tell(door.job(), "failed", 1)
        await door.let_pass(70 * SECOND)
        assert await admitted(door, jobs[0])
        await door.ask(*jobs[1:])
        return door, jobs


class TestTooManyRequests:
    async def test_it_keeps_everybody_away_for_a_window_then_for_a_longer_one(
        self, redis: Redis
    ) -> None:
        """Whose turn it is to count is the service's. Red without `breaches`."""
        door = Door(redis, (4, 60 * SECOND), (30, 1800 * SECOND), lease_ms=600 * SECOND)
        first, second = door.job(), door.job()
        await door.ask(first, second)
        await door.tell(first, "limited")
        assert door.shut
        assert await turns_s(door, await door.ask(door.job())) == [60]
        await door.tell(second, "limited")  # called before the block
        later = door.job()
        await door.let_pass(70 * SECOND)
        assert await admitted(door, later)
        await door.tell(later, "limited")
        assert await turns_s(door, await door.ask(door.job())) == [1800]

    async def test_an_answer_forgets_the_breach(self, redis: Redis) -> None:
        door = Door(redis, (4, 60 * SECOND), (30, 1800 * SECOND), lease_ms=600 * SECOND)
        first = door.job()
        await door.ask(first)
        await door.tell(first, "limited")
        later = door.job()
        await door.let_pass(70 * SECOND)
        assert await admitted(door, later)
        await door.tell(later, "answered")
        await door.tell(later, "limited")
        assert await turns_s(door, await door.ask(door.job())) == [60]

    async def test_what_the_service_asks_for_counts_when_it_is_more(self, redis: Redis) -> None:
        door = Door(redis, (4, 60 * SECOND))
        job = door.job()
        await door.ask(job)
        await door.tell(job, "limited", 90 * SECOND)
        assert await turns_s(door, await door.ask(door.job())) == [90]

    async def test_it_is_an_answer_to_a_probe(self, redis: Redis) -> None:
        door = Door(redis, cooldown_ms=60 * SECOND)
        job = door.job()
        await door.tell(door.job(), "failed", 1)
        await door.let_pass(70 * SECOND)
        assert await admitted(door, job)
        await door.tell(job, "limited", 60 * SECOND)
        assert await redis.hget(door.keys.breaker, "open_until") is None
        assert await turns_s(door, await door.ask(door.job())) == [60]


async def test_where_nothing_is_limited_nothing_is_kept(redis: Redis) -> None:
    door = Door(redis)
    job = door.job()
    assert await door.ask_one(job) == GO
    for word in ("answered", "answering", "left"):
        await door.tell(job, word)
    assert await redis.keys("*") == []
