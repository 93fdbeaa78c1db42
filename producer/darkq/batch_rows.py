"""Rows of whatever people have at hand, as lines of a batch. No I/O.

A row is a prompt, a `Job`, a dict, a named tuple (as of `DataFrame.itertuples()`), or a `Line`.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping
from typing import Any, TypeAlias

import msgspec
from msgspec.structs import asdict

from darkq.batch_lines import MAX_CUSTOM_ID_CHARS, ForAllLines, Line
from darkq.errors import InvalidJob, InvalidLine
from darkq.job import Job, Prompt
from darkq.plain import plain

Row: TypeAlias = Prompt | Job | Line | Mapping[str, Any] | tuple[Any, ...]

MAX_LINES = 50_000_000
"""A line is a bit of a string in Redis: six megabytes at most."""


class Columns(msgspec.Struct, frozen=True, kw_only=True):
    """Where a row has its prompt and its id. Other columns are not looked at."""

    prompt: str = "prompt"
    custom_id: str = "custom_id"


def line_of(row: Row, number: int, columns: Columns, common: ForAllLines) -> Line:
    """Make a line of a row; its job is checked. Raises `InvalidLine`."""
    if isinstance(row, Line):
        return row
    fields = _fields(row)
    prompt: Any = row
    custom_id = None
    if fields is not None:
        if columns.prompt not in fields:
            raise InvalidLine(number, columns.prompt, "is missing")
        prompt, custom_id = fields[columns.prompt], fields.get(columns.custom_id)
    try:
        if isinstance(prompt, Job):
            job = Job.create(**asdict(prompt))
        else:
            job = Job.create(prompt, **{name: getattr(common, name) for name in _COMMON})
    except InvalidJob as error:
        raise InvalidLine(number, error.field, error.reason) from None
    name = f"line-{number}" if custom_id is None else plain(str(custom_id))
    return Line(number=number, custom_id=name, job=job)


def marked(line: Line) -> Line:
    """Return a line whose job carries the line's `custom_id`. Raises `InvalidLine`."""
    if not 1 <= line.number <= MAX_LINES:
        raise InvalidLine(line.number, "line", f"its number must be from 1 to {MAX_LINES:,}")
    if not 0 < len(line.custom_id) <= MAX_CUSTOM_ID_CHARS:
        reason = f"must be a string of 1 to {MAX_CUSTOM_ID_CHARS} characters"
        raise InvalidLine(line.number, "custom_id", reason)
    try:
        job = line.job.with_metadata(custom_id=line.custom_id)
    except InvalidJob as error:
        raise InvalidLine(line.number, error.field, error.reason) from None
    return msgspec.structs.replace(line, job=job)


async def numbered(
    rows: Iterable[Row] | AsyncIterable[Row], columns: Columns, common: ForAllLines
) -> AsyncIterator[Line]:
    """Yield rows as lines, from 1. Raises `InvalidLine`."""
    number = 0
    if isinstance(rows, AsyncIterable):
        async for row in rows:
            number += 1
            yield line_of(row, number, columns, common)
    else:
        for row in rows:
            number += 1
            yield line_of(row, number, columns, common)


_COMMON = ("model", "upstream", "priority", "timeout_s", "tries")


def _fields(row: Any) -> Mapping[str, Any] | None:
    if isinstance(row, Mapping):
        return row
    as_mapping = getattr(row, "_asdict", None)
    return as_mapping() if as_mapping is not None else None
