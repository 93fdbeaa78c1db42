"""Events, from the types that are encoded and decoded."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any, get_args

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
        kind = getattr(field.type, "__name__", str(field.type)).split(" | ")[0]
        words = {"str": "string", "int": "whole number", "float": "number"}
        default = field.default
        may_miss = "" if default is msgspec.NODEFAULT else f"left out when `{default}`"
        optional = "left out when there is none" if default is None else may_miss
        name = kind.rsplit(".", 1)[-1]
        yield [f"`{field.encode_name}`", words.get(name, f"`{name.lower()}`, below"), optional]
