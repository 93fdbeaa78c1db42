"""Generation options and parameters of a job, with the names of OpenAI's API. No I/O.

No option is set by default: the upstream's own default applies. An upstream that does not support
an option fails the job instead of ignoring the option.

Parameters are the fields of a chat request that darkq does not act upon. They are kept unchanged,
and the upstream receives them. A few are refused by name, because darkq could not keep the promise
that they ask for, or because they would decide where the upstream sends its own requests.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta
from msgspec.structs import asdict

from darkq.errors import InvalidJob
from darkq.protocol.plain import check_json, to_plain
from darkq.protocol.validation import UNKNOWN, explain_error

MAX_TOKENS = 10_000_000
MAX_STOP_SEQUENCES = 16
MAX_STOP_CHARS = 200

MAX_PARAMETERS_BYTES = 1 << 20
MAX_DEPTH = 64
MAX_PARAMETER_CHARS = 64

WITHOUT_EFFECT = frozenset(
    (
        *("user", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"),
        *("service_tier", "parallel_tool_calls"),
    )
)
"""Parameters that do not change the answer: an upstream without them is used all the same."""

NOT_TAKEN = frozenset(
    (
        *("model", "messages", "input", "prompt", "stream", "stream_options", "n", "background"),
        *("audio", "conversation", "store", "metadata"),
        *("api_base", "base_url", "api_key", "proxy", "mock_response", "fallbacks"),
    )
)
"""Names that are refused: other arguments have their place, or no upstream may be given them."""

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


def check_parameters(
    options: Options | Mapping[str, Any] | None, parameters: Mapping[str, Any] | None
) -> tuple[Options | Mapping[str, Any] | None, dict[str, Any]]:
    """Return the options, with those among the parameters, and the other parameters as plain data.

    Parameters that are null are dropped. Raises `InvalidJob`, which names the parameter.
    """
    if parameters is None:
        return options, {}
    plain: Any = to_plain(parameters, MAX_DEPTH + 1)
    if not isinstance(plain, dict):
        raise InvalidJob("parameters", f"must be a mapping, not {type(parameters).__name__}")
    left: dict[str, Any] = {}
    moved: dict[str, Any] = {}
    for name, value in plain.items():
        if value is not None:
            (moved if name in OPTIONS else left)[name] = value
    for name, value in left.items():
        _check_parameter(name, value)
    if len(msgspec.json.encode(left)) > MAX_PARAMETERS_BYTES:
        raise InvalidJob("parameters", f"have more than {MAX_PARAMETERS_BYTES:,} bytes")
    return (_join(options, moved) if moved else options), left


def _join(options: Options | Mapping[str, Any] | None, moved: dict[str, Any]) -> dict[str, Any]:
    given = options.given() if isinstance(options, Options) else dict(options or {})
    for name in moved.keys() & given.keys():
        raise InvalidJob(f"parameters.{name}", "is given among the options, too")
    return given | moved


def _check_parameter(name: object, value: object) -> None:
    if type(name) is not str or not name.isidentifier() or len(name) > MAX_PARAMETER_CHARS:
        raise InvalidJob("parameters", "has a name that is no name of a parameter")
    field = f"parameters.{name}"
    if name in NOT_TAKEN or (name == "modalities" and value != ["text"]):
        raise InvalidJob(field, UNKNOWN)
    check_json(field, value, MAX_DEPTH)
    try:
        msgspec.json.encode(value)
    except UnicodeEncodeError:
        raise InvalidJob(field, "has a lone surrogate, which is not valid in UTF-8") from None
