"""A line of an input, read into a job. Rows of tables arrive here as lines of JSON."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import msgspec

from darkq.batches.feed import Columns, row_to_line
from darkq.batches.lines import ForAllLines, Line, Text, decode_object, json_line, text_line
from darkq.errors import InvalidJob, InvalidLine
from darkq.protocol.prompt import add_system, check_prompt
from darkq.protocol.validation import UNKNOWN, show_name
from darkq_cli.terminal.problems import wrong_usage

Kind: TypeAlias = Literal["jsonl", "csv", "tsv", "text"]
DELIMITERS: Mapping[Kind, str] = {"csv": ",", "tsv": "\t"}
_SUFFIXES: Mapping[str, Kind] = {".csv": "csv", ".tsv": "tsv", ".txt": "text"}
_MAX_NAMES_SHOWN = 20
_COLUMNS = Columns()
_MARKS = re.compile(r"\{\{|\}\}|\{[^{}]*\}|[{}]")


def find_kind(name: str) -> Kind:
    """Return the format of a file by its name, without the name of its compression."""
    plain = name.lower().removesuffix(".gz").removesuffix(".zst")
    return _SUFFIXES.get(Path(plain).suffix, "jsonl")


class InputFormat(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How the lines of an input are read.

    `prompt` is a template, `prompt_field` and `id_field` are names of fields, `system` is a message
    before each prompt.
    """

    kind: Kind = "jsonl"
    prompt: str | None = None
    prompt_field: str | None = None
    id_field: str | None = None
    system: str | None = None

    @property
    def is_table(self) -> bool:
        return self.kind in DELIMITERS

    @property
    def has_columns(self) -> bool:
        """Tell whether the fields of a line are columns, and none is an option of the job."""
        return self.is_table or (self.prompt, self.prompt_field, self.id_field) != (None,) * 3

    def check(self) -> None:
        """Raise `Problem` for options that contradict each other, and for a wrong template."""
        if self.kind == "text" and self.has_columns and self.prompt is None:
            raise wrong_usage(
                "--prompt-field and --id-field are for inputs with fields, not for text"
            )
        if self.prompt is not None and self.prompt_field is not None:
            raise wrong_usage("--prompt and --prompt-field are given: choose one of them")
        if self.prompt is not None:
            parse_template(self.prompt)

    def check_columns(self, name: str, columns: Sequence[str]) -> None:
        """Raise `Problem` unless a table has all columns that are asked for."""
        wanted = [part.field for part in parse_template(self.prompt or "") if part.field]
        if self.prompt is None:
            wanted.append(self.prompt_field or _COLUMNS.prompt)
        wanted += [self.id_field] if self.id_field else []
        missing = [field for field in wanted if field not in columns]
        if missing:
            hint = "To name the column of the ids: --id-field NAME"
            if missing != [self.id_field]:
                hint = (
                    "To name the prompt's column: --prompt-field NAME\n"
                    "To write the prompt: --prompt 'Summarise: {NAME}'"
                )
            raise wrong_usage(
                f"{name} has no column {missing[0]}; it has: {list_names(columns)}", hint
            )


class LineFormat(NamedTuple):
    """How the lines of an input become jobs."""

    input: InputFormat
    common: ForAllLines

    def parse(self, text: Text) -> Line:
        """Parse a line. Raises `InvalidLine`."""
        if self.input.has_columns:
            line = self._parse_columns(text)
        elif self.input.kind == "text":
            line = text_line(text.text, text.number, self.common)
        else:
            try:
                line = json_line(text.text, text.number, self.common, takes_numbers=True)
            except InvalidLine as error:
                raise _explain(error, text) from None
        return line if self.input.system is None else _put_system(line, self.input.system)

    def _parse_columns(self, text: Text) -> Line:
        fields = read_fields(self.input.kind, text)
        field = self.input.prompt_field or _COLUMNS.prompt
        if self.input.prompt is not None:
            prompt: Any = "".join(
                to_text(_get(fields, part.field, text.number)) if part.field else part.text
                for part in parse_template(self.input.prompt)
            )
        else:
            prompt = _get(fields, field, text.number)
        row: dict[str, Any] = {"prompt": prompt}
        if self.input.id_field or _COLUMNS.custom_id in fields:
            row["custom_id"] = _read_id(
                fields, self.input.id_field or _COLUMNS.custom_id, text.number
            )
        try:
            return row_to_line(row, text.number, _COLUMNS, self.common)
        except InvalidLine as error:
            if self.input.prompt is None and error.field.startswith("prompt"):
                name = f"{field}{error.field.removeprefix('prompt')}"
                raise InvalidLine(error.line, name, error.reason) from None
            raise


def read_fields(kind: Kind, text: Text) -> dict[str, Any]:
    """Return the fields of a line; a line of text is a prompt. Raises `InvalidLine`."""
    if kind != "text":
        return decode_object(text.text, text.number)
    try:
        return {_COLUMNS.prompt: text.text.decode()}
    except UnicodeDecodeError:
        raise InvalidLine(text.number, "prompt", "is not UTF-8") from None


def list_names(names: Sequence[str]) -> str:
    """Return the names of fields as one text."""
    shown = ", ".join(show_name(name) for name in names[:_MAX_NAMES_SHOWN])
    more = len(names) - _MAX_NAMES_SHOWN
    return f"{shown or 'none'}, and {more} more" if more > 0 else shown or "none"


def _explain(error: InvalidLine, text: Text) -> InvalidLine:
    """Return the error with the option that would help."""
    try:
        fields = decode_object(text.text, text.number)
    except InvalidLine:
        return error
    if error.field == "body" and "body" not in fields:
        reason = f"is missing; there is: {list_names(list(fields))}. See --prompt-field"
        return InvalidLine(error.line, "prompt", reason)
    if error.reason == UNKNOWN and "prompt" in fields and "body" not in fields:
        reason = f"{error.reason}, or carry it through with --prompt-field prompt"
        return InvalidLine(error.line, error.field, reason)
    return error


def _get(fields: Mapping[str, Any], field: str, number: int) -> Any:
    value = fields.get(field)
    if value is None:
        there = "is null" if field in fields else f"is missing; there is: {list_names([*fields])}"
        raise InvalidLine(number, show_name(field), there)
    return value


def _read_id(fields: Mapping[str, Any], field: str, number: int) -> str:
    value = _get(fields, field, number)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise InvalidLine(number, show_name(field), "must be a string or a whole number")
    return str(value)


def _put_system(line: Line, system: str) -> Line:
    """Put a message before the prompt of a line. Raises `InvalidLine`."""
    try:
        prompt = check_prompt(add_system(line.job.prompt, system))
    except InvalidJob as error:
        raise InvalidLine(line.number, error.field, error.reason) from None
    job = msgspec.structs.replace(line.job, prompt=prompt)
    return msgspec.structs.replace(line, job=job)


class TemplatePart(NamedTuple):
    """A text as it is, or the name of a field."""

    text: str
    field: str


@lru_cache(maxsize=8)
def parse_template(template: str) -> tuple[TemplatePart, ...]:
    """Split a template at its fields. Raises `Problem`.

    `str.format` would also read attributes and items of values, so it is not used.
    """
    parts: list[TemplatePart] = []
    start = 0
    for mark in _MARKS.finditer(template):
        found = mark[0]
        parts.append(TemplatePart(template[start : mark.start()], ""))
        start = mark.end()
        if found in ("{{", "}}"):
            parts.append(TemplatePart(found[0], ""))
        elif field := found[1:-1]:
            parts.append(TemplatePart("", field))
        else:
            reason = f"{found} in the template names no field; {{{{ and }}}} are braces"
            raise wrong_usage(f"--prompt: {reason}")
    return (*parts, TemplatePart(template[start:], ""))


def to_text(value: object) -> str:
    """Return a value as the text of a cell: strings as they are, all others as JSON."""
    if value is None:
        return ""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
