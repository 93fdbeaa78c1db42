"""The running attempts of a worker: each in a task of its own, from its claim to its settlement.

    start ──► Attempt.run ──► generate ──► outcome ──► settle ──► log record, span, metrics
                  ▲                                       │
       stop: cancelled, lost, shutdown       one script call, sent by the writer

Cancelling the task of an attempt ends its run, never its settlement.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, TypeAlias

import msgspec

from darkq.errors import InvalidJob
from darkq.protocol.job import Job
from darkq.protocol.keys import PRIORITIES
from darkq.protocol.record import FUNCTION, JobRecord, decode_head, decode_job
from darkq.redis.backoff import backoff_s
from darkq.settings.settings import Settings
from darkq.telemetry.logging import LogEvent, describe_error
from darkq_worker.attempts.generate import AttemptContext, WorkerParts, generate
from darkq_worker.attempts.settlement import (
    Cancelled,
    Completed,
    Deferred,
    Failed,
    HandBack,
    Lost,
    Outcome,
    TryAgain,
    make_settlement,
)
from darkq_worker.attempts.telemetry import AttemptSpan, attempt_span
from darkq_worker.leases import Claim
from darkq_worker.limits.calls import CallDeferred
from darkq_worker.upstreams.base import UpstreamError
from darkq_worker.writing.attempt_log import AttemptLog, Settlement

logger = logging.getLogger("darkq.worker")

NEWER_PAUSE_S = 5.0
"""A job of a newer version is deferred for so long, for a worker that can read it."""

StopReason: TypeAlias = Literal["cancelled", "lost"]

_LEVELS: dict[type[Outcome], int] = {Failed: logging.WARNING, Deferred: logging.DEBUG}


class RunningAttempts:
    """The attempts of one worker. `tasks` belong to arq, which waits for them at shutdown.

    `on_ended` is called with each claim whose slot is free again.
    """

    def __init__(
        self,
        tasks: dict[str, asyncio.Task[Any]],
        parts: WorkerParts,
        *,
        on_ended: Callable[[Claim], None],
    ) -> None:
        self.attempts: set[Attempt] = set()
        self._tasks = tasks
        self._parts = parts
        self._on_ended = on_ended

    def start(self, claims: Sequence[Claim]) -> None:
        """Start an attempt for each claim."""
        self._parts.metrics.count_claims(claims)
        for claim in claims:
            attempt = Attempt(claim, self._parts.settings)
            # A Redis that lost our claim in a failover may return the job again, with the same
            # number and token: it is the attempt that runs here, or is being settled.
            if attempt.name in self._tasks:
                continue
            task = asyncio.get_running_loop().create_task(self._run(attempt), name=attempt.name)
            attempt.task = task
            self.attempts.add(attempt)
            self._tasks[attempt.name] = task
            task.add_done_callback(partial(self._on_done, attempt))

    def cancel(self, arq_id: bytes) -> None:
        """Stop the attempt of a cancelled job, if it runs here."""
        for attempt in self.attempts:
            if attempt.claim.keys.arq_id.encode() == arq_id:
                attempt.stop("cancelled")

    async def _run(self, attempt: Attempt) -> None:
        attempt.has_begun = True
        claim, writer = attempt.claim, self._parts.writer
        log = writer.open(
            claim.keys, claim.attempt, claim.token, on_lost=lambda: attempt.stop("lost")
        )
        with attempt_span(claim) as span:
            outcome = await attempt.run(AttemptContext(claim, log, span, self._parts))
            settlement = self._make_settlement(outcome, attempt, log)
            if settlement is None:
                writer.abandon(log)
                self._record_end(attempt, log, span, outcome)
                return
            settled = writer.settle(settlement)
            settled.add_done_callback(
                lambda ours: self._record_end(
                    attempt, log, span, outcome if ours.result() else Lost()
                )
            )
            # Shutdown cancels this task a second time. The settlement stays with the writer, which
            # sends it before the worker exits.
            await asyncio.shield(settled)

    def _make_settlement(
        self, outcome: Outcome, attempt: Attempt, log: AttemptLog
    ) -> Settlement | None:
        return make_settlement(
            outcome,
            attempt.claim,
            log,
            self._parts.settings,
            record=attempt.record,
            started_ms=attempt.started_ms,
        )

    def _record_end(
        self, attempt: Attempt, log: AttemptLog, span: AttemptSpan, outcome: Outcome
    ) -> None:
        """Count, log and trace the outcome. Called after the settlement, so it must not block."""
        self._parts.metrics.count_end(outcome, log.upstream)
        log_end(outcome, attempt, log, self._parts.worker_id)
        span.record_end(outcome, log)

    def _on_done(self, attempt: Attempt, task: asyncio.Task[None]) -> None:
        self.attempts.discard(attempt)
        del self._tasks[attempt.name]
        self._on_ended(attempt.claim)
        if not attempt.has_begun:  # a task that is cancelled before its first step never runs
            self._hand_back(attempt)
        error = None if task.cancelled() else task.exception()
        if error is not None:  # its lease will expire, and the job is claimed again
            logger.error(
                LogEvent(
                    "attempt crashed",
                    job=attempt.claim.keys.public_id,
                    exception=describe_error(error),
                    worker=self._parts.worker_id,
                )
            )

    def _hand_back(self, attempt: Attempt) -> None:
        claim, writer = attempt.claim, self._parts.writer
        log = writer.open(claim.keys, claim.attempt, claim.token, on_lost=lambda: None)
        settlement = self._make_settlement(HandBack(), attempt, log)
        if settlement is not None:
            writer.settle(settlement)


class Attempt:
    """A claimed job while this worker runs it.

    `stop` cancels its task with a reason; a cancellation without a reason is a shutdown.
    """

    def __init__(self, claim: Claim, settings: Settings) -> None:
        self.claim = claim
        self.started_ms = int(time.time() * 1000)
        self.started_s = self.ended_s = time.perf_counter()
        self.record: JobRecord | None = None
        self.task: asyncio.Task[None] | None = None
        self.has_begun = False
        self._settings = settings
        self._stop_reason: StopReason | None = None
        self.name = f"{claim.keys.arq_id}:{claim.attempt}"
        """Unique among the attempts of this process."""

    def stop(self, reason: StopReason) -> bool:
        """Cancel the attempt; return True if this call did. False once the run has ended."""
        if self._stop_reason is not None or self.task is None:
            return False
        self._stop_reason = reason
        return self.task.cancel()

    async def run(self, context: AttemptContext) -> Outcome:
        """Generate the answer, and return the outcome. Raises nothing that the run raises."""
        record = self._accept()
        if not isinstance(record, JobRecord):
            return record
        self.record = record
        try:
            return Completed(await generate(context, record.job))
        except asyncio.CancelledError:
            if self._stop_reason is None:
                return HandBack()
            return Cancelled() if self._stop_reason == "cancelled" else Lost()
        except CallDeferred as error:
            return Deferred(error.turn_ms, error.upstream, error.delay_s)
        except UpstreamError as error:
            return self._judge_error(error, record.job)
        except Exception as error:
            job_id = self.claim.keys.public_id
            logger.error(LogEvent("attempt crashed", job=job_id, exception=describe_error(error)))
            return Failed("internal_error", f"{type(error).__name__} in the worker; see its log")
        finally:
            self.task = None  # from here on the task settles, and `stop` must not cancel it
            self.ended_s = time.perf_counter()

    def _accept(self) -> JobRecord | Outcome:
        """Return the record of the job, or why it is not run."""
        if self.claim.cancelled:
            return Cancelled()
        if not self.claim.record:
            return Failed("expired", "the job waited for longer than DARKQ_JOB_TTL_S")
        if self.claim.leases_lost > self._settings.worker_max_lost_leases:
            lost = self.claim.leases_lost
            return Failed("worker_lost", f"{lost} workers died or lost their lease running it")
        record = self._read(self.claim.record)
        if isinstance(record, JobRecord) and record.f != FUNCTION:
            return Failed("unknown_function", f"this worker has no function {record.f[:80]!r}")
        return record

    def _read(self, data: bytes) -> JobRecord | Outcome:
        try:
            head = decode_head(data)
            if head.is_newer:
                # Each claim extends the TTL of the record, so it never expires by itself. Only its
                # age, by the clock of Redis, shows that no newer worker exists.
                claimed_ms = self.claim.queued_at_ms + self.claim.waited_s * 1000
                if claimed_ms - head.et > self._settings.job_ttl_s * 1000:
                    return Failed("bad_record", "no worker came that is as new as the job's record")
                return Deferred(delay_s=NEWER_PAUSE_S)
            record = decode_job(data)
            record.job.verify()  # the record may have been written without `enqueue`
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return Failed("bad_record", "the job's record cannot be read by this version")
        except InvalidJob as error:
            return Failed("bad_record", f"the job's record holds what enqueue refuses: {error}")
        return record

    def _judge_error(self, error: UpstreamError, job: Job) -> Outcome:
        settings, burnt = self._settings, self.claim.tries_burnt
        tries = job.tries or settings.job_tries
        if not error.retryable or burnt + 1 >= tries:
            return Failed(error.code, error.message_to(job.tenant))
        delay_s = retry_delay_s(
            burnt, error.retry_after_s, base_s=settings.retry_base_s, max_s=settings.retry_max_s
        )
        return TryAgain(error.code, delay_s, error.message)


def retry_delay_s(
    tries_burnt: int, retry_after_s: float | None, *, base_s: float, max_s: float
) -> float:
    """Return the delay before the next try, in seconds.

    At least what the upstream asked for, otherwise exponential. A part of it is random, so that
    jobs that failed at the same time are not retried at the same time.
    """
    if retry_after_s is not None:
        return retry_after_s + random.uniform(0, base_s)
    return backoff_s(tries_burnt, first_s=base_s, most_s=max_s)


def log_end(outcome: Outcome, attempt: Attempt, log: AttemptLog, worker_id: str) -> None:
    """Log the end of an attempt: how it ended, and how long each phase took.

        enqueued ─ waited ─► claimed ─ first chunk ─► text ─ generating ─► end ─ settling ─► Redis
           └────────────────────────────────── total ─────────────────────────────────────────┘

    `job ended` is logged once per job, when Redis has its end; `attempt ended` if another attempt
    follows. `waited_s` is by the clock of Redis, `total_s` by the producer's clock, the others by
    the clock of this process.
    """
    level = _LEVELS.get(type(outcome), logging.INFO)
    if not logger.isEnabledFor(level):
        return
    claim, record, now_s = attempt.claim, attempt.record, time.perf_counter()
    first_s, ended_s = log.first_chunk_s, attempt.ended_s
    fields = {
        "job": claim.keys.public_id,
        "attempt": claim.attempt,
        "outcome": str(outcome),
        "code": getattr(outcome, "code", getattr(outcome, "reason", None)),
        "retry_in_s": round(outcome.delay_s, 4) if isinstance(outcome, TryAgain) else None,
        "model": log.model or (record.job.model if record else None),
        "upstream": log.upstream or None,
        "tries": claim.tries_burnt + 1,
        "chunks": log.chunks,
        "chars": log.chars,
        "waited_s": round(claim.waited_s, 4),
        "first_chunk_s": round(first_s - attempt.started_s, 4) if first_s else None,
        "generating_s": round(ended_s - first_s, 4) if first_s else None,
        "settling_s": round(now_s - ended_s, 4),
        "total_s": round(time.time() - record.et / 1000, 4) if record else None,
        "priority": PRIORITIES[claim.priority_number],
        "partition": claim.keys.partition,
        "worker": worker_id,
    }
    if isinstance(outcome, Completed | Failed | Cancelled):
        logger.log(level, LogEvent("job ended", **fields))
    else:
        logger.log(level, LogEvent("attempt ended", **fields))
