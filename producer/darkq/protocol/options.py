"""Generation options of a job, with the names of OpenAI's API.

No option is set by default: the upstream's own default applies. An upstream that does not support
an option fails the job instead of ignoring the option.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta
from msgspec.structs import asdict

from darkq.errors import InvalidJob
from darkq.protocol.plain import to_plain
from darkq.protocol.validation import explain_error

MAX_TOKENS = 10_000_000
MAX_STOP_SEQUENCES = 16
MAX_STOP_CHARS = 200

_Penalty = Annotated[float, Meta(ge=-2, le=2)]
_Stop = Annotated[str, Meta(min_length=1, max_length=MAX_STOP_CHARS)]


class Options(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True
):
    """Generation options. None means the upstream's default.

    `max_tokens` limits the answer, `stop` ends it before one of these strings.
    `max_completion_tokens` is OpenAI's newer name of `max_tokens`. Some models accept only one of
    the two, so the given one is passed on.
    """

    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    max_tokens: Annotated[int, Meta(ge=1, le=MAX_TOKENS)] | None = None
    max_completion_tokens: Annotated[int, Meta(ge=1, le=MAX_TOKENS)] | None = None
    stop: Annotated[tuple[_Stop, ...], Meta(min_length=1, max_length=MAX_STOP_SEQUENCES)] | None = (
        None
    )
    seed: Annotated[int, Meta(ge=-(1 << 63), le=(1 << 63) - 1)] | None = None
    presence_penalty: _Penalty | None = None
    frequency_penalty: _Penalty | None = None

    def __repr__(self) -> str:
        """List the names only: values may quote the prompt."""
        return f"Options({', '.join(self.given())})"

    def given(self) -> dict[str, Any]:
        """Return the options that are set, by name."""
        return {name: value for name, value in asdict(self).items() if value is not None}


OPTIONS = frozenset(Options.__struct_fields__)
"""The names of all options."""
LENGTHS = frozenset(("max_tokens", "max_completion_tokens"))
"""The two names of one option."""

_REFUSED = re.compile(
    r"\S+ cannot honour (?:the option (\w+); it honours|(messages\[\d+\]): it takes only text)"
)


def format_refusal(upstream: str, name: str, honoured: Iterable[str]) -> str:
    """Return the error message of a job whose upstream does not support an option."""
    known = ", ".join(sorted(honoured)) or "none"
    return f"{upstream} cannot honour the option {name}; it honours: {known}"


def format_content_refusal(upstream: str, number: int, path: str) -> str:
    """Return the error message of a job whose upstream takes only text in messages."""
    return f"{upstream} cannot honour messages[{number}]: it takes only text, not {path}"


def parse_refusal(message: str) -> str | None:
    """Return the option or message in a refusal of darkq's own; None for any other message."""
    found = _REFUSED.match(message)
    return found[1] or found[2] if found else None


def check_options(options: Options | Mapping[str, Any] | None) -> Options | None:
    """Return the options, or None if none is set. Raises `InvalidJob`, which names the option.

    `stop` may be a single string.
    """
    if options is None:
        return None
    if isinstance(options, Options):  # one made by hand is not validated
        options = options.given()
    if not isinstance(options, Mapping):
        raise InvalidJob("options", f"must be Options or a mapping, not {type(options).__name__}")
    values: dict[str, Any] = to_plain(options, 2)  # levels: the options, the list of stop strings
    for name, value in values.items():
        if name not in OPTIONS:
            known = ", ".join(Options.__struct_fields__)
            raise InvalidJob("options", f"unknown option {str(name)[:40]!r}; known: {known}")
        _check(name, (value,) if name == "stop" and isinstance(value, str) else value)
    given = {name: value for name, value in values.items() if value is not None}
    if "max_tokens" in given and "max_completion_tokens" in given:
        raise InvalidJob("options.max_completion_tokens", "is given beside max_tokens")
    if isinstance(given.get("stop"), str):
        given["stop"] = (given["stop"],)
    return msgspec.convert(given, Options) if given else None


def _check(name: str, value: object) -> None:
    try:
        msgspec.convert({name: value}, Options)
        for stop in value if isinstance(value, tuple | list) else ():
            stop.encode()
    except msgspec.ValidationError as error:  # its text has types and limits, never values
        raise InvalidJob(f"options.{name}", explain_error(error).reason) from None
    except UnicodeEncodeError:
        raise InvalidJob(f"options.{name}", "has a lone surrogate") from None
