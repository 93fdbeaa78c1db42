"""An upstream's limits, asked and told by hand: one script call each, as a worker would."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple, cast

from redis.asyncio import Redis

from darkq.protocol.job import Priority
from darkq.protocol.keys import PRIORITIES, JobKeys, LimitKeys
from darkq.redis import scripts
from darkq.redis.scripts import Answer, CallReport, CallWord, Limits, Question, Turn

SECOND = 1000

GO = Answer("go")
PROBE = Answer("probe")


class Asker(NamedTuple):
    """A job that asks; `attempt` makes its call another one."""

    keys: JobKeys
    place_ms: float
    priority: Priority = "interactive"
    attempt: int = 1

    @property
    def call(self) -> str:
        return f"{self.keys.arq_id}:{self.attempt}"


class Door:
    """The limits of one upstream; times in ms."""

    def __init__(
        self,
        redis: Redis,
        *windows: tuple[int, int],
        concurrency: int = 0,
        lease_ms: int = 15 * SECOND,
        horizon_ms: int = 24 * 3600 * SECOND,
        cooldown_ms: int = 5 * SECOND,
        cooldown_max_ms: int = 40 * SECOND,
    ) -> None:
        self.keys = LimitKeys.of_upstream("test")
        self.called: list[tuple[str, int, float]] = []
        self.shut = False
        self._redis = redis
        self._limits = Limits(
            concurrency, lease_ms, horizon_ms, cooldown_ms, cooldown_max_ms, windows
        )
        self._places = itertools.count(1_700_000_000_000)

    def job(self, priority: Priority = "interactive") -> Asker:
        """Make a job that came after all others."""
        return Asker(JobKeys.new(0), float(next(self._places)), priority)

    async def ask(self, *jobs: Asker) -> list[Answer]:
        """Ask for several jobs in one call."""
        questions = [
            Question(job.call, job.keys.arq_id, PRIORITIES.index(job.priority), job.place_ms)
            for job in jobs
        ]
        shut, answers, turns = await scripts.limit_admit(
            self._redis, self.keys, self._limits, questions
        )
        self._take_in(shut, turns)
        return answers

    async def ask_one(self, job: Asker) -> Answer:
        (answer,) = await self.ask(job)
        return answer

    async def tell(self, job: Asker, word: CallWord, argument: int = 0) -> None:
        """Say how a call stands."""
        await self._report(CallReport(job.call, word, argument))

    async def tell_of(self, job: Asker, word: CallWord) -> None:
        """Say what has become of a job that waits."""
        await self._report(CallReport(job.keys.arq_id, word))

    async def beat(self) -> None:
        """Tell nothing, and hear what there is."""
        await self._report()

    async def now_ms(self) -> float:
        seconds, microseconds = await self._redis.time()
        return float(seconds * 1000 + microseconds / 1000)

    async def let_pass(self, ms: float) -> None:
        """Make time pass for the scripts: every time that they have noted is so much earlier."""
        keys, redis = self.keys, cast(Any, self._redis)
        for name in (keys.grants, keys.places, keys.due):
            for member, score in await redis.zrange(name, 0, -1, withscores=True):
                await redis.zadd(name, {member: score - ms})
        for field, value in (await redis.hgetall(keys.breaker)).items():
            if field in (b"open_until", b"probe_until", b"blocked_until"):
                await redis.hset(keys.breaker, field, f"{float(value) - ms:.3f}")
        if heard := await redis.get(keys.heard):
            earlier = " ".join(f"{max(0.0, float(each) - ms):.3f}" for each in heard.split())
            await redis.set(keys.heard, earlier, keepttl=True)

    def was_called(self) -> list[str]:
        """The jobs that were called with the last reply."""
        return [arq_id for arq_id, _, _ in self.called]

    async def _report(self, *reports: CallReport) -> None:
        self._take_in(*await scripts.limit_report(self._redis, self.keys, self._limits, reports))

    def _take_in(self, shut: bool, turns: list[Turn]) -> None:
        self.shut = shut
        self.called = [(arq_id.decode(), number, float(place)) for arq_id, number, place in turns]


async def admitted(door: Door, job: Asker) -> bool:
    """Ask for one job, and return whether its call may begin."""
    return (await door.ask_one(job)).word != "wait"


async def turns_s(door: Door, answers: list[Answer]) -> list[float]:
    """How long each has to wait, to the nearest ten seconds; 0 for those who may go."""
    now_ms = await door.now_ms()
    waits_ms = [max(0, answer.turn_ms - now_ms) for answer in answers]
    return [round(wait_ms / (10 * SECOND)) * 10 for wait_ms in waits_ms]
