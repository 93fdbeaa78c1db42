"""Formats results for people and for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence

from benchmarks.figures import Answer, Row, number

_HEADER = ("question", "ours", "baseline", "ratio", "target", "reached")


def cells(row: Row) -> tuple[str, ...]:
    """Return the cells of a row, in the order of `_HEADER`."""
    if row.failure:
        return (row.question, f"failed: {row.failure}", "", "", "", "")
    reached = {True: "yes", False: "no", None: ""}[row.reached]
    return (
        row.question,
        f"{row.ours} {row.unit}",
        f"{row.baseline_name}: {row.baseline} {row.unit}" if row.baseline else "",
        "" if row.ratio is None else number(row.ratio),
        "" if row.target is None else str(row.target),
        reached,
    )


def text(answer: Answer) -> str:
    """Format one benchmark, with the ratio at the end of each line."""
    return "\n".join([f"  {note}" for note in answer.notes] + [_line(row) for row in answer.rows])


def _line(row: Row) -> str:
    if row.failure:
        return f"  {row.question}: failed: {row.failure}"
    question, ours, baseline, ratio, target, reached = cells(row)
    parts = [f"darkq {ours}", baseline]
    parts.append(
        f"target {target}: {'reached' if reached == 'yes' else 'missed'}" if target else ""
    )
    parts.append(f"ratio {ratio}" if ratio else "")
    return f"  {question}: {', '.join(filter(None, parts))}"


def table(rows: Iterable[Row]) -> str:
    """Format all rows in columns. An error does not widen its column."""
    rows = list(rows)
    lines = [_HEADER, *map(cells, rows)]
    in_columns = [_HEADER, *(cells(row) for row in rows if not row.failure)]
    widths = [max(map(len, column)) for column in zip(*in_columns, strict=True)]
    widths[0] = max(len(line[0]) for line in lines)
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def markdown(answers: Mapping[str, Answer], machine: Sequence[str]) -> str:
    """Format the machine, the table and the notes for `docs/benchmarks.md`."""
    lines = [*(f"- {line}" for line in machine), ""]
    lines += [f"| {' | '.join(_HEADER)} |", "|---" * len(_HEADER) + "|"]
    rows = [row for found in answers.values() for row in found.rows]
    lines += [f"| {' | '.join(_escaped(row))} |" for row in rows]
    notes = [f"- `{name}`: {note}" for name, found in answers.items() for note in found.notes]
    return "\n".join([*lines, "", *notes])


def _escaped(row: Row) -> list[str]:
    return [cell.replace("|", "\\|") for cell in cells(row)]


def as_json(answers: Mapping[str, Answer], machine: Sequence[str]) -> str:
    """Format everything as JSON, with the number of each repetition."""
    rows = {
        name: [
            {
                "question": row.question,
                "unit": row.unit,
                "ours": row.ours.values,
                "baseline_name": row.baseline_name,
                "baseline": row.baseline.values if row.baseline else None,
                "ratio": row.ratio,
                "target": str(row.target) if row.target else None,
                "reached": row.reached,
                "failure": row.failure or None,
            }
            for row in found.rows
        ]
        for name, found in answers.items()
    }
    return json.dumps({"machine": machine, "benchmarks": rows}, indent=2, ensure_ascii=False)
