"""One log line for each attempt's end: how it ended, and where its time went.

    enqueued ─ waited ─► claimed ─ first chunk ─► text ─ generating ─► end ─ settling ─► Redis
       └────────────────────────────────── total ─────────────────────────────────────────┘

`job ended` is said once of a job, when Redis has its end. After any other end of an attempt,
`attempt ended`, another one follows: here or elsewhere.
"""

from __future__ import annotations

import logging
import time

from darkq.protocol.keys import PRIORITIES
from darkq.telemetry.logging import LogEvent
from darkq_worker.attempts import outcome as oc
from darkq_worker.attempts.attempt import Attempt
from darkq_worker.attempts.outcome import Outcome
from darkq_worker.writing.attempt_log import AttemptLog

logger = logging.getLogger("darkq.worker")

_LEVELS: dict[type[Outcome], int] = {oc.Failed: logging.WARNING, oc.Deferred: logging.DEBUG}
_LAST = (oc.Completed, oc.Failed, oc.Cancelled)


def report(outcome: Outcome, attempt: Attempt, log: AttemptLog, worker_id: str) -> None:
    """Write the line. Seconds are of this process's clock, but for `total_s` and `waited_s`.

    `waited_s` is by the clock of Redis, from when the job was due; `total_s` from the producer's.
    """
    level = _LEVELS.get(type(outcome), logging.INFO)
    if not logger.isEnabledFor(level):
        return
    claim, record, now_s = attempt.claim, attempt.record, time.perf_counter()
    first_s, ended_s = log.first_chunk_s, attempt.ended_s
    logger.log(
        level,
        LogEvent(
            "job ended" if isinstance(outcome, _LAST) else "attempt ended",
            job=claim.keys.public_id,
            attempt=claim.attempt,
            outcome=str(outcome),
            code=_code(outcome),
            retry_in_s=round(outcome.delay_s, 4) if isinstance(outcome, oc.TryAgain) else None,
            model=log.model or (record.job.model if record else None),
            upstream=log.upstream or None,
            tries=claim.tries_burnt + 1,
            chunks=log.chunks,
            chars=log.chars,
            waited_s=round(claim.waited_s, 4),
            first_chunk_s=round(first_s - attempt.started_s, 4) if first_s else None,
            generating_s=round(ended_s - first_s, 4) if first_s else None,
            settling_s=round(now_s - ended_s, 4),
            total_s=round(time.time() - record.et / 1000, 4) if record else None,
            priority=PRIORITIES[claim.priority_number],
            partition=claim.keys.partition,
            worker=worker_id,
        ),
    )


def _code(outcome: Outcome) -> str | None:
    if isinstance(outcome, oc.Failed):
        return outcome.code
    return outcome.reason if isinstance(outcome, oc.TryAgain) else None
