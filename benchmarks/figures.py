"""Numbers of a few repetitions, and their targets."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Literal, NamedTuple

_MAX_ERROR_CHARS = 160


class Figures(NamedTuple):
    """One number per repetition. Infinity means: it did not happen within the time given."""

    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Sequence[float]) -> Figures:
        return cls(tuple(values))

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def __str__(self) -> str:
        if not self.values:
            return "none"
        if math.isinf(self.median):
            return "never"
        if len(self.values) == 1:
            return number(self.median)
        low, high = number(min(self.values)), number(max(self.values))
        return f"{number(self.median)} ({low}–{high})"


class Target(NamedTuple):
    """The target of a ratio, or of our number if there is no baseline."""

    sense: Literal["≥", "≤"]
    bound: float

    def is_reached(self, value: float) -> bool:
        return value >= self.bound if self.sense == "≥" else value <= self.bound

    def __str__(self) -> str:
        return f"{self.sense} {number(self.bound)}"


class Row(NamedTuple):
    """A measurement and its ratio, ours divided by the baseline's; or why there is none."""

    question: str
    unit: str
    ours: Figures
    baseline: Figures | None = None
    baseline_name: str = ""
    target: Target | None = None
    failure: str = ""

    @classmethod
    def failed(cls, question: str, failure: str) -> Row:
        return cls(question, "", Figures(()), failure=failure)

    @property
    def ratio(self) -> float | None:
        if self.baseline is None or not self.ours.values:
            return None
        if not self.baseline.median:
            return math.inf if self.ours.median else math.nan
        return self.ours.median / self.baseline.median

    @property
    def reached(self) -> bool | None:
        """Return whether the target is reached; None without a target."""
        if self.target is None or not self.ours.values:
            return None
        return self.target.is_reached(self.ours.median if self.ratio is None else self.ratio)


class Answer(NamedTuple):
    """The output of a benchmark: rows for the table, and notes."""

    rows: list[Row]
    notes: list[str]

    @property
    def has_failed(self) -> bool:
        return any(row.failure for row in self.rows)


def error_line(error: BaseException) -> str:
    """Return an error as one line; of a group of errors, the first."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    text = " ".join(str(error).split())
    if len(text) > _MAX_ERROR_CHARS:
        text = text[: _MAX_ERROR_CHARS - 1] + "…"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the nearest-rank percentile."""
    ranked = sorted(values)
    return ranked[max(0, math.ceil(len(ranked) * percent / 100) - 1)]


def number(value: float) -> str:
    """Format a number with three significant digits and no exponent."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    decimals = 2 - math.floor(math.log10(abs(value)))
    return f"{round(value, decimals):,.{max(0, decimals)}f}"
