"""One job as plain Python: who holds it, what its log must say, how it ends.

A *hold* is one claim of a job by one worker. It is the job's holder until it gives the job
back, ends it, or another claim takes its place; whatever a former holder does comes to nothing.
That one sentence stands here for the token, the attempt number and the `held` flag of the
scripts.

Scores and record times come from the server's and the producer's clock. The model knows them as
spans, and takes over what it finds in Redis once it lies within (`pin`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from darkq import event as ev
from darkq.event import Cursor, Event
from darkq.jobs.cancel import CANCELLED
from darkq.protocol.keys import JobKeys, PartitionKeys
from darkq.protocol.record import Failure
from darkq_worker.attempts import outcome as oc
from integration.model.facts import (
    LEASE_MS,
    MODEL,
    UPSTREAM,
    Content,
    End,
    Ending,
    Release,
    Span,
    Verdict,
)


@dataclass(eq=False)
class Hold:
    """One claim, and the events that its worker makes, whether Redis takes them or not.

    `lost`: its worker knows that the log is not its own any more, and writes nothing further.
    """

    job: Job
    attempt: int
    token: str
    place: Span
    recorded: bool
    started: bool = False
    texts: list[str] = field(default_factory=list)
    chunks: int = 0
    events: list[Event] = field(default_factory=list)
    lost: bool = False

    def __repr__(self) -> str:
        return f"<{self.token} of {self.job!r}>"

    @property
    def is_ours(self) -> bool:
        return self.job.holder is self

    def write(self, pieces: Sequence[str]) -> list[Event]:
        """Return the events that these pieces become; the first ones bring `started` along."""
        events: list[Event] = []
        if pieces and not self.started:
            self.started = True
            id_, attempt = str(Cursor(self.attempt, 0)), self.attempt
            events.append(
                ev.Started(id=id_, attempt=attempt, model=MODEL, upstream=UPSTREAM, at_ms=0)
            )
        if pieces:
            text = "".join(pieces)
            events.append(ev.Chunk(id=self.next_id, text=text, merged=len(pieces)))
            self.texts.append(text)
            self.chunks += len(pieces)
        self.events += events
        return events

    def append(self, pieces: Sequence[str]) -> bool:
        """Write these pieces; return whether the log took them."""
        events = self.write(pieces)
        self.lost = self.lost or not self.job.append(events)
        return not self.lost

    def resume(self) -> bool:
        """Find out where the log stands, and send what it lacks; return whether that was taken."""
        job = self.job
        is_anothers = job.is_leased and not self.is_ours
        if job.log is None or is_anothers or job.log[-1].cursor.attempt > self.attempt:
            self.lost = True
        if self.lost or job.log is None:
            return False
        missing = [event for event in self.events if event.cursor > job.log[-1].cursor]
        self.lost = not job.append(missing)
        return bool(missing) and not self.lost

    def go_on_as(self, earlier: Hold) -> None:
        """Pass on what the worker has written since to the same claim at an earlier moment."""
        earlier.started, earlier.chunks = self.started, self.chunks
        earlier.texts, earlier.events = self.texts, self.events

    @property
    def next_id(self) -> str:
        return str(Cursor(self.attempt, len(self.texts) + self.started))

    def last_events(self, outcome: End | Release) -> list[Event]:
        """What readers are told of the end: nothing when the job was put off."""
        return [] if isinstance(outcome, oc.Deferred) else [self._last_event(outcome)]

    def _last_event(self, outcome: End | oc.TryAgain | oc.HandBack) -> Event:
        match outcome:
            case oc.Completed(end):
                return ev.Completed(id=self.next_id, finish_reason=end.finish_reason)
            case oc.Failed(code, message):
                return ev.Failed(id=self.next_id, code=code, message=message, at_ms=0)
            case oc.Cancelled():
                return ev.Cancelled(id=self.next_id, at_ms=0)
            case oc.TryAgain(reason, delay_s):
                return self._retrying(reason, delay_s)
            case oc.HandBack():
                return self._retrying("worker_shutdown", 0)

    def _retrying(self, reason: str, delay_s: float) -> Event:
        return ev.Retrying(
            id=self.next_id, attempt=self.attempt, reason=reason, retry_in_s=delay_s, at_ms=0
        )

    def ending(self, outcome: End) -> Ending:
        answer: str | Failure = CANCELLED
        if isinstance(outcome, oc.Completed):
            answer = "".join(self.texts)
        elif isinstance(outcome, oc.Failed):
            answer = Failure(type="JobFailed", code=outcome.code, message=outcome.message)
        return Ending(
            outcome=type(outcome).__name__.lower(),
            attempt=self.attempt,
            answer=answer,
            queue=self.job.queue,
            chunks=self.chunks,
            model=MODEL if self.started else "",
            upstream=UPSTREAM if self.started else "",
            finish_reason=outcome.end.finish_reason if isinstance(outcome, oc.Completed) else "",
            metadata=self.job.content.metadata if self.recorded else {},
        )


@dataclass(eq=False)
class Job:
    """One job. `score` is None when it stands in no queue, `log` when there is none.

    A failed one is `listed`, and its record may be `kept`. `taken_out` was removed by hand.
    """

    keys: JobKeys
    content: Content
    et: Span
    score: Span | None
    recorded: bool = True
    attempt: int = 0
    holder: Hold | None = None
    lease_end: Span | None = None
    tries: int = 0
    lost: int = 0
    to_cancel: bool = False
    ending: Ending | None = None
    result_expired: bool = False
    taken_out: bool = False
    kept: bool = False
    listed: bool = False
    log: list[Event] | None = field(
        default_factory=lambda: list[Event]([ev.Queued(id="0-1", at_ms=0)])
    )

    def __repr__(self) -> str:
        return f"job {int(self.keys.random, 16)}"

    def _repr_pretty_(self, printer: Any, _: bool) -> None:
        printer.text(repr(self))

    @property
    def queue(self) -> str:
        return PartitionKeys(self.keys.partition).queue(self.content.priority)

    @property
    def is_unfinished(self) -> bool:
        return self.ending is None and not self.result_expired

    @property
    def is_leased(self) -> bool:
        return self.lease_end is not None

    def is_due(self, now_ms: float) -> bool:
        """Nothing here is due in the near future, only in the past or in half an hour."""
        return self.score is not None and self.score.high < now_ms + LEASE_MS / 4

    def move(self, score: Span) -> None:
        """Change the place in the queue of a job that stands in one."""
        if self.score is not None:
            self.score = score

    def append(self, events: Sequence[Event]) -> bool:
        """Log events, all or none: a log takes nothing that is not after its last event.

        Nor the beginning of an attempt that is not the latest.
        """
        if self.log is None or (events and events[0].cursor <= self.log[-1].cursor):
            return False
        first = events[0] if events else None
        if isinstance(first, ev.Started) and (self.ending or first.attempt != self.attempt):
            return False
        self.log += events
        return True

    def take(self, worker_id: str, now: Span) -> Hold:
        """Claim: the next attempt, under a lease."""
        assert self.score is not None
        if self.holder is not None:
            self.lost += 1
        self.attempt += 1
        self.holder = Hold(
            self, self.attempt, f"{worker_id}:{self.attempt}", self.score, self.recorded
        )
        self.lease(now)
        return self.holder

    def lease(self, now: Span) -> None:
        self.lease_end = now.later(LEASE_MS)
        self.move(self.lease_end)

    def settle(self, hold: Hold, pieces: Sequence[str], outcome: End | Release, now: Span) -> bool:
        """End an attempt, or give the job back; False, and nothing, when it is another's."""
        if not hold.is_ours:
            return False
        logged = self.append([*hold.write(pieces), *hold.last_events(outcome)])
        assert logged or self.log is None
        if isinstance(outcome, oc.TryAgain | oc.HandBack | oc.Deferred):
            self._give_back(outcome, hold.place, now)
        else:
            self._end(hold.ending(outcome))
        return True

    def _give_back(self, outcome: Release, place: Span, now: Span) -> None:
        self.holder = self.lease_end = None
        if isinstance(outcome, oc.TryAgain):
            self.tries += 1
            place = now.later(outcome.delay_s * 1000)
        elif isinstance(outcome, oc.Deferred):
            place = Span(outcome.turn_ms, outcome.turn_ms)
        # Whoever claims it next will end it: that need not wait.
        self.move(now if self.to_cancel and place.low > now.low else place)

    def _end(self, ending: Ending) -> None:
        self.ending = ending
        if ending.outcome == "failed":
            self.listed, self.kept = True, self.recorded
        self.holder = self.lease_end = self.score = None
        self.recorded = False

    def cancel(self) -> Verdict:
        if self.ending:
            return "finished"
        if self.is_leased or (self.holder and self.score):
            self.to_cancel = True
            return "running"
        if self.score is None and not self.recorded:
            return "unknown"
        attempt = self.attempt + 1
        self.append([ev.Cancelled(id=str(Cursor(attempt, 0)), at_ms=0)])
        where = (
            self.queue if self.recorded else PartitionKeys(self.keys.partition).queue("interactive")
        )
        metadata = self.content.metadata if self.recorded else {}
        self._end(Ending("cancelled", attempt, CANCELLED, where, metadata=metadata))
        return "cancelled"

    def retry(self, now: Span) -> bool:
        """Run it again if it has failed: its end is taken back, its attempts count on."""
        if not self.kept or self.ending is None:
            return False
        self.attempt = self.ending.attempt + 1
        self.log = [] if self.log is None else self.log[:-1]
        self.log.append(ev.Queued(id=str(Cursor(self.attempt, 0)), at_ms=0))
        self.ending, self.score, self.recorded = None, now, True
        self.kept = self.listed = self.to_cancel = False
        self.tries = self.lost = 0
        return True

    def expire(self) -> None:
        """Everything of it is gone; of a failure the list still knows."""
        self.recorded = self.to_cancel = self.kept = False
        self.attempt = self.tries = self.lost = 0
        self.holder = self.log = None
        self.result_expired |= self.ending is not None
        self.ending = None

    def status(self, now_ms: float) -> tuple[str, int, int] | None:
        """State, attempt and tries, as a status must tell them; None: no such job."""
        if self.ending:
            return self.ending.outcome, self.ending.attempt, 0
        if self.score is None and not self.recorded:
            return None
        return self._state(now_ms), self.attempt, self.tries

    def _state(self, now_ms: float) -> str:
        if self.to_cancel:
            return "cancelling"
        if self.is_leased:
            return "running"
        return "queued" if self.score is None or self.is_due(now_ms) else "deferred"

    def picture(self) -> dict[str, object]:
        """What must stand under its own keys."""
        state = {
            "held": "1" if self.holder else None,
            "tries": str(self.tries) if self.tries else None,
            "lost": str(self.lost) if self.lost else None,
            "cancel": "1" if self.to_cancel else None,
        }
        waits = self.ending is None
        everything: dict[str, object] = {
            self.keys.job: self.content.job() if self.recorded else None,
            self.keys.retry: self.attempt if waits else None,
            self.keys.in_progress: self.holder.token if self.holder and self.is_leased else None,
            self.keys.state: {name: text for name, text in state.items() if text and waits},
            self.keys.result: self.ending,
            self.keys.events: self.log,
            self.keys.failed: self.content.job() if self.kept else None,
        }
        return {name: value for name, value in everything.items() if value}
