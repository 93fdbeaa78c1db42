"""How one attempt of a job can end. `str` is its word in log lines and spans."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from darkq_worker.upstreams.base import End


class Completed(NamedTuple):
    """The upstream said that the answer is complete."""

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
    """Somebody cancelled the job; the upstream's connection is closed."""

    def __str__(self) -> str:
        return "cancelled"


class TryAgain(NamedTuple):
    """The attempt failed; another may help after `delay_s` seconds. Burns a try."""

    reason: str
    delay_s: float
    message: str = ""

    def __str__(self) -> str:
        return "retrying"


class HandBack(NamedTuple):
    """This worker shuts down; another goes on at once. Burns no try."""

    def __str__(self) -> str:
        return "handed_back"


class Deferred(NamedTuple):
    """It cannot run yet: not before `turn_ms`, by the clock of Redis, or for `delay_s`.

    Burns no try. `upstream` is the one that has no room for it.
    """

    turn_ms: float = 0.0
    upstream: str = ""
    delay_s: float | None = None

    def __str__(self) -> str:
        return "deferred"


class Lost(NamedTuple):
    """The job is somebody else's by now: change nothing any more."""

    def __str__(self) -> str:
        return "lost"


Outcome: TypeAlias = Completed | Failed | Cancelled | TryAgain | HandBack | Deferred | Lost
