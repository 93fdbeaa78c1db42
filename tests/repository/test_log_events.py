"""The log events of worker and gateway are one list, in docs/observe.md."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PACKAGES = ("producer/darkq", "worker/darkq_worker", "gateway/darkq_gateway")
PAGE = (ROOT / "docs/observe.md").read_text()
ROW = re.compile(r"^\| `([^`]+)` \| ([A-Z, ]+) \| (.*?) ?\| .*\|$", re.M)
LEVELS = ("debug", "info", "warning", "error", "exception")

# `OutageLog` logs two events, whose texts it is given. Its own two calls have variables.
OUTAGE_LOG = "worker/darkq_worker/outage_log.py"


class Event(NamedTuple):
    """One call that logs an event; without a level or fields where they are not literals."""

    text: str
    level: str | None
    fields: frozenset[str] | None
    place: str


def name_of(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def text_of(argument: ast.expr, tree: ast.Module) -> str:
    """The literal text of an argument, or of the variable that it is."""
    if isinstance(argument, ast.Name):
        values = [
            node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign) and name_of(node.targets[0]) == argument.id
        ]
        argument = values[0] if len(values) == 1 else argument
    assert isinstance(argument, ast.Constant), ast.unparse(argument)
    return str(argument.value)


def fields_of(call: ast.Call) -> frozenset[str] | None:
    named = [keyword.arg for keyword in call.keywords]
    return None if None in named else frozenset(name for name in named if name)


def events_in(path: Path) -> Iterator[Event]:
    """The events that a module logs with `LogEvent` or `OutageLog`."""
    tree = ast.parse(path.read_text())
    levels = {
        id(argument): node.func.attr.upper().replace("EXCEPTION", "ERROR")
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in LEVELS
        and "log" in name_of(node.func.value)
        for argument in node.args
    }
    place = str(path.relative_to(ROOT))
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        fields = fields_of(node)
        if name_of(node.func) == "LogEvent" and place != OUTAGE_LOG:
            yield Event(text_of(node.args[0], tree), levels.get(id(node)), fields, place)
        elif name_of(node.func) == "OutageLog":
            failed, recovered = (text_of(argument, tree) for argument in node.args)
            yield Event(failed, "WARNING", (fields or frozenset()) | {"error"}, place)
            yield Event(recovered, "INFO", (fields or frozenset()) | {"after"}, place)
        elif id(node.args[0]) in levels and isinstance(node.args[0], ast.Constant):
            yield Event(str(node.args[0].value), levels[id(node.args[0])], None, place)


@cache
def logged_events() -> list[Event]:
    """All of them. Read by the tests alone: each process of pytest-xdist imports this module."""
    return [
        event
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
        for event in events_in(path)
    ]


LISTED = {text: (levels, fields) for text, levels, fields in ROW.findall(PAGE)}


def test_every_log_event_is_listed_and_exists() -> None:
    """Red if an event is added, renamed or removed, and docs/observe.md is not changed."""
    assert len(logged_events()) > 40
    assert {event.text for event in logged_events()} == LISTED.keys()


def test_levels_and_fields_are_those_of_the_code() -> None:
    """Red if an event is logged at a level, or with a field, that its row does not have."""
    for event in logged_events():
        levels, fields = LISTED[event.text]
        if event.level is not None:
            assert event.level in levels.split(", "), event
        if event.fields is not None:
            assert event.fields <= set(re.findall(r"`(\w+)`", fields)), event


def test_an_event_is_a_short_fixed_phrase() -> None:
    """Red if an event is a sentence, or has a value in it."""
    ours = {event.text for event in logged_events() if event.place.startswith("worker/")}
    for text in ours:
        assert len(text.split()) <= 5, text
        assert re.fullmatch(r"[\w -]+", text), text
