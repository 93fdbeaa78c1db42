"""How an attempt ends: one script call, sent with what is still unsent of its text.

`Finish` stores a result and ends the job. `Release` gives it back to its queue: to be tried
again after a delay, handed on to another worker in its old place, or put off to a new one. A delay
is counted by the clock of Redis; no clock of a worker says when a job is due.
"""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from darkq.protocol.keys import PartitionKeys
from darkq.redis import scripts
from darkq.redis.scripts import Argument, Script
from darkq_worker.leases import Claim
from darkq_worker.writing.attempt_log import AttemptLog, Entry


class Settlement(Protocol):
    """What the writer sends to end an attempt. `settled` tells whether it was still ours."""

    claim: Claim
    log: AttemptLog
    settled: asyncio.Future[bool]

    def call(self) -> tuple[Script, list[str], list[Argument]]:
        """Return the script with its keys and arguments, unsent text included."""
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
        self._result_ttl_ms = int(result_ttl_s * 1000)
        self._failed = failed

    def call(self) -> tuple[Script, list[str], list[Argument]]:
        keys = self.claim.keys
        return (
            scripts.finish,
            [
                self.claim.queue,
                keys.in_progress,
                keys.job,
                keys.retry,
                keys.state,
                keys.result,
                keys.events,
                *((keys.failed, PartitionKeys(keys.partition).failed) if self._failed else ()),
            ],
            [
                keys.arq_id,
                self.claim.attempt,
                self.claim.token,
                keys.live,
                self._result,
                self._result_ttl_ms,
                *_flat([*self.log.seal(), self._event]),
            ],
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
        self._delay_ms: Argument = "" if delay_s is None else int(delay_s * 1000)
        self._place_ms = f"{place_ms:.3f}"
        self._burns_try = burns_try
        self._job_ttl_ms = int(job_ttl_s * 1000)

    def call(self) -> tuple[Script, list[str], list[Argument]]:
        keys = self.claim.keys
        return (
            scripts.release,
            [self.claim.queue, keys.in_progress, keys.retry, keys.state, keys.events],
            [
                keys.arq_id,
                self.claim.attempt,
                self.claim.token,
                keys.live,
                PartitionKeys(keys.partition).wake,
                self._delay_ms,
                self._place_ms,
                int(self._burns_try),
                self._job_ttl_ms,
                *_flat([*self.log.seal(), *self._events]),
            ],
        )


def _flat(entries: list[Entry]) -> list[Any]:
    return [field for entry in entries for field in entry]
