"""Days at a limited service, played in seconds: the real scripts, a clock that a test turns.

Jobs come, ask, are put off and come back; calls take their time to arrive, to be answered and to
end; workers die and jobs are cancelled. The service keeps its own book of arrivals.
"""

from __future__ import annotations

import heapq
import itertools
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from types import SimpleNamespace

import fakeredis
import pytest
from fakeredis import _helpers
from fakeredis._socket import _base
from fakeredis.aioredis import FakeRedis
from fakeredis.commands_mixins import server_mixin
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from darkq.redis.scripts import CallWord
from support.door import Asker, Door

DARKAI = ((4, 60_000), (30, 1_800_000), (80, 21_600_000))
LEASE_MS = 120_000
MAX_EVENTS = 5000
Windows = tuple[tuple[int, int], ...]
_order = itertools.count()


class Clock:
    """Says what time it is."""

    def __init__(self) -> None:
        self.now_ms = time.time() * 1000

    def time(self) -> float:
        return self.now_ms / 1000


@pytest.fixture(scope="module")
def clock() -> Iterator[Clock]:
    """The clock of the fake Redis."""
    clock = Clock()
    with pytest.MonkeyPatch.context() as patch:
        for module in (_base, server_mixin, _helpers):
            patch.setattr(module, "time", SimpleNamespace(time=clock.time, sleep=time.sleep))
        yield clock


class Day:
    """Plays jobs against a `Door`, event by event."""

    def __init__(
        self,
        clock: Clock,
        seed: int,
        windows: Windows,
        *,
        concurrency: int = 0,
        slowest_ms: float = 2000,
        lag_ms: float = 300,
        p_cancelled: float = 0.0,
        p_death: float = 0.0,
    ) -> None:
        self._redis = FakeRedis(server=fakeredis.FakeServer())
        self.door = Door(self._redis, *windows, concurrency=concurrency, lease_ms=LEASE_MS)
        self.arrivals_ms: list[float] = []
        self.admitted: list[Asker] = []
        self.asked: Counter[str] = Counter()
        self.running = 0
        self.most_running = 0
        self._clock = clock
        self._random = random.Random(seed)
        self._slowest_ms = slowest_ms
        self._lag_ms = lag_ms
        self._p_cancelled = p_cancelled
        self._p_death = p_death
        self._waiting: dict[str, Asker] = {}
        self._calls: dict[str, tuple[Asker, CallWord]] = {}
        self._future: list[tuple[float, int, Callable[[], Awaitable[None]]]] = []

    def at(self, ms: float, action: Callable[[], Awaitable[None]]) -> None:
        """Do something at a time."""
        heapq.heappush(self._future, (ms, next(_order), action))

    def after(self, ms: float, action: Callable[[], Awaitable[None]]) -> None:
        self.at(self._clock.now_ms + ms, action)

    async def play(self, *jobs: Asker) -> None:
        """Let these jobs ask, and go on until all have ended."""
        if jobs:
            await self.ask(*jobs)
        self.after(LEASE_MS / 4, self.beat)
        for _ in range(MAX_EVENTS):
            if not (self._waiting or self._calls):
                return
            self._clock.now_ms, _, action = heapq.heappop(self._future)
            await action()
        pytest.fail(f"{len(self._waiting)} jobs still wait")

    async def ask(self, *jobs: Asker) -> None:
        """Ask as one worker; also for those who are called by the reply."""
        answers = await self.door.ask(*jobs)
        for job, answer in zip(jobs, answers, strict=True):
            arq_id = job.keys.arq_id
            self.asked[arq_id] += 1
            if answer.word == "wait":
                self._waiting[arq_id] = job
                lag_ms = self._random.uniform(0, self._lag_ms)
                if self.asked[arq_id] == 1 and self._random.random() < self._p_cancelled:
                    self.after(lag_ms, lambda id_=arq_id: self.cancel(id_))  # type: ignore[misc]
                turn_ms = answer.turn_ms + lag_ms
                self.at(turn_ms, lambda job=job: self.come_back(job))  # type: ignore[misc]
            else:
                self._waiting.pop(arq_id, None)
                self.begin(job)
        await self.serve_called()

    async def come_back(self, job: Asker) -> None:
        if job.keys.arq_id in self._waiting:
            again = job._replace(attempt=job.attempt + 1)
            self._waiting[job.keys.arq_id] = again
            await self.ask(again)

    async def cancel(self, arq_id: str) -> None:
        self._waiting.pop(arq_id, None)

    def begin(self, job: Asker) -> None:
        """A call: to arrive, to be answered and to end, each in its time."""
        self.admitted.append(job)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        self._calls[job.call] = (job, "calling")
        arrival_ms = self._random.uniform(0, self._slowest_ms)
        answer_ms = arrival_ms + self._random.uniform(0, self._slowest_ms)
        self.after(arrival_ms, self.arrive)
        if self._random.random() < self._p_death:
            self.after(arrival_ms, lambda: self.die(job))
        else:
            self.after(answer_ms, lambda: self.answer(job))
            self.after(answer_ms + self._random.uniform(0, 5000), lambda: self.end(job))

    async def arrive(self) -> None:
        self.arrivals_ms.append(self._clock.now_ms)

    async def answer(self, job: Asker) -> None:
        self._calls[job.call] = (job, "answering")
        await self.door.tell(job, "answered")
        await self.serve_called()

    async def end(self, job: Asker) -> None:
        del self._calls[job.call]
        self.running -= 1
        await self.door.tell(job, "left")
        await self.serve_called()

    async def die(self, job: Asker) -> None:
        """Its worker tells nothing any more."""
        del self._calls[job.call]
        self.running -= 1

    async def beat(self) -> None:
        for job, word in list(self._calls.values()):
            await self.door.tell(job, word)
        await self.door.beat()
        await self.serve_called()
        self.after(LEASE_MS / 4, self.beat)

    async def serve_called(self) -> None:
        """Whoever was called comes back soon; for those who are gone, the next are called."""
        while called := self.door.was_called():
            gone = [arq_id for arq_id in called if arq_id not in self._waiting]
            for job in [self._waiting[arq_id] for arq_id in called if arq_id in self._waiting]:
                lag_ms = self._random.uniform(0, self._lag_ms)
                self.after(lag_ms, lambda job=job: self.come_back(job))  # type: ignore[misc]
            if not gone:
                return
            await self._redis.zrem(self.door.keys.waiting, *gone)
            await self._redis.zrem(self.door.keys.due, *gone)
            await self.door.beat()


def check_the_book(arrivals_ms: list[float], windows: Windows) -> None:
    """No window of the service ever held more than its count."""
    arrivals_ms = sorted(arrivals_ms)
    for count, length_ms in windows:
        for first, beyond in zip(arrivals_ms, arrivals_ms[count:], strict=False):
            assert beyond - first > length_ms - 0.001


@pytest.mark.slow
async def test_the_public_service_is_used_to_the_full_and_never_exceeded(clock: Clock) -> None:
    """Red when a grant counts from the question, or a window is left out of `room`."""
    day = Day(clock, 1, DARKAI, lag_ms=0)
    jobs = [day.door.job("bulk") for _ in range(170)]
    begun_ms = clock.now_ms
    await day.play(*jobs)
    check_the_book(day.arrivals_ms, DARKAI)
    assert day.admitted == sorted(day.admitted, key=lambda job: job.place_ms)
    assert len(day.admitted) == len(jobs)
    hours = (clock.now_ms - begun_ms) / 3_600_000
    assert 12 < hours < 12.4, "80 calls every 6 hours are allowed; 10 are left for the third"
    assert day.asked.total() / len(jobs) < 4


async def test_an_urgent_job_goes_next_and_the_others_keep_their_order(clock: Clock) -> None:
    day = Day(clock, 2, ((2, 60_000),), lag_ms=0)
    bulk = [day.door.job("bulk") for _ in range(20)]
    urgent = day.door.job("interactive")
    day.after(90_000, lambda: day.ask(urgent))
    await day.play(*bulk)
    order = [job.keys for job in day.admitted]
    assert order.index(urgent.keys) == 4, "two at once, two after a minute; then it was there"
    assert [keys for keys in order if keys != urgent.keys] == [job.keys for job in bulk]
    check_the_book(day.arrivals_ms, ((2, 60_000),))


async def test_slots_of_the_cancelled_are_not_lost(clock: Clock) -> None:
    """Red when nobody is called."""
    windows = ((2, 60_000),)
    day = Day(clock, 3, windows, p_cancelled=0.6)
    jobs = [day.door.job() for _ in range(60)]
    begun_ms = clock.now_ms
    await day.play(*jobs)
    check_the_book(day.arrivals_ms, windows)
    minutes = (clock.now_ms - begun_ms) / 60_000
    assert minutes < len(day.admitted) / 2 + 5, f"{len(day.admitted)} admitted in {minutes:.0f}"


@settings(max_examples=25, deadline=None, derandomize=True, phases=[Phase.generate])
@given(
    seed=st.integers(0, 2**32),
    windows=st.lists(
        st.tuples(st.integers(1, 6), st.integers(200, 60_000)), max_size=3, unique=True
    ),
    concurrency=st.integers(0, 3),
    slowest_ms=st.sampled_from([10.0, 1000.0, 20_000.0]),
    p_cancelled=st.sampled_from([0.0, 0.3]),
    p_death=st.sampled_from([0.0, 0.2]),
)
@pytest.mark.slow
async def test_whatever_happens_no_limit_is_exceeded_and_nobody_is_forgotten(
    clock: Clock,
    seed: int,
    windows: list[tuple[int, int]],
    concurrency: int,
    slowest_ms: float,
    p_cancelled: float,
    p_death: float,
) -> None:
    day = Day(
        clock,
        seed,
        tuple(windows),
        concurrency=concurrency,
        slowest_ms=slowest_ms,
        p_cancelled=p_cancelled,
        p_death=p_death,
    )
    jobs = [day.door.job() for _ in range(12)]
    later = [day.door.job("bulk" if n % 2 else "interactive") for n in range(12)]
    for n, job in enumerate(later):
        day.after(n * 700, lambda job=job: day.ask(job))  # type: ignore[misc]
    await day.play(*jobs)
    check_the_book(day.arrivals_ms, tuple(windows))
    assert concurrency == 0 or day.most_running <= concurrency
    if not p_cancelled:
        assert len(day.admitted) == len(jobs) + len(later)
    assert len(set(day.admitted)) == len(day.admitted)
