"""Arguments and options that several commands share."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, TypeAlias

import typer

from darkq_cli.terminal import messages

Priority: TypeAlias = Literal["interactive", "bulk"]
Model: TypeAlias = Literal["smollm2", "markov"]


def build_group(name: str, help_: str, *, has_default: bool = False) -> typer.Typer:
    """Return a command with subcommands. `has_default` means that it also runs without one."""
    return typer.Typer(
        name=name,
        help=help_,
        invoke_without_command=has_default,
        no_args_is_help=not has_default,
        rich_markup_mode=None,
    )


JobArgument = Annotated[str, typer.Argument(metavar="ID", help="The id that enqueue printed.")]
JsonOption = Annotated[
    bool,
    typer.Option(
        "--json",
        help="JSON on stdout, one object per line.",
        callback=messages.use_json,
        is_eager=True,
    ),
]

UpstreamOption = Annotated[
    str | None, typer.Option("--upstream", metavar="NAME", help="Default: the worker's first.")
]
PriorityOption = Annotated[
    Priority, typer.Option("--priority", help="Bulk jobs start when no interactive job waits.")
]
TriesOption = Annotated[
    int | None,
    typer.Option("--tries", metavar="N", help="Tries before the job fails. Default: the worker's."),
]
TimeoutOption = Annotated[
    float | None,
    typer.Option("--timeout-s", metavar="S", help="Seconds for one try. Default: the worker's."),
]
TemperatureOption = Annotated[
    float | None, typer.Option("--temperature", metavar="T", help="From 0 to 2.")
]
MaxTokensOption = Annotated[
    int | None, typer.Option("--max-tokens", metavar="N", help="Maximum length of the answer.")
]
SystemOption = Annotated[
    str | None, typer.Option("--system", metavar="TEXT", help="A system message.")
]
OtherOption = Annotated[
    list[str] | None,
    typer.Option(
        "--option",
        metavar="NAME=VALUE",
        help="Another parameter: top_p, seed, reasoning_effort …; may be repeated.",
    ),
]
ReasoningOption = Annotated[
    bool | None,
    typer.Option(
        "--reasoning/--no-reasoning",
        help="Show the model's reasoning on stderr. Default: on a terminal.",
    ),
]
IgnoreUnsupportedOption = Annotated[
    bool,
    typer.Option(
        "--ignore-unsupported", help="Leave out options that the upstream does not support."
    ),
]
LocalModelOption = Annotated[
    Model | None,
    typer.Option("--model", help="The local model. [default: DARKQ_LOCAL_MODEL, or smollm2]"),
]
LimitOption = Annotated[
    int, typer.Option("--limit", metavar="N", min=1, help="Maximum number of rows.")
]
ByOption = Annotated[
    str | None,
    typer.Option(
        "--by", metavar="NAME", help="The person who requests it.", show_default="user@host"
    ),
]
DrainTimeoutOption = Annotated[
    float | None, typer.Option("--timeout-s", metavar="S", min=0, help="Stop waiting; exit code 1.")
]


def parse_options(
    temperature: float | None, max_tokens: int | None, others: list[str] | None
) -> dict[str, Any]:
    """Return the generation options. Raises `typer.BadParameter`.

    Values are JSON, or strings if they are not; an option that is repeated is a list.
    """
    found: dict[str, Any] = {}
    for entry in others or ():
        ((name, text),) = parse_pairs([entry], "--option").items()
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        if name in found:
            before = found[name] if isinstance(found[name], list) else [found[name]]
            value = [*before, value]
        found[name] = value
    given = {"temperature": temperature, "max_tokens": max_tokens}
    return found | {name: value for name, value in given.items() if value is not None}


def parse_pairs(entries: list[str] | None, option: str = "--metadata") -> dict[str, str]:
    """Parse `KEY=VALUE` entries. Raises `typer.BadParameter`."""
    found: dict[str, str] = {}
    for entry in entries or ():
        key, separator, value = entry.partition("=")
        if not key or not separator:
            raise typer.BadParameter(f"{entry!r} is not KEY=VALUE", param_hint=option)
        found[key] = value
    return found
