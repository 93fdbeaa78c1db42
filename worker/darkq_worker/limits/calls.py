"""Admission of upstream calls: rate limits, concurrency limits and the circuit breaker.

    async with limits.call(upstream, claim) as call:      may raise CallDeferred
        …first text…        await call.record_answer()
        …UpstreamError…     call.record_failure(error)

Limits and breaker state are in Redis, shared by all workers (`limit_admit.lua`,
`limit_report.lua`). A `Gate` holds one worker's part: the calls that it has in progress, how many
failed in a row, and the breaker state that Redis returned last.

Nothing of a job is written before its call is admitted. So a deferral costs a claim and a release:
no slot, no try, no event in the log.

An upstream without limits costs no round trip: its calls are neither admitted nor recorded. Each
worker counts failures itself. After `breaker_failures` of them in a row it opens the breaker for
all workers. A worker that has seen an open breaker asks for each call. Others see it with their
next failure or heartbeat.

How a call ended says something about the service as a whole (`CallEnd`):

    left     nothing: cancelled, cut off in the middle, too slow for this job, an empty answer
    alive    it works: it answered, or it refused this request
    failed   it does not work: unreachable, overloaded, silent, or something else answered
    limited  it refuses all calls for a while

Only failures before the first text count against a service: later ones may be caused by this
answer. A call over the job's own proxy says nothing about the direct way.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Literal, NamedTuple, Self, TypeAlias

from redis.asyncio import Redis
from redis.exceptions import RedisError

from darkq.protocol.keys import JobKeys, LimitKeys
from darkq.redis import scripts
from darkq.redis.group_commit import GroupCommit
from darkq.redis.pool import brief
from darkq.redis.scripts import Answer, CallReport, Question
from darkq.settings.parsing import Window
from darkq.settings.settings import Settings
from darkq.telemetry.logging import LogEvent
from darkq_worker.leases import Claim
from darkq_worker.limits.promotion import Promoter
from darkq_worker.outage_log import OUTAGE_PAUSE_S
from darkq_worker.upstreams.base import (
    Overloaded,
    ProtocolViolation,
    RateLimited,
    Rejected,
    TimedOut,
    Unreachable,
    UpstreamError,
)

logger = logging.getLogger("darkq.worker")

MAX_CALLS_PER_SCRIPT = 500
_MAX_ADMISSIONS_PER_SCRIPT = 100
_CLOCKS_DIFFER = 1.001  # a window by our clock may be slightly shorter by the service's clock
_FAILURES = (Unreachable, Overloaded, TimedOut, ProtocolViolation)

CallEnd: TypeAlias = Literal["left", "alive", "failed", "limited"]


class Rule(NamedTuple):
    """The limits of an upstream. Without a window and with a concurrency of 0 there is no limit."""

    windows: tuple[Window, ...] = ()
    concurrency: int = 0


@dataclass(eq=False)
class CallDeferred(Exception):
    """A job may not call before `turn_ms`, epoch ms by the clock of Redis, or for `delay_s`."""

    turn_ms: float = 0.0
    upstream: str = ""
    delay_s: float | None = None


class Limits:
    """The gates of all upstreams of a worker."""

    def __init__(
        self, redis: Redis, upstreams: Iterable[str], rules: Mapping[str, Rule], settings: Settings
    ) -> None:
        self._gates = {
            name: Gate(redis, name, rules.get(name, Rule()), settings) for name in upstreams
        }

    def call(self, upstream: str, claim: Claim, *, own_proxy: bool) -> Call:
        """Return a context manager for one call; entering it raises `CallDeferred`."""
        return Call(self._gates[upstream], claim, own_proxy=own_proxy)

    @asynccontextmanager
    async def probe(self, upstream: str) -> AsyncIterator[Call]:
        """Open a block for a call without a job, which counts like one with a job.

        Raises `CallDeferred`, and what redis-py raises. A deferred probe keeps no turn.
        """
        gate = self._gates[upstream]
        await gate.renew()  # returns the state of the breaker
        claim = Claim(JobKeys.new(0), 0, 1, "", 0, 0, False, b"", time.time() * 1000)
        try:
            async with Call(gate, claim, own_proxy=False) as call:
                yield call
        except CallDeferred:
            await gate.withdraw(claim)
            raise

    @property
    def renewals(self) -> list[Callable[[], Awaitable[None]]]:
        """One function per upstream that renews its calls; each raises what redis-py raises.

        Each upstream may be on another server: call them concurrently.
        """
        return [gate.renew for gate in self._gates.values()]

    async def aclose(self) -> None:
        """Wait for all pending replies."""
        for gate in self._gates.values():
            await gate.aclose()


class Call:
    """A call of an upstream. Leaving the block records its end."""

    def __init__(self, gate: Gate, claim: Claim, *, own_proxy: bool) -> None:
        self._gate = gate
        self._claim = claim
        self._own_proxy = own_proxy
        self._token = call_token(claim)
        self._records_answer = False
        self._answered = False
        self._end: CallEnd = "left"
        self._retry_after_s = 0.0

    async def __aenter__(self) -> Self:
        if self._gate.needs_admission:
            self._records_answer = await self._gate.admit(self._claim)
        return self

    async def __aexit__(self, *_: object) -> None:
        # Also after a cancellation or an error of this worker: "left" frees the slot at once, and
        # otherwise it would stay in use until the lease of the call expires.
        await self._gate.record_end(self._token, self._end, self._retry_after_s)

    async def record_answer(self) -> None:
        """Record that the first text arrived."""
        self._answered = True
        if not self._own_proxy:  # an answer over another way proves nothing about ours
            self._gate.reset_failures()
        if self._records_answer:
            await self._gate.record_answer(self._token)

    def record_failure(self, error: UpstreamError) -> None:
        """Record how the call failed."""
        self._end = classify_failure(
            error,
            answered=self._answered,
            own_proxy=self._own_proxy,
            has_windows=bool(self._gate.rule.windows),
        )
        if isinstance(error, RateLimited):
            self._retry_after_s = error.retry_after_s or 0.0


def call_token(claim: Claim) -> str:
    """Return the id of the one call that an attempt makes."""
    return f"{claim.keys.arq_id}:{claim.attempt}"


def classify_failure(
    error: UpstreamError, *, answered: bool, own_proxy: bool, has_windows: bool
) -> CallEnd:
    """Return what a failed call says about the service.

    A 429 without a delay counts as an overload, unless the windows of the service are known.
    """
    if own_proxy:
        return "left"
    if isinstance(error, RateLimited):
        return "limited" if has_windows or error.retry_after_s is not None else "failed"
    if isinstance(error, Rejected):
        return "left" if error.status is None else "alive"
    return "failed" if isinstance(error, _FAILURES) and not answered else "left"


class Gate:
    """One worker's access to the limits of one upstream."""

    def __init__(self, redis: Redis, upstream: str, rule: Rule, settings: Settings) -> None:
        self.rule = rule
        self._redis = redis
        self._keys = LimitKeys.of_upstream(upstream)
        self._upstream = upstream
        self._failures_to_open = settings.breaker_failures
        self._failures = 0
        self._is_open = False
        self._in_progress: dict[str, float | None] = {}  # admitted calls: when they were answered
        self._renewed: set[str] = set()
        self._asks = GroupCommit(self._ask, max_items=_MAX_ADMISSIONS_PER_SCRIPT)
        self._promoter = Promoter(redis, self._report)
        self._limits = scripts.Limits(
            rule.concurrency,
            lease_ms=int(settings.worker_lease_s * 1000),
            horizon_ms=int(settings.job_ttl_s * 500),  # half: a claim extends the record's TTL
            cooldown_ms=int(settings.breaker_cooldown_s * 1000),
            cooldown_max_ms=int(settings.breaker_cooldown_max_s * 1000),
            windows=[
                (window.calls, int(window.length_s * 1000 * _CLOCKS_DIFFER))
                for window in rule.windows
            ],
        )

    @property
    def needs_admission(self) -> bool:
        """True if a call must be admitted by Redis."""
        return self._is_open or bool(self.rule.windows) or self.rule.concurrency > 0

    async def admit(self, claim: Claim) -> bool:
        """Return when the call may begin: True if its answer must be recorded.

        Raises `CallDeferred`. Waits while Redis is unavailable. If this is cancelled, the call may
        have been admitted: it counts as made, and its slot is freed when its lease ends.
        """
        has_logged = False
        while True:
            try:
                answer = await self._asks.submit(claim)
                break
            except (RedisError, OSError) as error:
                if not has_logged:
                    fields = {"upstream": self._upstream, "error": brief(error)}
                    logger.warning(LogEvent("call admission failed", **fields))
                has_logged = True
                await asyncio.sleep(OUTAGE_PAUSE_S)
        if answer.word == "wait":
            raise CallDeferred(answer.turn_ms, self._upstream)
        # Not before the reply: a renewal meanwhile would add a call that may be deferred.
        self._in_progress[call_token(claim)] = None
        # An answer ends the probe of a breaker. It also fixes the call's time of arrival: until
        # then the call counts in each window.
        return answer.word == "probe" or bool(self.rule.windows)

    async def withdraw(self, claim: Claim) -> None:
        """Remove a deferred job from the waiting ones. Raises what redis-py raises."""
        await self._send([CallReport(claim.keys.arq_id, "gone")])

    async def record_answer(self, call: str) -> None:
        """Record that the service has answered a call."""
        if call in self._in_progress:
            self._in_progress[call] = time.monotonic()
            await self._report([CallReport(call, "answered")])

    async def record_end(self, call: str, end: CallEnd, retry_after_s: float = 0) -> None:
        """Record how a call ended, if Redis needs it. Without it the lease of the call expires."""
        if end == "failed":
            self._failures += 1
        elif end == "alive":
            self._failures = 0
        was_admitted = call in self._in_progress
        self._in_progress.pop(call, None)
        # Redis does not know a call that was not admitted. But its failure may open the breaker.
        if not was_admitted and end not in ("failed", "limited"):
            return
        argument = int(retry_after_s * 1000) if end == "limited" else 0
        if end == "failed":
            # Each worker counts for itself: a shared count would cost a round trip per call.
            argument = int(self._failures >= self._failures_to_open)
        await self._report([CallReport(call, end, argument)])

    def reset_failures(self) -> None:
        """Count failures from 0 again: the service has answered."""
        self._failures = 0

    async def renew(self) -> None:
        """Renew the leases of all calls, and read the breaker. Raises what redis-py raises."""
        # Redis adds a renewed call again if it does not know it. So a renewal that arrives after
        # the end of its call would hold a slot for one lease: the next renewal repeats that end.
        ended = self._renewed - self._in_progress.keys()
        reports = [CallReport(call, "left") for call in ended]
        reports += [_report_progress(*call) for call in self._in_progress.items()]
        self._renewed = ended | self._in_progress.keys()
        # Without calls too: it also reads the breaker.
        for start in range(0, max(1, len(reports)), MAX_CALLS_PER_SCRIPT):
            await self._send(reports[start : start + MAX_CALLS_PER_SCRIPT])
        self._renewed -= ended  # kept until here: an error above repeats the ends

    async def aclose(self) -> None:
        """Wait for all pending replies."""
        await self._asks.aclose()
        await self._promoter.aclose()

    async def _ask(self, claims: Sequence[Claim]) -> list[Answer]:
        questions = [
            Question(call_token(each), each.keys.arq_id, each.priority_number, each.queued_at_ms)
            for each in claims
        ]
        is_open, answers, turns = await scripts.limit_admit(
            self._redis, self._keys, self._limits, questions
        )
        self._note_breaker(is_open=is_open)
        self._promoter.promote(turns)
        return answers

    async def _report(self, reports: Sequence[CallReport]) -> None:
        try:
            await self._send(reports)
        except (RedisError, OSError) as error:
            fields = {"upstream": self._upstream, "error": brief(error)}
            logger.warning(LogEvent("call update failed", **fields))

    async def _send(self, reports: Sequence[CallReport]) -> None:
        is_open, turns = await scripts.limit_report(self._redis, self._keys, self._limits, reports)
        self._note_breaker(is_open=is_open)
        self._promoter.promote(turns)

    def _note_breaker(self, *, is_open: bool) -> None:
        if is_open and not self._is_open:
            logger.warning(LogEvent("circuit breaker open", upstream=self._upstream))
        elif self._is_open and not is_open:
            logger.warning(LogEvent("circuit breaker closed", upstream=self._upstream))
        self._is_open = is_open


def _report_progress(call: str, answered_s: float | None) -> CallReport:
    if answered_s is None:
        return CallReport(call, "calling")
    return CallReport(call, "answering", int((time.monotonic() - answered_s) * 1000))
