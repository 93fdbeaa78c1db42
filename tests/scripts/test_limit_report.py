"""`limit_report.lua`: places that become free, and the breaker."""

# mypy: disable-error-code="misc"

from __future__ import annotations

from redis.asyncio import Redis

from darkq.redis.scripts import CallWord
from support.door import GO, PROBE, SECOND, Asker, Door, admitted, turns_s


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
        """Red with `XX` in `renew` of limit_report.lua."""
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
        words: list[tuple[CallWord, int]] = [
            ("failed", 1), ("answered", 0), ("alive", 0), ("left", 0)
        ]  # fmt: skip
        for word, argument in words:
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
