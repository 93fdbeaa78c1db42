"""The outcome, as a table for people and as JSON for programs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from faults.suite import Row

_COLUMNS = ("runs", "jobs", "lost", "forgot", "dupl.", "mixed", "wrong", "broken", "p50 s", "p99 s")
_NAME_CHARS = 46
_CELL_CHARS = 7

HEAD = "fault".ljust(_NAME_CHARS) + "".join(column.rjust(_CELL_CHARS) for column in _COLUMNS)


def line(row: Row) -> str:
    """One row."""
    tally = row.tally
    numbers = (row.runs, tally.jobs, tally.lost, tally.forgotten)
    faults = (tally.duplicated, tally.mixed, tally.wrong, len(tally.broken))
    cells = list(map(str, (*numbers, *faults)))
    cells += [_seconds(tally.recoveries_s, share) for share in (0.5, 0.99)]
    text = row.fault.name.ljust(_NAME_CHARS) + "".join(cell.rjust(_CELL_CHARS) for cell in cells)
    figures = ["    " + "  ".join(f"{k} {v:g}" for k, v in run.items()) for run in tally.figures]
    complaints = [f"    not kept: {words}" for words in tally.broken[:10]]
    complaints += [f"    {words}" for words in tally.details[:10]]
    return "\n".join([text, *figures, *complaints])


def summary(rows: Sequence[Row]) -> str:
    """The last line."""
    runs, jobs = sum(row.runs for row in rows), sum(row.tally.jobs for row in rows)
    failing = [row.fault.name for row in rows if not row.kept]
    verdict = f"NOT kept under: {', '.join(failing)}" if failing else "all promises kept"
    return f"{len(rows)} faults, {runs} runs, {jobs} jobs: {verdict}"


def as_json(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Every row as plain data; times in seconds, None where there is none."""
    return [
        {
            "fault": row.fault.name,
            "runs": row.runs,
            "jobs": row.tally.jobs,
            "lost": row.tally.lost,
            "forgotten": row.tally.forgotten,
            "duplicated": row.tally.duplicated,
            "mixed": row.tally.mixed,
            "wrongly_completed": row.tally.wrong,
            "broken": row.tally.broken,
            "details": row.tally.details,
            "recovery_p50_s": quantile(row.tally.recoveries_s, 0.5),
            "recovery_p99_s": quantile(row.tally.recoveries_s, 0.99),
            "figures": row.tally.figures,
            "kept": row.kept,
        }
        for row in rows
    ]


def quantile(values: Sequence[float], share: float) -> float | None:
    """The nearest-rank quantile; None of nothing."""
    if not values:
        return None
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def _seconds(values: Sequence[float], share: float) -> str:
    value = quantile(values, share)
    return "–" if value is None else f"{value:.3f}"
