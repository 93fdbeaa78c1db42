"""One attempt of a job: run it, judge how it ended, and settle it.

When a failed attempt is tried again.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal, TypeAlias

import msgspec

from darkq.errors import InvalidJob
from darkq.protocol.job import Job
from darkq.protocol.record import Head, JobRecord, decode_head, decode_job
from darkq.redis.backoff import backoff_s
from darkq.settings.settings import Settings
from darkq.telemetry.logging import LogEvent, describe_error
from darkq_worker.attempts import outcome as oc
from darkq_worker.attempts.outcome import Outcome
from darkq_worker.leases import Claim
from darkq_worker.limits.gate import NotNow
from darkq_worker.upstreams.base import UpstreamError

logger = logging.getLogger("darkq.worker")

Function: TypeAlias = Callable[..., Awaitable[Any]]
NEWER_PAUSE_S = 5.0
"""A job of a newer version stands back so long, for a worker that can read it."""

StopReason: TypeAlias = Literal["cancelled", "lost"]


class Attempt:
    """A claimed job while this worker runs it.

    `stop` cancels its task, and says why; a cancellation without a reason is a shutdown.
    """

    def __init__(self, claim: Claim, settings: Settings) -> None:
        self.claim = claim
        self.started_ms = int(time.time() * 1000)
        self.started_s = self.ended_s = time.perf_counter()
        self.record: JobRecord | None = None
        self.has_begun = False
        self._settings = settings
        self._task: asyncio.Task[None] | None = None
        self._stop_reason: StopReason | None = None
        self.name = f"{claim.keys.arq_id}:{claim.attempt}"
        """Unlike any other attempt's in this process."""

    def begin(self, task: asyncio.Task[None]) -> None:
        """Say which task runs the attempt."""
        self._task = task

    def stop(self, reason: StopReason) -> bool:
        """End the attempt early; tell whether this did. It does not once the attempt has ended."""
        if self._stop_reason is not None or self._task is None:
            return False
        self._stop_reason = reason
        return self._task.cancel()

    async def run(self, functions: Mapping[str, Function], ctx: dict[str, Any]) -> Outcome:
        """Run the job's function and return how it ended. Never raises for what it did."""
        record = self._accept(functions)
        if not isinstance(record, JobRecord):
            return record
        self.record = record
        try:
            return oc.Completed(await functions[record.f](ctx, record.job))
        except asyncio.CancelledError:
            return self._interrupted()
        except NotNow as error:
            return oc.Deferred(error.turn_ms, error.upstream, error.delay_s)
        except UpstreamError as error:
            return self._judge(error, record.job)
        except Exception as error:
            job_id = self.claim.keys.public_id
            logger.error(LogEvent("attempt broken", job=job_id, exception=describe_error(error)))
            return oc.Failed("internal_error", f"{type(error).__name__} in the worker; see its log")
        finally:
            self._task = None
            self.ended_s = time.perf_counter()

    def _accept(self, functions: Mapping[str, Function]) -> JobRecord | Outcome:
        """Return the job's record, or say why it is not run at all."""
        if self.claim.cancelled:
            return oc.Cancelled()
        if not self.claim.record:
            return oc.Failed("expired", "the job waited for longer than DARKQ_JOB_TTL_S")
        if self.claim.leases_lost > self._settings.worker_max_lost_leases:
            return oc.Failed(
                "worker_lost", f"{self.claim.leases_lost} workers died or lost touch running it"
            )
        record = self._read(self.claim.record)
        if isinstance(record, JobRecord) and record.f not in functions:
            return oc.Failed("unknown_function", f"this worker has no function {record.f[:80]!r}")
        return record

    def _read(self, data: bytes) -> JobRecord | Outcome:
        """Read the job's record; one of a newer version is left to a worker that can read it."""
        try:
            head = decode_head(data)
            if head.is_newer:
                return self._left_to_a_newer_worker(head)
            record = decode_job(data)
            record.job.verify()  # others than `enqueue` may have written it
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return oc.Failed("bad_record", "the job's record cannot be read by this version")
        except InvalidJob as error:
            return oc.Failed("bad_record", f"the job's record holds what enqueue refuses: {error}")
        return record

    def _left_to_a_newer_worker(self, head: Head) -> Outcome:
        """Each claim renews the record, so that only its age can tell that none will come."""
        claimed_ms = self.claim.place_ms + self.claim.waited_s * 1000  # by the clock of Redis
        if claimed_ms - head.et > self._settings.job_ttl_s * 1000:
            return oc.Failed("bad_record", "no worker came that is as new as the job's record")
        return oc.Deferred(delay_s=NEWER_PAUSE_S)

    def _interrupted(self) -> Outcome:
        if self._stop_reason == "cancelled":
            return oc.Cancelled()
        return oc.Lost() if self._stop_reason == "lost" else oc.HandBack()

    def _judge(self, error: UpstreamError, job: Job) -> Outcome:
        settings, burnt = self._settings, self.claim.tries_burnt
        tries = job.tries or settings.job_tries
        if not error.retryable or burnt + 1 >= tries:
            return oc.Failed(error.code, error.message_to(job.tenant))
        wait_s = delay_s(
            burnt, error.retry_after_s, base_s=settings.retry_base_s, max_s=settings.retry_max_s
        )
        return oc.TryAgain(error.code, wait_s, error.message)


def delay_s(tries_burnt: int, retry_after_s: float | None, *, base_s: float, max_s: float) -> float:
    """Return the wait before the next try, in seconds.

    What the upstream asked for is the least; otherwise exponential, and half of it random, so
    that jobs that failed together do not come back together.
    """
    if retry_after_s is not None:
        return retry_after_s + random.uniform(0, base_s)
    return backoff_s(tries_burnt, first_s=base_s, most_s=max_s)
