"""From how an attempt ended to what is stored of it, and what readers are told."""

from __future__ import annotations

import time
from typing import TypeAlias, assert_never

from darkq import event as ev
from darkq.jobs.cancel import CANCELLED
from darkq.protocol.record import FUNCTION, Details, Failure, ResultRecord, encode
from darkq.protocol.record import Outcome as Name
from darkq.settings.settings import Settings
from darkq_worker.attempts import outcome as oc
from darkq_worker.attempts.attempt import Attempt
from darkq_worker.attempts.outcome import Outcome
from darkq_worker.writing.attempt_log import AttemptLog, Entry
from darkq_worker.writing.settlement import Finish, Release, Settlement

Told: TypeAlias = oc.Completed | oc.Failed | oc.Cancelled | oc.TryAgain | oc.HandBack
"""What readers hear of."""


def settlement_of(
    outcome: Outcome, attempt: Attempt, log: AttemptLog, settings: Settings
) -> Settlement | None:
    """Return the script call that ends an attempt; None when the job is not ours any more."""
    if isinstance(outcome, oc.Lost):
        return None
    text, cursor = log.close()
    at_ms = int(time.time() * 1000)
    if isinstance(outcome, oc.Deferred):
        return Release(
            attempt.claim,
            log,
            None,
            delay_s=outcome.delay_s,
            place_ms=outcome.turn_ms,
            burns_try=False,
            job_ttl_s=settings.job_ttl_s,
        )
    event = _event(outcome, str(cursor), attempt.claim.attempt, at_ms)
    entry = Entry(event.id, ev.encode(event))
    if isinstance(outcome, oc.TryAgain | oc.HandBack):
        return Release(
            attempt.claim,
            log,
            entry,
            delay_s=outcome.delay_s if isinstance(outcome, oc.TryAgain) else None,
            place_ms=attempt.claim.place_ms,
            burns_try=isinstance(outcome, oc.TryAgain),
            job_ttl_s=settings.job_ttl_s,
        )
    result = _result(outcome, text, attempt, log, at_ms)
    failed = isinstance(outcome, oc.Failed)
    ttl_s = settings.failed_ttl_s if failed else settings.result_ttl_s
    return Finish(attempt.claim, log, entry, encode(result), result_ttl_s=ttl_s, failed=failed)


def _event(outcome: Told, id_: str, attempt: int, at_ms: int) -> ev.Event:
    match outcome:
        case oc.Completed(end):
            return ev.Completed(
                id=id_, finish_reason=end.finish_reason, usage=end.usage, at_ms=at_ms
            )
        case oc.Failed(code, message):
            return ev.Failed(id=id_, code=code, message=message, at_ms=at_ms)
        case oc.Cancelled():
            return ev.Cancelled(id=id_, at_ms=at_ms)
        case oc.TryAgain(reason, delay_s, message):
            return ev.Retrying(
                id=id_,
                attempt=attempt,
                reason=reason,
                retry_in_s=round(delay_s, 3),
                at_ms=at_ms,
                message=message,
            )
        case oc.HandBack():
            return ev.Retrying(
                id=id_, attempt=attempt, reason="worker_shutdown", retry_in_s=0, at_ms=at_ms
            )
        case _:
            assert_never(outcome)


def _result(
    outcome: oc.Completed | oc.Failed | oc.Cancelled,
    text: str,
    attempt: Attempt,
    log: AttemptLog,
    at_ms: int,
) -> ResultRecord:
    name: Name
    answer: str | Failure
    match outcome:
        case oc.Completed():
            name, answer = "completed", text
        case oc.Failed(code, message):
            name, answer = "failed", Failure(type="JobFailed", code=code, message=message)
        case oc.Cancelled():
            name, answer = "cancelled", CANCELLED
    end = outcome.end if isinstance(outcome, oc.Completed) else None
    record = attempt.record
    return ResultRecord(
        t=attempt.claim.attempt,
        f=record.f if record else FUNCTION,
        et=record.et if record else attempt.started_ms,
        s=end is not None,
        r=answer,
        st=attempt.started_ms,
        ft=at_ms,
        q=attempt.claim.queue,
        id=attempt.claim.keys.arq_id,
        d=Details(
            outcome=name,
            model=log.model,
            upstream=log.upstream,
            finish_reason=end.finish_reason if end else "",
            usage=end.usage if end else None,
            chunks=log.chunks,
            first_chunk_ms=log.first_chunk_ms,
            metadata=record.job.metadata if record else {},
            tenant=record.job.tenant if record else None,
        ),
    )
