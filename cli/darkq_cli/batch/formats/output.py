"""The lines to write: OpenAI's output lines, or the answer beside the fields of the input."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from darkq.batches.answers import answer_line, failure_line
from darkq.batches.lines import Text
from darkq.openai.body import Endpoint
from darkq.protocol.result import Result
from darkq_cli.batch.formats.rows import DELIMITERS, Kind, read_fields, to_text

_ID = "custom_id"
_ERROR = "error"
_LINE_BYTES = 1 << 20


class OutputFormat(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How the answers are written: alone, or joined with the fields of the input."""

    kind: Kind = "jsonl"
    join: bool = False
    answer_field: str = "answer"

    @property
    def is_table(self) -> bool:
        return self.kind in DELIMITERS


class Renderer:
    """Makes the lines of the output and of the errors file.

    `columns` are those of the input. `row` is a line of the input; only a joined output needs it.
    """

    def __init__(
        self, source: Kind, output: OutputFormat, endpoint: Endpoint, columns: Iterable[str]
    ) -> None:
        self._source: Kind = source
        self._output = output
        self._endpoint: Endpoint = endpoint
        columns = tuple(columns) if output.join else (_ID,)
        self._columns = {
            failed: tuple(dict.fromkeys((*columns, self._last_field(failed=failed))))
            for failed in (False, True)
        }

    def head(self, *, failed: bool) -> bytes:
        """Return what a file begins with: of a table, the names of its columns."""
        return self._cells(self._columns[failed]) if self._output.is_table else b""

    def answer(self, custom_id: str, result: Result, row: bytes) -> bytes:
        """Return the line of a completed job."""
        if self._output.kind == "text":
            return " ".join(result.text.splitlines()).encode() + b"\n"
        if self._has_envelope:
            return answer_line(custom_id, result, self._endpoint)
        return self._joined(custom_id, row, result.text, failed=False)

    def failure(self, custom_id: str, job_id: str, code: str, message: str, row: bytes) -> bytes:
        """Return the line of a job without an answer."""
        if self._output.kind == "text":
            return f"{custom_id}: {code}: {' '.join(message.splitlines())}\n".encode()
        if self._has_envelope:
            return failure_line(custom_id, job_id, code, message)
        return self._joined(custom_id, row, f"{code}: {message}", failed=True)

    @property
    def _has_envelope(self) -> bool:
        return self._output.kind == "jsonl" and not self._output.join

    def _joined(self, custom_id: str, row: bytes, last: str, *, failed: bool) -> bytes:
        fields: dict[str, Any] = {_ID: custom_id}
        if self._output.join:
            fields = read_fields(self._source, Text(0, row))
        fields[self._last_field(failed=failed)] = last
        if not self._output.is_table:
            return msgspec.json.encode(fields) + b"\n"
        return self._cells(to_text(fields.get(name)) for name in self._columns[failed])

    def _last_field(self, *, failed: bool) -> str:
        return _ERROR if failed else self._output.answer_field

    def _cells(self, cells: Iterable[str]) -> bytes:
        line = io.StringIO()
        delimiter = DELIMITERS[self._output.kind]
        csv.writer(line, delimiter=delimiter, lineterminator="\n").writerow(cells)
        return line.getvalue().encode()


def read_failure(output: OutputFormat, path: Path) -> str:
    """Return the first failure of an errors file as a text; "" when it cannot be read."""
    try:
        with path.open("rb") as file:
            return _parse_failure(output, iter(partial(file.readline, _LINE_BYTES), b""))
    except (OSError, ValueError, StopIteration, msgspec.DecodeError, csv.Error):
        return ""


def _parse_failure(output: OutputFormat, lines: Iterator[bytes]) -> str:
    if output.kind == "text":
        return next(lines).decode().strip()
    if output.is_table:
        cells = csv.reader((line.decode() for line in lines), delimiter=DELIMITERS[output.kind])
        column = next(cells).index(_ERROR)
        return next(cells)[column]
    failure = msgspec.json.decode(next(lines), type=_Failure)
    if isinstance(failure.error, str):
        return failure.error
    return f"{failure.custom_id}: {failure.error.code}: {failure.error.message}"


class _Error(msgspec.Struct):
    code: str
    message: str


class _Failure(msgspec.Struct):
    error: str | _Error
    custom_id: str | int = ""
