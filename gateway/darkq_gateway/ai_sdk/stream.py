"""A job's events as chunks of the AI SDK's UI message stream, version 1. No I/O.

    started     for another attempt reset-step, which removes what was shown
    chunk       text-start, text-delta …, text-end
    reasoning   reasoning-start, reasoning-delta …, reasoning-end
    tool_call   tool-input-start, tool-input-delta …; at the end tool-input-available
    completed   finish-step, finish
    failed      error
    cancelled   abort

A stream begins with start, whose metadata has the job's id, and start-step. The protocol is
described in the documentation of the package `ai`, and its schemas in
`ui-message-stream/ui-message-chunks`.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import msgspec

from darkq import AnyEvent, Cancelled, Chunk, Completed, Failed, Started
from darkq.event import Reasoning, Refusal, ToolCall

Json: TypeAlias = dict[str, Any]
_Kind: TypeAlias = Literal["text", "reasoning"]

_FINISH_REASONS = {
    "stop": "stop",
    "length": "length",
    "content_filter": "content-filter",
    "tool_calls": "tool-calls",
}


class _Call:
    """A tool call, as far as it has arrived."""

    def __init__(self, event: ToolCall) -> None:
        self.id = event.call_id
        self.name = event.name
        self.pieces: list[str] = []


class UiStream:
    """Builds the chunks of one message."""

    def __init__(self) -> None:
        self._has_started = False
        self._open: tuple[_Kind, str] | None = None
        self._parts = 0
        self._calls: dict[int, _Call] = {}

    def feed(self, event: AnyEvent) -> list[Json]:
        """Return the chunks for one event of the job, possibly none."""
        match event:
            case Started() if self._has_started:
                self._open = None
                self._calls = {}
                return [{"type": "reset-step"}]
            case Started():
                self._has_started = True
            case Chunk():
                return [*self._add("text", event.text), *_build_sources(event)]
            case Refusal():
                return self._add("text", event.text)
            case Reasoning():
                return self._add("reasoning", event.text)
            case ToolCall():
                return self._add_to_call(event)
            case Completed():
                return self._complete(event)
            case Failed():
                return [{"type": "error", "errorText": event.message}]
            case Cancelled():
                return [{"type": "abort", "reason": "the job was cancelled"}]
        return []

    def _add(self, kind: _Kind, text: str) -> list[Json]:
        if not text:
            return []
        chunks: list[Json] = []
        if self._open is None or self._open[0] != kind:
            chunks += self._close()
            self._parts += 1
            self._open = kind, f"{kind}-{self._parts}"
            chunks.append({"type": f"{kind}-start", "id": self._open[1]})
        return [*chunks, {"type": f"{kind}-delta", "id": self._open[1], "delta": text}]

    def _close(self) -> list[Json]:
        if self._open is None:
            return []
        (kind, part_id), self._open = self._open, None
        return [{"type": f"{kind}-end", "id": part_id}]

    def _add_to_call(self, event: ToolCall) -> list[Json]:
        chunks = self._close()
        call = self._calls.get(event.index)
        if call is None:
            call = self._calls[event.index] = _Call(event)
            start = {"type": "tool-input-start", "toolCallId": call.id, "toolName": call.name}
            chunks.append(start)
        if event.arguments:
            call.pieces.append(event.arguments)
            delta = {"toolCallId": call.id, "inputTextDelta": event.arguments}
            chunks.append({"type": "tool-input-delta", **delta})
        return chunks

    def _complete(self, event: Completed) -> list[Json]:
        finish: Json = {
            "type": "finish",
            "finishReason": _FINISH_REASONS.get(event.finish_reason, "other"),
        }
        if event.usage is not None:
            read, written = event.usage.prompt_tokens, event.usage.completion_tokens
            counts = {"inputTokens": read, "outputTokens": written, "totalTokens": read + written}
            finish["messageMetadata"] = {"usage": counts}
        calls = [_build_input(call) for call in self._calls.values()]
        return [*self._close(), *calls, {"type": "finish-step"}, finish]


def begin(job_id: str, message_id: str) -> list[Json]:
    """Return the first chunks of a message."""
    start = {"type": "start", "messageId": message_id, "messageMetadata": {"jobId": job_id}}
    return [start, {"type": "start-step"}]


def _build_input(call: _Call) -> Json:
    """Return the whole input of a tool, or an error if the model did not write JSON."""
    arguments = "".join(call.pieces)
    known = {"toolCallId": call.id, "toolName": call.name}
    try:
        value = msgspec.json.decode(arguments or "{}")
    except msgspec.DecodeError:
        reason = "the model's arguments are not JSON"
        return {"type": "tool-input-error", **known, "input": arguments, "errorText": reason}
    return {"type": "tool-input-available", **known, "input": value}


def _build_sources(event: Chunk) -> list[Json]:
    """Return the web pages that a chunk cites."""
    sources: list[Json] = []
    for annotation in event.annotations or ():
        cited = annotation.get("url_citation") if isinstance(annotation, dict) else None
        if isinstance(cited, dict) and isinstance(url := cited.get("url"), str):
            title = cited.get("title")
            named = {"title": title} if isinstance(title, str) else {}
            sources.append({"type": "source-url", "sourceId": url, "url": url, **named})
    return sources
