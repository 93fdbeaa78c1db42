"""How an attempt ends: its outcome, what is stored of it, and the script call that does it.

    Completed, Failed, Cancelled ──► Finish    stores a result and ends the job
    TryAgain, HandBack, Deferred ──► Release   returns the job to its queue
    Lost                         ──► nothing   the job belongs to another run

The settlement is sent together with the unsent text, in one script call. `Release` counts delays by
the clock of Redis: no clock of a worker decides when a job is due.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

from msgspec import UNSET, UnsetType

from darkq import event as ev
from darkq.event import Cursor
from darkq.jobs.cancel import CANCELLED
from darkq.protocol.answer_events import build_terminal_event
from darkq.protocol.record import (
    FUNCTION,
    KEPT_CHARS,
    BeyondText,
    Details,
    Failure,
    JobRecord,
    KeptRequest,
    ResultRecord,
    encode,
)
from darkq.protocol.record import Outcome as EndName
from darkq.redis import scripts
from darkq.redis.raw import Command
from darkq.settings.settings import Settings
from darkq_worker.leases import Claim
from darkq_worker.pieces import AnyPiece, assemble
from darkq_worker.upstreams.base import End
from darkq_worker.writing.attempt_log import AttemptLog, Entry, Settlement


class Completed(NamedTuple):
    """The upstream reported that the answer is complete."""

    end: End

    def __str__(self) -> str:
        return "completed"


class Failed(NamedTuple):
    """No answer, and no further attempt."""

    code: str
    message: str

    def __str__(self) -> str:
        return "failed"


class Cancelled(NamedTuple):
    """The job was cancelled; the connection to the upstream is closed."""

    def __str__(self) -> str:
        return "cancelled"


class TryAgain(NamedTuple):
    """The attempt failed; another one follows after `delay_s` seconds. Uses a try."""

    reason: str
    delay_s: float
    message: str = ""

    def __str__(self) -> str:
        return "retrying"


class HandBack(NamedTuple):
    """This worker shuts down; another one continues at once. Uses no try."""

    def __str__(self) -> str:
        return "handed_back"


class Deferred(NamedTuple):
    """The job cannot run before `turn_ms`, by the clock of Redis, or for `delay_s` seconds.

    Uses no try. `upstream` is the one without room for the call.
    """

    turn_ms: float = 0.0
    upstream: str = ""
    delay_s: float | None = None

    def __str__(self) -> str:
        return "deferred"


class Lost(NamedTuple):
    """The job belongs to another run: change nothing."""

    def __str__(self) -> str:
        return "lost"


Outcome: TypeAlias = Completed | Failed | Cancelled | TryAgain | HandBack | Deferred | Lost
"""`str` of an outcome is its name in log records and spans."""


class Finish(Settlement):
    """The job has ended. The record of a failed job is kept for as long as its result."""

    def __init__(
        self,
        claim: Claim,
        log: AttemptLog,
        event: Entry,
        result: bytes,
        *,
        result_ttl_s: float,
        failed: bool = False,
        has_history: bool = False,
    ) -> None:
        super().__init__(claim, log)
        self._event = event
        self._result = result
        self._result_ttl_s = result_ttl_s
        self._failed = failed
        self._has_history = has_history

    def command(self, *, in_cluster: bool) -> Command:
        return scripts.finish_call(
            self.claim,
            [*self.log.seal(), self._event],
            result=self._result,
            result_ttl_s=self._result_ttl_s,
            failed=self._failed,
            has_history=self._has_history,
            in_cluster=in_cluster,
        )


class Release(Settlement):
    """The job returns to its queue: after `delay_s`, or at `queued_at_ms` by the clock of Redis.

    Its record is kept for `job_ttl_s` after it is due, like that of a new job. Without an event,
    readers are not notified.
    """

    def __init__(
        self,
        claim: Claim,
        log: AttemptLog,
        event: Entry | None,
        *,
        delay_s: float | None,
        queued_at_ms: float,
        burns_try: bool,
        job_ttl_s: float,
    ) -> None:
        super().__init__(claim, log)
        self._events = [event] if event else []
        self._delay_s = delay_s
        self._queued_at_ms = queued_at_ms
        self._burns_try = burns_try
        self._job_ttl_s = job_ttl_s

    def command(self, *, in_cluster: bool) -> Command:
        return scripts.release_call(
            self.claim,
            [*self.log.seal(), *self._events],
            delay_s=self._delay_s,
            queued_at_ms=self._queued_at_ms,
            burns_try=self._burns_try,
            job_ttl_s=self._job_ttl_s,
            in_cluster=in_cluster,
        )


def make_settlement(
    outcome: Outcome,
    claim: Claim,
    log: AttemptLog,
    settings: Settings,
    *,
    record: JobRecord | None,
    started_ms: int,
) -> Settlement | None:
    """Return the settlement of an attempt, and close its log; None if the job is lost."""
    if isinstance(outcome, Lost):
        return None
    pieces, cursor = log.close()
    now_ms = int(time.time() * 1000)
    if isinstance(outcome, Deferred):
        return Release(
            claim,
            log,
            None,
            delay_s=outcome.delay_s,
            queued_at_ms=outcome.turn_ms,
            burns_try=False,
            job_ttl_s=settings.job_ttl_s,
        )
    if isinstance(outcome, TryAgain | HandBack):
        return Release(
            claim,
            log,
            _make_entry(_make_retrying(outcome, cursor, now_ms)),
            delay_s=outcome.delay_s if isinstance(outcome, TryAgain) else None,
            queued_at_ms=claim.queued_at_ms,  # the old score: ahead of jobs enqueued since
            burns_try=isinstance(outcome, TryAgain),
            job_ttl_s=settings.job_ttl_s,
        )
    prompt = record.job.question[:KEPT_CHARS] if record and settings.results_keep_prompts else ""
    result = _make_result(outcome, claim, log, pieces, record, prompt, started_ms, now_ms)
    failed = isinstance(outcome, Failed)
    ttl_s = settings.failed_ttl_s if failed else settings.result_ttl_s
    return Finish(
        claim,
        log,
        _make_entry(build_terminal_event(result, cursor)),
        encode(result),
        result_ttl_s=ttl_s,
        failed=failed,
        has_history=result.h is not UNSET,
    )


def _make_entry(event: ev.Event) -> Entry:
    return Entry(event.id, ev.encode(event))


def _make_retrying(outcome: TryAgain | HandBack, at: Cursor, now_ms: int) -> ev.Retrying:
    if isinstance(outcome, HandBack):
        outcome = TryAgain("worker_shutdown", 0)
    return ev.Retrying(
        id=str(at),
        attempt=at.attempt,
        reason=outcome.reason,
        retry_in_s=round(outcome.delay_s, 3),
        at_ms=now_ms,
        message=outcome.message,
    )


def _make_result(
    outcome: Completed | Failed | Cancelled,
    claim: Claim,
    log: AttemptLog,
    pieces: Sequence[AnyPiece],
    record: JobRecord | None,
    prompt: str,
    started_ms: int,
    now_ms: int,
) -> ResultRecord:
    name: EndName
    answer: str | Failure
    beyond: BeyondText | UnsetType = UNSET
    match outcome:
        case Completed():
            name = "completed"
            answer, beyond = assemble(pieces)
        case Failed(code, message):
            name, answer = "failed", Failure(type="JobFailed", code=code, message=message)
        case Cancelled():
            name, answer = "cancelled", CANCELLED
    end = outcome.end if isinstance(outcome, Completed) else None
    return ResultRecord(
        t=claim.attempt,
        f=record.f if record else FUNCTION,
        et=record.et if record else started_ms,
        s=end is not None,
        r=answer,
        b=beyond,
        p=_keep_request(record) if end is not None else UNSET,
        h=log.make_history() if end is not None and record and record.h else UNSET,
        st=started_ms,
        ft=now_ms,
        q=claim.queue,
        id=claim.keys.arq_id,
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
            prompt=prompt,
            ignored=log.ignored,
        ),
    )


def _keep_request(record: JobRecord | None) -> KeptRequest | UnsetType:
    if record is None or not record.job.keeps_request:
        return UNSET
    return KeptRequest(prompt=record.job.prompt, parameters=record.job.parameters)
