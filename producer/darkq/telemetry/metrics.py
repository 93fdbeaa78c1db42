"""The metrics: the counters and histograms of all workers, and how they are stored. No I/O.

Each worker counts in memory, in a `Tally`: an integer for each series, or for each bucket of it. A
hash in Redis has the sum of all workers:

    darkq_jobs_ended:completed:darkai            3
    darkq_pickup_seconds:interactive:7          12    observations in bucket 7
    darkq_pickup_seconds:interactive:sum     48211    their sum in microseconds

Label values are from short lists, or names of upstreams; they contain no data of a job.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeAlias

from darkq.protocol.keys import PRIORITIES

BOUNDS_S = tuple(
    mantissa * 10.0**exponent for exponent in range(-4, 4) for mantissa in (1.0, 2.5, 5.0)
)[:-2]
"""Upper bounds of the buckets of all histograms, 0.1 ms to 1,000 s; one more has no bound."""

OUTCOMES = ("completed", "failed", "cancelled")
NO_UPSTREAM = "none"
OTHER = "other"
CODES = frozenset(
    {
        # of a call to an upstream
        *("upstream_unreachable", "rate_limited", "upstream_overloaded", "truncated"),
        *("empty_answer", "timeout", "upstream_not_ready", "protocol_violation", "rejected"),
        *("unknown_model", "unknown_upstream", "answer_too_long", "upstream_error"),
        # of the worker
        *("internal_error", "expired", "worker_lost", "bad_record", "unknown_function"),
        *("worker_shutdown", OTHER),
    }
)
"""The codes of failed attempts; other codes are counted as `other`."""

MAX_S = 1e8
MAX_NUMBER = (1 << 63) - 1
_SUM = -1
_UPSTREAM = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
_DIGITS = re.compile(r"[0-9]{1,19}")

Labels: TypeAlias = tuple[str, ...]
Field: TypeAlias = tuple[str, Labels, int]
"""A measure's name, its label values, and the bucket: 0 for a counter, `_SUM` for the sum."""


class Times(NamedTuple):
    """A series of a histogram: the observations in each bucket, and their sum in seconds.

    The last bucket has no upper bound.
    """

    buckets: tuple[int, ...]
    sum_s: float


class Measure(NamedTuple):
    """A counter, or a histogram of seconds. Its name is without `_total`."""

    name: str
    text: str
    labels: Labels = ()
    is_histogram: bool = False

    @property
    def bounds_s(self) -> tuple[float, ...]:
        """The upper bounds of a histogram's buckets."""
        return BOUNDS_S

    def counts(self, numbers: Mapping[Field, int]) -> dict[Labels, int]:
        """Return the series of a counter by label values."""
        return {labels: n for (name, labels, _), n in sorted(numbers.items()) if name == self.name}

    def times(self, numbers: Mapping[Field, int]) -> dict[Labels, Times]:
        """Return the series of a histogram by label values."""
        found: dict[Labels, Times] = {}
        for labels in sorted({labels for name, labels, _ in numbers if name == self.name}):
            counts = [numbers.get((self.name, labels, n), 0) for n in range(len(BOUNDS_S) + 1)]
            sum_s = numbers.get((self.name, labels, _SUM), 0) / 1e6
            found[labels] = Times(tuple(counts), sum_s)
        return found


JOBS_ENDED = Measure("darkq_jobs_ended", "Jobs that workers have ended.", ("outcome", "upstream"))
JOB_FAILURES = Measure(
    "darkq_job_failures", "Failed jobs among them, by why.", ("code", "upstream")
)
RETRIES = Measure(
    "darkq_retries", "Attempts after which the job is tried again, by why.", ("reason", "upstream")
)
JOBS_PUT_OFF = Measure(
    "darkq_jobs_put_off", "Times that a job was put off to its turn.", ("upstream",)
)
LEASES_LOST = Measure("darkq_leases_lost", "Leases that ran out, as the next claim found.")
CHUNKS = Measure("darkq_chunks", "Chunks of upstreams that event logs have taken.", ("upstream",))
PICKUP = Measure(
    "darkq_pickup_seconds", "From when a job is due to its claim.", ("priority",), is_histogram=True
)
FIRST_CHUNK = Measure(
    "darkq_first_chunk_seconds",
    "From the call of an upstream to its first chunk.",
    ("upstream",),
    is_histogram=True,
)
CHUNK_RELAY = Measure(
    "darkq_chunk_relay_seconds",
    "From the arrival of an event's first chunk to when Redis has it.",
    is_histogram=True,
)
MEASURES = (
    JOBS_ENDED,
    JOB_FAILURES,
    RETRIES,
    JOBS_PUT_OFF,
    LEASES_LOST,
    CHUNKS,
    PICKUP,
    FIRST_CHUNK,
    CHUNK_RELAY,
)
_BY_NAME = {measure.name: measure for measure in MEASURES}


class Tally:
    """Numbers that only grow, until `take` resets them."""

    def __init__(self) -> None:
        self._numbers: dict[Field, int] = {}

    def count(self, measure: Measure, *labels: str, by: int = 1) -> None:
        """Add to a counter."""
        self._add((measure.name, labels, 0), by)

    def observe(self, measure: Measure, seconds: float, *labels: str, by: int = 1) -> None:
        """Add a time to a histogram, `by` times, limited to 0 … `MAX_S`.

        Longer and negative ones come from a step of the clock.
        """
        seconds = min(max(0.0, seconds), MAX_S)
        self._add((measure.name, labels, bisect_left(BOUNDS_S, seconds)), by)
        self._add((measure.name, labels, _SUM), int(seconds * 1e6) * by)

    def take(self) -> dict[Field, int]:
        """Return all numbers, and reset them."""
        numbers, self._numbers = self._numbers, {}
        return numbers

    @property
    def numbers(self) -> Mapping[Field, int]:
        """The current numbers."""
        return self._numbers

    def _add(self, field: Field, number: int) -> None:
        self._numbers[field] = self._numbers.get(field, 0) + number


def code_label(code: str) -> str:
    """Return the label for a code."""
    return code if code in CODES else OTHER


def is_upstream_name(name: str) -> bool:
    """Return whether a text is a valid name of an upstream."""
    return _UPSTREAM.fullmatch(name) is not None


def write_field(field: Field) -> str:
    """Return the name of a number in the hash."""
    name, labels, part = field
    parts = (str(part) if part != _SUM else "sum",) if _BY_NAME[name].is_histogram else ()
    return ":".join((name, *labels, *parts))


def read_numbers(hash_: Iterable[tuple[bytes, bytes]]) -> dict[Field, int]:
    """Read the hash, without the fields that no worker can have written."""
    numbers: dict[Field, int] = {}
    for name, value in hash_:
        try:
            field, text = _read_field(name.decode("ascii")), value.decode("ascii")
        except UnicodeDecodeError:
            continue
        if field and _DIGITS.fullmatch(text) and int(text) <= MAX_NUMBER:
            numbers[field] = int(text)
    return numbers


def _read_field(text: str) -> Field | None:
    name, *rest = text.split(":")
    measure = _BY_NAME.get(name)
    if measure is None:
        return None
    part = 0
    if measure.is_histogram and rest:
        last = rest.pop()
        part = _PARTS.get(last, len(BOUNDS_S) + 1)
    if len(rest) != len(measure.labels) or part > len(BOUNDS_S):
        return None
    known = all(_IS_VALUE[label](value) for label, value in zip(measure.labels, rest, strict=True))
    return (name, tuple(rest), part) if known else None


_PARTS: dict[str, int] = {str(n): n for n in range(len(BOUNDS_S) + 1)} | {"sum": _SUM}
_IS_VALUE: dict[str, Callable[[str], Any]] = {
    "outcome": OUTCOMES.__contains__,
    "code": CODES.__contains__,
    "reason": CODES.__contains__,
    "priority": PRIORITIES.__contains__,
    "upstream": is_upstream_name,
}
