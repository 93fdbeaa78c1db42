"""Validation errors of msgspec in darkq's wording: the path, and what the value must be. No I/O.

msgspec's messages contain types and paths. They contain a value only for a wrong enum value or tag,
and then we drop it: it may be a part of a prompt.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import msgspec

_PATH = re.compile(r" - at `(?:key in )?\$\.?(.*?)`$")
_EXPECTED = re.compile(r"Expected `([^`]+)`(?:, got `([^`]+)`| (of length )?(>=|<=|>|<|==) (\S+))?")
_FIELD = re.compile(r"Object (missing required|contains unknown) field `(.*)`", re.DOTALL)
_TYPES = {
    "str": "a string",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "array": "a list",
    "object": "an object",
    "null": "null",
}
_BOUNDS = {">=": "at least", "<=": "at most", ">": "above", "<": "below", "==": "exactly"}
_MAX_NAME_CHARS = 40

UNKNOWN = "cannot be honoured: leave it out"
NOT_ALLOWED = "is none of the allowed values"


class Problem(NamedTuple):
    """A path such as `content[0].text`, "" for the value itself, and a reason without any value.

    `name` is the missing or unknown field at that path.
    """

    path: str
    reason: str
    name: str = ""

    @property
    def field(self) -> str:
        """The path of the invalid field."""
        return f"{self.path}.{self.name}".strip(".")

    @property
    def sentence(self) -> str:
        """The reason, with the name of a missing or unknown field."""
        return f"`{self.name}` {self.reason}" if self.name else self.reason


def explain_error(error: msgspec.ValidationError) -> Problem:
    """Return what the value must be instead, and its path."""
    text = str(error)
    found = _PATH.search(text)
    path, reason = (found[1], text[: found.start()]) if found else ("", text)
    if (field := _FIELD.match(reason)) is not None:
        is_missing = field[1].startswith("missing")
        return Problem(path, "is missing" if is_missing else UNKNOWN, show_name(field[2]))
    if (expected := _EXPECTED.match(reason)) is not None:
        return Problem(path, _must_be(expected))
    if "enum" in reason or reason.startswith("Invalid value"):  # these quote the value
        return Problem(path, NOT_ALLOWED)
    return Problem(path, reason)


def show_name(name: str) -> str:
    """Return the name of an unknown field, or "…" if it does not look like a name."""
    return name if name.isidentifier() and len(name) <= _MAX_NAME_CHARS else "…"


def _must_be(expected: re.Match[str]) -> str:
    types, got, of_length, bound, limit = expected.groups()
    must = " or ".join(_TYPES.get(each, each) for each in types.split(" | ") if each != "null")
    if bound is None:
        return f"must be {must}" + (f", not {_TYPES.get(got, got)}" if got else "")
    if not of_length:
        return f"must be {must}, {_BOUNDS[bound]} {limit.removesuffix('.0')}"
    unit = "items" if types.startswith("array") else "characters"
    return f"must have {_BOUNDS[bound]} {limit} {unit}"
