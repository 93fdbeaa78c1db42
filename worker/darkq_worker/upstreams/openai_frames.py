"""Frames of OpenAI's API: their text, token counts and finish reasons. No I/O.

The types are loose on purpose: a value of a wrong type does not invalidate the others.

Services have many names for each finish reason:

    stop             the text is complete
    length           it reached its token limit
    content_filter   the service removed the rest
    tool_calls       the model calls a tool
    broken           the service failed: the text is not complete

An unknown reason is kept unchanged, and does not prove that the text is complete.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import msgspec

from darkq.event import Usage
from darkq_worker.upstreams.http_errors import clean

_MAX_TOKENS = 10**15
_TEXT_PARTS: Final = frozenset(("text", "output_text", "input_text", ""))
_SILENT_PARTS: Final = frozenset(
    (
        *("thinking", "reasoning", "reasoning_text", "redacted_thinking", "thought", "summary"),
        *("summary_text", "reference", "citation", "citations", "refusal", "tool_use"),
    )
)
_PLACELESS: Final = (
    *("content", "text", "delta", "token", "response", "output", "message"),
    *("output_text", "generated_text", "completion", "choice"),
)


class OddContent(Exception):
    """The content is not text. Its one argument is the content."""


class _PlainDelta(msgspec.Struct, gc=False):
    content: str | None = None


class _PlainChoice(msgspec.Struct, gc=False):
    delta: _PlainDelta
    finish_reason: None = None
    error: None = None
    usage: None = None


class PlainFrame(msgspec.Struct, gc=False):
    """A piece of text and nothing else, like nearly every frame: all other fields are null."""

    choices: tuple[_PlainChoice]
    usage: None = None
    error: None = None
    error_code: None = None
    x_groq: None = None


class Delta(msgspec.Struct, gc=False):
    content: Any = None


class Choice(msgspec.Struct, gc=False):
    """One choice. A whole completion has a `message`, the older completions API a `text`."""

    delta: Delta | None = None
    finish_reason: Any = None
    message: Any = None
    text: Any = None
    usage: Any = None
    error: Any = None


class Frame(msgspec.Struct, gc=False):
    choices: list[Choice] | None = None
    usage: Any = None
    error: Any = None
    error_code: Any = None
    x_groq: Any = None


decode_plain = msgspec.json.Decoder(PlainFrame).decode
decode_frame = msgspec.json.Decoder(Frame).decode


def read_text(content: object) -> str:
    """Return the text of a content: a string, null, or parts. Raises `OddContent`."""
    if content is None or content is False:
        return ""
    if isinstance(content, str):
        return clean(content)
    if isinstance(content, list):
        return "".join(map(read_part, content))
    return read_part(content)


def read_part(part: object) -> str:
    """Return the text of one part of a content; reasoning is not part of the answer."""
    if isinstance(part, str):
        return clean(part)
    if not isinstance(part, dict):
        raise OddContent(part)
    kind, text = part.get("type") or "", part.get("text")
    if isinstance(text, dict):
        text = text.get("value")
    if kind in _TEXT_PARTS:
        if text is not None and not isinstance(text, str):
            raise OddContent(part)
        if text is None and any(value for name, value in part.items() if name != "type"):
            raise OddContent(part)
        return clean(text)
    if kind not in _SILENT_PARTS and isinstance(text, str) and text:
        raise OddContent(part)
    return ""


def read_usage(usage: object, before: Usage | None) -> Usage | None:
    """Return the known token counts. A count of 0 is ignored: some services send it for unknown."""
    if not isinstance(usage, dict):
        return before
    get = usage.get
    prompt_tokens = _count(get("prompt_tokens")) or _count(get("input_tokens"))
    completion_tokens = _count(get("completion_tokens")) or _count(get("output_tokens"))
    if not prompt_tokens and not completion_tokens:
        return before
    known = before or Usage()
    return Usage(
        prompt_tokens=prompt_tokens or known.prompt_tokens,
        completion_tokens=completion_tokens or known.completion_tokens,
    )


def holds_text(frame: dict[str, Any]) -> bool:
    """Return True if an object that is not a frame may contain a piece of the answer."""
    return any(frame.get(name) for name in _PLACELESS)


def _count(count: object) -> int:
    """Return a token count, or 0."""
    if type(count) is int and 0 < count <= _MAX_TOKENS:
        return count
    if isinstance(count, str) and count.strip().isdecimal() and len(count) < 20:
        count = int(count)
    if isinstance(count, bool) or not isinstance(count, int | float):
        return 0
    return int(count) if 0 < count <= _MAX_TOKENS else 0


def first_with(choices: Sequence[Choice], name: str) -> Any:
    """Return a field of the first choice that has it, or None."""
    return next((value for choice in choices if (value := getattr(choice, name))), None)


BROKEN: Final = "broken"
MAX_WORD_CHARS = 40

_WORDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "stop": "stop eos eos_token eos_token_id end_token stop_token stop_sequence stop_str "
        "end_turn end done complete completed finish finished final success natural",
        "length": "length max_tokens max_length max_new_tokens max_output_tokens model_length "
        "max_completion_tokens max_context_length token_limit limit",
        "content_filter": "content_filter content_filtered sensitive safety recitation blocklist "
        "prohibited_content spii language image_safety blocked moderation guardrail_intervened "
        "refusal",
        "tool_calls": "tool_calls tool_call tool_use function_call function_calls",
        BROKEN: "error errored abort aborted network_error insufficient_system_resource cancel "
        "cancelled canceled timeout timed_out time_limit internal_error server_error failed "
        "failure fail interrupted disconnect disconnected overloaded engine_overloaded unavailable "
        "malformed_function_call rate_limit rate_limited pause_turn",
    }
)
_MEANINGS: Final = MappingProxyType(
    {word: meaning for meaning, words in _WORDS.items() for word in words.split()}
)
_NOTHING: Final = frozenset(("", "null", "none", "nil", "undefined", "unfinished", "in_progress"))
_CAPITAL: Final = re.compile(r"(?<=[a-z])(?=[A-Z])")


def find_meaning(word: str) -> str | None:
    """Return the meaning of a finish reason, as in the table above; None for an unknown one."""
    return _MEANINGS.get(word) or _MEANINGS.get(_normalize(word))


def is_nothing(reason: object) -> bool:
    """Return True if a finish reason means none: null, or what some services send for it."""
    if not reason or not isinstance(reason, str):
        return not reason
    return reason not in _MEANINGS and _normalize(reason) in _NOTHING


def sanitize(word: str) -> str:
    """Return an unknown finish reason in a form that is safe for events and logs."""
    return re.sub(r"[^\w.:/-]", "_", word.strip()[:MAX_WORD_CHARS], flags=re.ASCII)


def _normalize(word: str) -> str:
    """Normalize: `MAX_TOKENS`, `maxTokens`, `FINISH_REASON_MAX_TOKENS` are all `max_tokens`."""
    word = _CAPITAL.sub("_", word.strip()[: 2 * MAX_WORD_CHARS]).lower()
    return word.replace("-", "_").replace(" ", "_").removeprefix("finish_reason_")
