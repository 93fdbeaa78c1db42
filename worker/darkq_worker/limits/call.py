"""One call of an upstream, from its admission to its end; see `gate` for the rules.

    async with limits.call(upstream, claim) as call:      NotNow: put the job off
        …first text…        await call.answered()
        …UpstreamError…     call.failed(error)

Nothing of a job is written before its call is admitted. So one that is put off costs a claim and
a release: no slot, no try, and no event in its log.

What the end of a call says of the service as a whole.

    left     nothing: cancelled, cut off in the middle, too slow for this job, an empty answer
    alive    it works: it answered, be it to refuse this request
    failed   it does not: unreachable, overloaded, silent, or somebody else answers in its place
    limited  it has had enough of us for a while

Only what happens before the first text counts against a service: after it, the fault may lie in
this one answer. A job's own proxy says nothing of the way that all others take.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Literal, Self, TypeAlias

from redis.asyncio import Redis

from darkq.protocol.keys import JobKeys
from darkq.settings.settings import Settings
from darkq_worker.leases import Claim
from darkq_worker.limits.gate import Gate, NotNow, Rule, token
from darkq_worker.upstreams.base import (
    Overloaded,
    ProtocolViolation,
    RateLimited,
    Rejected,
    TimedOut,
    Unreachable,
    UpstreamError,
)


class Limits:
    """The gates of all upstreams of a worker."""

    def __init__(
        self, redis: Redis, upstreams: Iterable[str], rules: Mapping[str, Rule], settings: Settings
    ) -> None:
        self._gates = {
            name: Gate(redis, name, rules.get(name, Rule()), settings) for name in upstreams
        }

    def call(self, upstream: str, claim: Claim, *, own_proxy: bool) -> Call:
        """Return a context manager for one call; entering it raises `NotNow`."""
        return Call(self._gates[upstream], claim, own_proxy=own_proxy)

    @asynccontextmanager
    async def probe(self, upstream: str) -> AsyncIterator[Call]:
        """Open a block for a call that is of no job, and counts like one.

        Raises `NotNow`, and what redis-py raises. It waits in no line.
        """
        gate = self._gates[upstream]
        await gate.keep()  # which tells whether the breaker is closed
        claim = Claim(JobKeys.new(0), 0, 1, "", 0, 0, False, b"", time.time() * 1000)
        try:
            async with Call(gate, claim, own_proxy=False) as call:
                yield call
        except NotNow:
            await gate.withdraw(claim)
            raise

    @property
    def renewals(self) -> list[Callable[[], Awaitable[None]]]:
        """What renews the calls of each upstream; each raises what redis-py raises.

        Every upstream may be on another server, so a caller of these must not let one that
        waits for its server delay the others.
        """
        return [gate.keep for gate in self._gates.values()]

    async def aclose(self) -> None:
        """Wait until everything asked has been answered."""
        for gate in self._gates.values():
            await gate.aclose()


class Call:
    """A call of an upstream. Leaving the block says how it ended."""

    def __init__(self, gate: Gate, claim: Claim, *, own_proxy: bool) -> None:
        self._gate = gate
        self._claim = claim
        self._own_proxy = own_proxy
        self._token = token(claim)
        self._tells_answer = False
        self._answered = False
        self._verdict: Verdict = "left"
        self._retry_after_s = 0.0

    async def __aenter__(self) -> Self:
        if self._gate.asks:
            self._tells_answer = await self._gate.admit(self._claim)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._gate.ended(self._token, self._verdict, self._retry_after_s)

    async def answered(self) -> None:
        """Say that the first text has come."""
        self._answered = True
        if not self._own_proxy:
            self._gate.works()
        if self._tells_answer:
            await self._gate.answered(self._token)

    def failed(self, error: UpstreamError) -> None:
        """Say how the call failed."""
        self._verdict = verdict(
            error,
            answered=self._answered,
            own_proxy=self._own_proxy,
            has_windows=bool(self._gate.rule.windows),
        )
        if isinstance(error, RateLimited):
            self._retry_after_s = error.retry_after_s or 0.0


Verdict: TypeAlias = Literal["left", "alive", "failed", "limited"]

_FAILURES = (Unreachable, Overloaded, TimedOut, ProtocolViolation)


def verdict(error: UpstreamError, *, answered: bool, own_proxy: bool, has_windows: bool) -> Verdict:
    """Judge how a call failed.

    A 429 that does not say for how long, of a service whose windows are not known, is an
    overload like any other.
    """
    if own_proxy:
        return "left"
    if isinstance(error, RateLimited):
        return "limited" if has_windows or error.retry_after_s is not None else "failed"
    if isinstance(error, Rejected):
        return "left" if error.status is None else "alive"
    return "failed" if isinstance(error, _FAILURES) and not answered else "left"
