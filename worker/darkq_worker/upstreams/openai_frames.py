"""One frame of an answer on OpenAI's wire: which text, which counts, which word. No I/O.

Types are loose on purpose. Where a value is odd, its neighbours still count.

What services say about how a text ended. No I/O.

    stop             the text is whole
    length           it has as many tokens as it may
    content_filter   the service held the rest back
    tool_calls       the model wants a tool
    broken           the service failed: the text is not whole

A word that is not in the table is kept as it is, and proves nothing.
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
    """Where text should be there is something else: its one argument."""


class _PlainDelta(msgspec.Struct, gc=False):
    content: str | None = None


class _PlainChoice(msgspec.Struct, gc=False):
    delta: _PlainDelta
    finish_reason: None = None
    error: None = None
    usage: None = None


class PlainFrame(msgspec.Struct, gc=False):
    """A piece of text and nothing else, as nearly every frame is: whatever else is said is null."""

    choices: tuple[_PlainChoice]
    usage: None = None
    error: None = None
    error_code: None = None
    x_groq: None = None


class Delta(msgspec.Struct, gc=False):
    content: Any = None


class Choice(msgspec.Struct, gc=False):
    """One choice. A whole completion has a `message`, the older wire of prompts has a `text`."""

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
    """Return the text of one part of a content; what a model thinks is no text of its answer."""
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
    """Return the counts known by now: a count of zero says nothing of an answer that has text."""
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
    """Tell whether an object that is no frame may hold a piece of the answer."""
    return any(frame.get(name) for name in _PLACELESS)


def _count(count: object) -> int:
    """Return a count of tokens, 0 where it is none."""
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
    """Return what a service's word means: of the table above, or None for an unknown word."""
    return _MEANINGS.get(word) or _MEANINGS.get(_plain(word))


def is_nothing(reason: object) -> bool:
    """Tell whether a service says that it goes on: null, and what some send for it."""
    if not reason or not isinstance(reason, str):
        return not reason
    return reason not in _MEANINGS and _plain(reason) in _NOTHING


def shown(word: str) -> str:
    """Return a word that is in no table as it may stand in an event and in a log."""
    return re.sub(r"[^\w.:/-]", "_", word.strip()[:MAX_WORD_CHARS], flags=re.ASCII)


def _plain(word: str) -> str:
    """`MAX_TOKENS`, `maxTokens`, `max-tokens` and `FINISH_REASON_MAX_TOKENS` are one word."""
    word = _CAPITAL.sub("_", word.strip()[: 2 * MAX_WORD_CHARS]).lower()
    return word.replace("-", "_").replace(" ", "_").removeprefix("finish_reason_")
