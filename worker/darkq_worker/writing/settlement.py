"""How an attempt ends: one script call, sent with what is still unsent of its text.

`Finish` stores a result and ends the job. `Release` gives it back to its queue: to be tried
again after a delay, handed on to another worker in its old place, or put off to a new one. A delay
is counted by the clock of Redis; no clock of a worker says when a job is due.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from darkq.redis import scripts
from darkq.redis.raw import Command
from darkq_worker.leases import Claim
from darkq_worker.writing.attempt_log import AttemptLog, Entry


class Settlement(Protocol):
    """What the writer sends to end an attempt. `settled` tells whether it was still ours."""

    claim: Claim
    log: AttemptLog
    settled: asyncio.Future[bool]

    def command(self, *, in_cluster: bool) -> Command:
        """Return the script call that ends the attempt, unsent text included."""
        ...


class Finish:
    """The job is over. What has failed is kept for as long as its result."""

    def __init__(
        self,
        claim: Claim,
        log: AttemptLog,
        event: Entry,
        result: bytes,
        *,
        result_ttl_s: float,
        failed: bool = False,
    ) -> None:
        self.claim = claim
        self.log = log
        self.settled: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._event = event
        self._result = result
        self._result_ttl_s = result_ttl_s
        self._failed = failed

    def command(self, *, in_cluster: bool) -> Command:
        return scripts.finish_call(
            self.claim,
            [*self.log.seal(), self._event],
            result=self._result,
            result_ttl_s=self._result_ttl_s,
            failed=self._failed,
            in_cluster=in_cluster,
        )


class Release:
    """The job goes back to its queue: after a delay, or to a place by the clock of Redis.

    It is kept there for `job_ttl_s` after it is due, like a new one. Without an event nobody hears
    of it.
    """

    def __init__(
        self,
        claim: Claim,
        log: AttemptLog,
        event: Entry | None,
        *,
        delay_s: float | None,
        place_ms: float,
        burns_try: bool,
        job_ttl_s: float,
    ) -> None:
        self.claim = claim
        self.log = log
        self.settled: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._events = [event] if event else []
        self._delay_s = delay_s
        self._place_ms = place_ms
        self._burns_try = burns_try
        self._job_ttl_s = job_ttl_s

    def command(self, *, in_cluster: bool) -> Command:
        return scripts.release_call(
            self.claim,
            [*self.log.seal(), *self._events],
            delay_s=self._delay_s,
            place_ms=self._place_ms,
            burns_try=self._burns_try,
            job_ttl_s=self._job_ttl_s,
            in_cluster=in_cluster,
        )
