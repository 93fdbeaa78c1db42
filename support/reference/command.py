"""The `darkq` command, from its own description."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, get_args

import typer

from darkq_cli.app import app
from support.reference.words import joined, table

_WORDS = {int: "N", float: "X", str: "TEXT"}
_SHOWN_ELSEWHERE = {"--help", "--install-completion", "--show-completion"}


def page() -> str:
    """All below the introduction."""
    return joined(_commands(typer.main.get_command(app), "darkq"))


def names() -> set[str]:
    """All commands, as they are typed."""
    return {name for name, _ in _leaves(typer.main.get_command(app), "darkq")}


def _leaves(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    subcommands = getattr(command, "commands", None)
    if not subcommands:
        yield name, command
        return
    for each, subcommand in subcommands.items():
        yield from _leaves(subcommand, f"{name} {each}")


def _commands(command: Any, name: str) -> Iterator[str]:
    for each, leaf in _leaves(command, name):
        arguments = [one for one in leaf.params if one.param_type_name == "argument"]
        options = [one for one in leaf.params if one.param_type_name == "option"]
        yield f"## `{' '.join([each, *map(_usage, arguments)])}`"
        yield from _prose(leaf.help or "")
        rows = [[f"`{_metavar(one)}`", _help(one), ""] for one in arguments]
        rows += [[_names(one), _help(one), _default(one)] for one in options if _is_shown(one)]
        yield table(["", "", "default"], rows)


def _prose(text: str) -> Iterator[str]:
    """Paragraphs; what `\\b` keeps as it is are commands to try."""
    for part in re.split(r"\n\s*\n", text.strip()):
        if part.startswith("\b"):
            yield "    " + part.removeprefix("\b\n").replace("\n", "\n    ")
        else:
            yield re.sub(r"\s*\n\s*", " ", part)


def _usage(argument: Any) -> str:
    name = _metavar(argument)
    return name if argument.required else f"[{name}]"


def _metavar(argument: Any) -> str:
    return re.sub(r"[][]", "", str(argument.metavar or argument.name.upper()))


def _is_shown(option: Any) -> bool:
    return not option.hidden and not _SHOWN_ELSEWHERE & set(option.opts)


def _names(option: Any) -> str:
    words = ", ".join(option.opts)
    if option.is_flag:
        return f"`{words}`"
    kind = option.type_descriptor.annotation
    what = option.metavar or "|".join(get_args(kind)) or _WORDS.get(kind, kind.__name__.upper())
    return f"`{words} {what.split()[0]}`"


def _help(one: Any) -> str:
    return re.sub(r"\s+", " ", one.help or "")


def _default(option: Any) -> str:
    if option.is_flag or option.default is None or callable(option.default):
        shown = option.show_default
        return shown if isinstance(shown, str) else ""
    return f"`{getattr(option.default, 'value', option.default)}`"
