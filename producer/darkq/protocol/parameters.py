"""A job's parameters: the fields of a chat request that darkq does not act upon. No I/O.

They are kept unchanged, and the upstream receives them. A few are refused by name, because darkq
could not keep the promise that they ask for, or because they would decide where the upstream sends
its own requests.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from darkq.errors import InvalidJob
from darkq.protocol.options import OPTIONS, Options
from darkq.protocol.plain import check_json, to_plain
from darkq.protocol.validation import UNKNOWN

MAX_PARAMETERS_BYTES = 1 << 20
MAX_DEPTH = 64
MAX_NAME_CHARS = 64

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
        _check(name, value)
    if len(msgspec.json.encode(left)) > MAX_PARAMETERS_BYTES:
        raise InvalidJob("parameters", f"have more than {MAX_PARAMETERS_BYTES:,} bytes")
    return (_join(options, moved) if moved else options), left


def _join(options: Options | Mapping[str, Any] | None, moved: dict[str, Any]) -> dict[str, Any]:
    given = options.given() if isinstance(options, Options) else dict(options or {})
    for name in moved.keys() & given.keys():
        raise InvalidJob(f"parameters.{name}", "is given among the options, too")
    return given | moved


def _check(name: object, value: object) -> None:
    if type(name) is not str or not name.isidentifier() or len(name) > MAX_NAME_CHARS:
        raise InvalidJob("parameters", "has a name that is no name of a parameter")
    field = f"parameters.{name}"
    if name in NOT_TAKEN or (name == "modalities" and value != ["text"]):
        raise InvalidJob(field, UNKNOWN)
    check_json(field, value, MAX_DEPTH)
    try:
        msgspec.json.encode(value)
    except UnicodeEncodeError:
        raise InvalidJob(field, "has a lone surrogate, which is not valid in UTF-8") from None
