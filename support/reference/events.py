"""Events, from the types that are encoded and decoded."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any, get_args, get_origin

import msgspec

from darkq import Usage
from darkq.event import TERMINAL, Event
from support.reference.words import joined, table


def page() -> str:
    """All below the introduction."""
    return joined(_types())


def _types() -> Iterator[str]:
    for event in get_args(Event):
        tag = str(event.__struct_config__.tag)
        yield f"## `{tag}`"
        yield " ".join((inspect.getdoc(event) or "").split())
        yield "*The last event of a job.*" if event in TERMINAL else ""
        yield table(["field", "", ""], _fields(event))
    yield "## `usage`"
    yield " ".join((inspect.getdoc(Usage) or "").split())
    yield table(["field", "", ""], _fields(Usage))


def _fields(struct: Any) -> Iterator[list[str]]:
    for field in msgspec.structs.fields(struct):
        default = field.default
        may_miss = "" if default is msgspec.NODEFAULT else f"left out when `{default}`"
        may_miss = "left out when empty" if default == "" else may_miss
        optional = "left out when there is none" if default is None else may_miss
        yield [f"`{field.encode_name}`", _describe(field.type), optional]


def _describe(kind: Any) -> str:
    """Return what a field is in JSON."""
    if (args := get_args(kind)) and type(None) in args:
        (kind,) = (each for each in args if each is not type(None))
    kind = get_origin(kind) or kind
    words = {str: "string", int: "whole number", float: "number", dict: "object", list: "list"}
    return words.get(kind, f"`{kind.__name__.lower()}`, below")
