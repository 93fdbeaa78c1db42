"""One upstream's limits and breaker, as this worker asks Redis about them.

The windows, the places and the breaker are in Redis, shared by all workers. What is here is only
this: the calls that this worker has in progress, how many failed in a row, and whether the
breaker was closed when Redis last told.

Where nothing is limited, a healthy call costs no round trip: nobody asks, and nobody reports.
Failures are counted here, and reported; with `breaker_failures` of them in a row the worker
opens the breaker, for all. Whoever is told that it is not closed asks for each call until it
is told that it is. The others are told by their own next failure, or by the next heartbeat.

A job that may not go yet is put off until its turn. A turn may turn out to be too late: a call
ended early, a job before it was cancelled. So each reply of Redis names the jobs that could go
now, and this worker makes them due, in the background: see `turns`.

A call that is renewed is added again where Redis has dropped it. So a renewal that overtakes the
report of its call's end would take a place for one lease: the next renewal reports that end again.

Making jobs due that were put off: their turn has come earlier than was told.

Each partition has a task of its own while there is something to make due in it. So a partition
that cannot be reached delays neither the renewal of calls nor the jobs of other partitions: its
jobs are set aside, where they keep their rank, and come back to ask when they are due.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from redis.asyncio import Redis
from redis.exceptions import RedisError

from darkq.protocol.keys import PRIORITIES, JobKeys, LimitKeys
from darkq.redis import scripts
from darkq.redis.group_commit import GroupCommit
from darkq.redis.pool import brief
from darkq.redis.scripts import Answer, CallReport, CallWord, Limits, Question, Turn
from darkq.settings.parsing import Window
from darkq.settings.settings import Settings
from darkq.telemetry.logging import LogEvent
from darkq_worker.leases import Claim

logger = logging.getLogger("darkq.worker")

MAX_CALLS_PER_SCRIPT = 500
_MAX_ASKS = 100
_OUTAGE_PAUSE_S = 0.25
_CLOCKS_DIFFER = 1.001  # a window by our clock may be a little shorter by the service's


class Rule(NamedTuple):
    """What an upstream allows. No window and a concurrency of 0: everything."""

    windows: tuple[Window, ...] = ()
    concurrency: int = 0


class NotNow(Exception):
    """A job may not go before `turn_ms`, epoch ms by the clock of Redis; or not for `delay_s`."""

    def __init__(
        self, turn_ms: float = 0.0, upstream: str = "", *, delay_s: float | None = None
    ) -> None:
        super().__init__(turn_ms)
        self.turn_ms = turn_ms
        self.upstream = upstream
        self.delay_s = delay_s


def token(claim: Claim) -> str:
    """Name the one call that an attempt makes."""
    return f"{claim.keys.arq_id}:{claim.attempt}"


class Gate:
    """Asks and reports for all calls of one upstream."""

    def __init__(self, redis: Redis, upstream: str, rule: Rule, settings: Settings) -> None:
        self.rule = rule
        self._redis = redis
        self._keys = LimitKeys.of_upstream(upstream)
        self._upstream = upstream
        self._failures_to_open = settings.breaker_failures
        self._failures = 0
        self._shut = False
        self._in_progress: dict[str, float | None] = {}  # admitted calls: when they were answered
        self._renewed: set[str] = set()
        self._asks = GroupCommit(self._ask, max_items=_MAX_ASKS)
        self._turns = Turns(redis, self._report)
        self._limits = Limits(
            rule.concurrency,
            lease_ms=int(settings.worker_lease_s * 1000),
            horizon_ms=int(settings.job_ttl_s * 500),  # each claim renews the record's ttl
            cooldown_ms=int(settings.breaker_cooldown_s * 1000),
            cooldown_max_ms=int(settings.breaker_cooldown_max_s * 1000),
            windows=[
                (window.calls, int(window.length_s * 1000 * _CLOCKS_DIFFER))
                for window in rule.windows
            ],
        )

    @property
    def asks(self) -> bool:
        """Tell whether a call needs to be admitted at all."""
        return self._shut or bool(self.rule.windows) or self.rule.concurrency > 0

    async def admit(self, claim: Claim) -> bool:
        """Return once the call may begin: True if Redis must hear when it is answered.

        Raises `NotNow`. Waits while Redis is away; cancelled, the call may have been admitted
        and counts as made, its place free when its lease ends.
        """
        warned = False
        while True:
            try:
                answer = await self._asks.submit(claim)
                break
            except (RedisError, OSError) as error:
                if not warned:
                    self._complain("cannot ask for a call, will keep trying", error)
                warned = True
                await asyncio.sleep(_OUTAGE_PAUSE_S)
        if answer.word == "wait":
            raise NotNow(answer.turn_ms, self._upstream)
        self._in_progress[token(claim)] = None
        return answer.word == "probe" or bool(self.rule.windows)

    async def withdraw(self, claim: Claim) -> None:
        """Leave the line of those that were put off. Raises what redis-py raises."""
        await self._send([CallReport(claim.keys.arq_id, "gone")])

    async def answered(self, call: str) -> None:
        """Say that the service has answered a call."""
        if call in self._in_progress:
            self._in_progress[call] = time.monotonic()
            await self._report([CallReport(call, "answered")])

    async def ended(self, call: str, verdict: CallWord, retry_after_s: float = 0) -> None:
        """Say how a call ended, as far as Redis must know. Best effort: a lease does the rest."""
        self._count(verdict)
        was_admitted = call in self._in_progress
        self._in_progress.pop(call, None)
        if not was_admitted and verdict not in ("failed", "limited"):
            return
        argument = int(retry_after_s * 1000) if verdict == "limited" else 0
        if verdict == "failed":
            argument = int(self._failures >= self._failures_to_open)
        await self._report([CallReport(call, verdict, argument)])

    def works(self) -> None:
        """Take note that the service has answered: failures before do not count any more."""
        self._failures = 0

    async def keep(self) -> None:
        """Renew the leases of all calls, and hear of the breaker. Raises what redis-py raises."""
        ended = self._renewed - self._in_progress.keys()
        reports = [CallReport(call, "left") for call in ended]
        reports += [_standing(*call) for call in self._in_progress.items()]
        self._renewed = ended | self._in_progress.keys()
        for start in range(0, max(1, len(reports)), MAX_CALLS_PER_SCRIPT):
            await self._send(reports[start : start + MAX_CALLS_PER_SCRIPT])
        self._renewed -= ended

    async def aclose(self) -> None:
        """Wait until everything asked has been answered."""
        await self._asks.aclose()
        await self._turns.aclose()

    def _count(self, verdict: str) -> None:
        if verdict == "failed":
            self._failures += 1
        elif verdict == "alive":
            self._failures = 0

    async def _ask(self, claims: Sequence[Claim]) -> list[Answer]:
        questions = [
            Question(token(claim), claim.keys.arq_id, claim.priority_number, claim.place_ms)
            for claim in claims
        ]
        shut, answers, turns = await scripts.limit_admit(
            self._redis, self._keys, self._limits, questions
        )
        self._told(shut=shut)
        self._turns.call(turns)
        return answers

    async def _report(self, reports: Sequence[CallReport]) -> None:
        try:
            await self._send(reports)
        except (RedisError, OSError) as error:
            self._complain("cannot report a call", error)

    async def _send(self, reports: Sequence[CallReport]) -> None:
        shut, turns = await scripts.limit_report(self._redis, self._keys, self._limits, reports)
        self._told(shut=shut)
        self._turns.call(turns)

    def _told(self, *, shut: bool) -> None:
        if shut != self._shut:
            self._shut = shut
            event = "calls are put off" if shut else "calls are let go"
            logger.warning(LogEvent(event, upstream=self._upstream))

    def _complain(self, event: str, error: Exception) -> None:
        logger.warning(LogEvent(event, upstream=self._upstream, error=brief(error)))


def _standing(call: str, answered_s: float | None) -> CallReport:
    """Say how a call that goes on stands."""
    if answered_s is None:
        return CallReport(call, "calling")
    return CallReport(call, "answering", int((time.monotonic() - answered_s) * 1000))


_MAX_PENDING = 500
_PATIENCE_S = 1.0


class Turns:
    """Makes jobs due in the background.

    `tell` reports to the upstream's limits, by arq id, that jobs are `gone` from their queues or
    `away`; it learns which jobs to call next. It must not raise.
    """

    def __init__(
        self, redis: Redis, tell: Callable[[Sequence[CallReport]], Awaitable[None]]
    ) -> None:
        self._redis = redis
        self._tell = tell
        self._pending: dict[int, dict[bytes, Turn]] = {}
        self._away: set[int] = set()
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._asides: set[asyncio.Task[None]] = set()

    def call(self, turns: Sequence[Turn]) -> None:
        """Make jobs due, as a reply of Redis says."""
        foreign: list[bytes] = []
        away: list[bytes] = []
        for turn in turns:
            partition = _partition(turn.arq_id)
            if partition is None or turn.queue_number not in range(len(PRIORITIES)):
                foreign.append(turn.arq_id)  # anybody may have written it
                continue
            if partition in self._away:
                away.append(turn.arq_id)
            self._add(partition, turn)
        if foreign or away or len(turns) >= scripts.MOST_CALLED:
            self._tell_soon(_words(foreign, "gone") + _words(away, "away"))

    async def aclose(self) -> None:
        """Make nothing due any more."""
        tasks = [*self._tasks.values(), *self._asides]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _add(self, partition: int, turn: Turn) -> None:
        pending = self._pending.setdefault(partition, {})
        if len(pending) < _MAX_PENDING:  # the others have their turn
            pending[turn.arq_id] = turn
        if partition not in self._tasks:
            task = asyncio.create_task(self._run(partition), name="darkq-make-due")
            self._tasks[partition] = task

    async def _run(self, partition: int) -> None:
        try:
            while pending := self._pending.pop(partition, None):
                await self._make_due(partition, list(pending.values()))
        finally:
            del self._tasks[partition]

    async def _make_due(self, partition: int, turns: Sequence[Turn]) -> None:
        loop = asyncio.get_running_loop()
        slow = loop.call_later(_PATIENCE_S, self._set_aside, partition, turns)
        try:
            gone = await scripts.make_due(self._redis, partition, turns)
        except (RedisError, OSError):
            if partition not in self._away:
                self._set_aside(partition, turns)
        else:
            self._away.discard(partition)
            if gone:
                await self._tell(_words(gone, "gone"))
        finally:
            slow.cancel()

    def _set_aside(self, partition: int, turns: Sequence[Turn]) -> None:
        """Let other jobs pass those of a partition that does not answer."""
        self._away.add(partition)
        pending = self._pending.get(partition, {})
        self._tell_soon(_words([*(turn.arq_id for turn in turns), *pending], "away"))

    def _tell_soon(self, reports: Sequence[CallReport]) -> None:
        async def tell() -> None:
            await self._tell(reports)

        task = asyncio.create_task(tell(), name="darkq-set-aside")
        self._asides.add(task)
        task.add_done_callback(self._asides.discard)


def _words(arq_ids: Sequence[bytes], word: CallWord) -> list[CallReport]:
    return [CallReport(arq_id, word) for arq_id in arq_ids]


def _partition(arq_id: bytes) -> int | None:
    try:
        return JobKeys.from_arq_id(arq_id.decode()).partition
    except ValueError:
        return None
