"""Answers as people and programs read them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence

from benchmarks.figures import Answer, Row, number

_HEADER = ("question", "ours", "baseline", "ratio", "target", "reached")


def cells(row: Row) -> tuple[str, ...]:
    """A row of the table, as `_HEADER` names them."""
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
    """One benchmark, the ratio last in each line."""
    return "\n".join([f"  {note}" for note in answer.notes] + [_line(row) for row in answer.rows])


def _line(row: Row) -> str:
    question, ours, baseline, ratio, target, reached = cells(row)
    parts = [f"darkq {ours}", baseline]
    parts.append(
        f"target {target}: {'reached' if reached == 'yes' else 'missed'}" if target else ""
    )
    parts.append(f"ratio {ratio}" if ratio else "")
    return f"  {question}: {', '.join(filter(None, parts))}"


def table(rows: Iterable[Row]) -> str:
    """All questions, in columns."""
    lines = [_HEADER, *map(cells, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def markdown(answers: Mapping[str, Answer], machine: Sequence[str]) -> str:
    """The machine, the table and the notes, for `docs/benchmarks.md`."""
    lines = [*(f"- {line}" for line in machine), ""]
    lines += [f"| {' | '.join(_HEADER)} |", "|---" * len(_HEADER) + "|"]
    lines += [f"| {' | '.join(cells(row))} |" for found in answers.values() for row in found.rows]
    notes = [f"- `{name}`: {note}" for name, found in answers.items() for note in found.notes]
    return "\n".join([*lines, "", *notes])


def as_json(answers: Mapping[str, Answer], machine: Sequence[str]) -> str:
    """Everything, with every repetition's number."""
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
            }
            for row in found.rows
        ]
        for name, found in answers.items()
    }
    return json.dumps({"machine": machine, "benchmarks": rows}, indent=2, ensure_ascii=False)
