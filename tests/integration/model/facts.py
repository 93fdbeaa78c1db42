"""The plain data that the model and the photographs of Redis have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple, TypeAlias

from darkq.protocol import job as jobs
from darkq.protocol.record import Failure
from darkq_worker.attempts import outcome as oc

LEASE_MS = 3_600_000.0
RESPITE_MS = LEASE_MS / 2
MODEL, UPSTREAM = "a-model", "an-upstream"

End: TypeAlias = oc.Completed | oc.Failed | oc.Cancelled
Release: TypeAlias = oc.TryAgain | oc.HandBack | oc.Deferred
Verdict: TypeAlias = Literal["finished", "running", "cancelled", "unknown"]


class Span(NamedTuple):
    """Epoch milliseconds, as far as they are known."""

    low: float
    high: float

    def later(self, ms: float) -> Span:
        return Span(self.low + ms, self.high + ms)

    def pinned(self, found: float) -> Span:
        """Take over what was found, if it lies within; some times are whole milliseconds."""
        slack_ms = 0.001 if self.low == self.high else 2
        assert self.low - slack_ms <= found <= self.high + slack_ms, f"{found} is not in {self}"
        return Span(found, found)


class Content(NamedTuple):
    """What tells one job from another, as an idempotency key sees it."""

    prompt: str
    priority: jobs.Priority

    def job(self) -> jobs.Job:
        return jobs.Job.create(self.prompt, priority=self.priority, metadata=self.metadata)

    @property
    def metadata(self) -> dict[str, str]:
        return {"about": self.prompt}


class Ending(NamedTuple):
    """What a result record says, but for its times."""

    outcome: str
    attempt: int
    answer: str | Failure
    queue: str
    chunks: int = 0
    model: str = ""
    upstream: str = ""
    finish_reason: str = ""
    metadata: Mapping[str, str] = {}
