"""Frames of OpenAI's API: their pieces, token counts and finish reasons. No I/O.

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

import json
import re
import secrets
from collections.abc import Collection, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import msgspec

from darkq.event import Usage
from darkq_worker.pieces import AnyPiece, Piece
from darkq_worker.upstreams.http_errors import clean

_MAX_TOKENS = 10**15
_MAX_DETAILS = 32
_TEXT_PARTS: Final = frozenset(("text", "output_text", "input_text", ""))
_REASONING_PARTS: Final = frozenset(
    ("thinking", "reasoning", "reasoning_text", "thought", "summary", "summary_text")
)
_SILENT_PARTS: Final = frozenset(
    ("redacted_thinking", "reference", "citation", "citations", "tool_use")
)
_PLACELESS: Final = (
    *("content", "text", "delta", "token", "response", "output", "message"),
    *("output_text", "generated_text", "completion", "choice"),
)


class OddContent(Exception):
    """The content is not text. Its one argument is the content."""


class _PlainDelta(msgspec.Struct, gc=False):
    content: str | None = None
    reasoning_content: None = None
    reasoning: None = None
    reasoning_details: None = None
    tool_calls: None = None
    function_call: None = None
    refusal: None = None
    annotations: None = None


class _PlainChoice(msgspec.Struct, gc=False):
    delta: _PlainDelta
    finish_reason: None = None
    logprobs: None = None
    error: None = None
    usage: None = None


class PlainFrame(msgspec.Struct, gc=False):
    """A piece of text and nothing else, like nearly every frame: all other fields are null."""

    choices: tuple[_PlainChoice]
    usage: None = None
    error: None = None
    error_code: None = None
    x_groq: None = None


class Delta(msgspec.Struct):
    """The new parts of a message, or a whole message."""

    content: Any = None
    reasoning_content: Any = None
    reasoning: Any = None
    reasoning_details: Any = None
    tool_calls: Any = None
    function_call: Any = None
    refusal: Any = None
    annotations: Any = None


class Choice(msgspec.Struct):
    """One choice. A whole completion has a `message`, the older completions API a `text`."""

    delta: Delta | None = None
    finish_reason: Any = None
    logprobs: Any = None
    message: Any = None
    text: Any = None
    usage: Any = None
    error: Any = None


class Frame(msgspec.Struct):
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
    """Return the text of one part of a content; "" for reasoning and refusals."""
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
    is_known = kind in _SILENT_PARTS or kind in _REASONING_PARTS or kind == "refusal"
    if not is_known and isinstance(text, str) and text:
        raise OddContent(part)
    return ""


class DeltaReader:
    """Reads the pieces of one answer, and numbers its tool calls."""

    def __init__(self) -> None:
        self._calls: list[tuple[object, str]] = []  # of each call: its index and id on the wire
        self._unnamed: dict[int, str] = {}  # the id of a call whose name has not arrived

    def read(self, delta: Delta, logprobs: object = None) -> Iterator[AnyPiece]:
        """Yield the pieces of a delta. Raises `OddContent`."""
        content = delta.content
        if reasoning := _read_reasoning(delta):
            yield Piece(kind="reasoning", text=reasoning)
        text = read_text(content)
        if logprobs or delta.annotations:
            yield from _read_extras(text, logprobs, delta.annotations)
        elif text:
            yield text
        if refusal := read_string(delta.refusal) or _join_parts(content, ("refusal",), "refusal"):
            yield Piece(kind="refusal", text=refusal)
        if delta.tool_calls:
            yield from self._read_calls(delta.tool_calls)
        elif delta.function_call:  # the API's older form of a call
            yield from self._read_calls([{"index": 0, "function": delta.function_call}])

    def _read_calls(self, calls: object) -> Iterator[Piece]:
        for call in calls if isinstance(calls, list) else [calls]:
            if not isinstance(call, dict):
                raise OddContent(calls)
            function = call.get("function") or call.get("custom") or {}
            if not isinstance(function, dict):
                raise OddContent(call)
            arguments = function.get("arguments", function.get("input"))
            if isinstance(arguments, dict | list):  # some services send the object itself
                arguments = json.dumps(arguments, ensure_ascii=False)
            yield from self._read_call(
                call, read_string(function.get("name")), read_string(arguments)
            )

    def _read_call(self, call: dict[str, Any], name: str, arguments: str) -> Iterator[Piece]:
        index, is_new = self._find(call.get("index"), read_string(call.get("id")))
        if is_new:
            self._unnamed[index] = self._calls[index][1] or f"call_{secrets.token_hex(12)}"
        if index not in self._unnamed:  # its name and id, if they are here again, are known
            if arguments:
                yield Piece(kind="tool_call", index=index, text=arguments)
        elif name or arguments:
            call_id = self._unnamed.pop(index)
            yield Piece(kind="tool_call", index=index, text=arguments, call_id=call_id, name=name)

    def _find(self, wire_index: object, call_id: str) -> tuple[int, bool]:
        """Return the number of a call, and whether it is new.

        Some services give the same index to all calls, or none. A new id is a new call.
        """
        for number in range(len(self._calls) - 1, -1, -1):
            known_index, known_id = self._calls[number]
            if call_id and call_id == known_id:
                return number, False
            if wire_index in (None, known_index) and not (call_id and known_id):
                return number, False
        self._calls.append((wire_index, call_id))
        return len(self._calls) - 1, True


def read_string(value: object) -> str:
    """Return a string, "" for null. Raises `OddContent` for any other value."""
    if value is None or value is False:
        return ""
    if not isinstance(value, str):
        raise OddContent(value)
    return clean(value)


def _read_reasoning(delta: Delta) -> str:
    """Return the reasoning of a delta. Some services send it twice, under two names."""
    for value in (delta.reasoning_content, delta.reasoning):
        if isinstance(value, str) and value:
            return clean(value)
    if isinstance(delta.reasoning_details, list):
        details = [each for each in delta.reasoning_details if isinstance(each, dict)]
        texts = (each.get("text") or each.get("summary") for each in details)
        return "".join(clean(text) for text in texts if isinstance(text, str))
    return _join_parts(delta.content, _REASONING_PARTS, "thinking")


def _join_parts(content: object, kinds: Collection[str], name: str) -> str:
    """Return the joined texts of some kinds of parts; they have it in `name` or in `text`."""
    if not isinstance(content, list):
        return ""
    found: list[Any] = []
    for part in content:
        if isinstance(part, dict) and part.get("type") in kinds:
            inner = part.get(name) or part.get("text")
            found += inner if isinstance(inner, list) else [inner]
    texts = (each.get("text") if isinstance(each, dict) else each for each in found)
    return "".join(clean(text) for text in texts if isinstance(text, str))


def _read_extras(text: str, logprobs: object, annotations: object) -> Iterator[AnyPiece]:
    """Yield a text with its log probabilities and annotations, as the service sent them."""
    kept_logprobs = logprobs if isinstance(logprobs, dict) and logprobs.get("content") else None
    kept_annotations = annotations if isinstance(annotations, list) and annotations else None
    size = 0
    try:
        size = len(msgspec.json.encode([kept_logprobs, kept_annotations]))
    except UnicodeEncodeError:
        kept_logprobs = kept_annotations = None
    if kept_logprobs is None and kept_annotations is None:
        if text:
            yield text
        return
    yield Piece(
        kind="chunk",
        text=text,
        logprobs=kept_logprobs,
        annotations=kept_annotations,
        extra_bytes=size,
    )


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
    prompt_details = _details(get("prompt_tokens_details") or get("input_tokens_details"))
    if prompt_details is None and (hits := _count(get("prompt_cache_hit_tokens"))):  # DeepSeek's
        prompt_details = {"cached_tokens": hits}
    answer_details = _details(get("completion_tokens_details") or get("output_tokens_details"))
    return Usage(
        prompt_tokens=prompt_tokens or known.prompt_tokens,
        completion_tokens=completion_tokens or known.completion_tokens,
        prompt_tokens_details=prompt_details or known.prompt_tokens_details,
        completion_tokens_details=answer_details or known.completion_tokens_details,
    )


def _details(details: object) -> dict[str, int] | None:
    """Return the parts of a token count, as far as they are counts."""
    if not isinstance(details, dict):
        return None
    counts = {
        clean(name): int(value)
        for name, value in list(details.items())[:_MAX_DETAILS]
        if isinstance(name, str) and type(value) in (int, float) and 0 <= value <= _MAX_TOKENS
    }
    return counts or None


def holds_text(frame: dict[str, Any]) -> bool:
    """Return True if an object that is not a frame may contain a piece of the answer."""
    return any(frame.get(name) for name in _PLACELESS)


def _count(count: object) -> int:
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
