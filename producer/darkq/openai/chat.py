"""OpenAI's chat messages, whole and in deltas, and their token counts. No I/O.

Reasoning has two names, because services and clients disagree: both are sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from darkq.event import Chunk, Piece, Reasoning, Refusal, ToolCall, Usage
from darkq.protocol.record import FunctionCall
from darkq.protocol.result import Result

_FINISH_REASONS = ("stop", "length", "content_filter", "tool_calls")


def map_finish_reason(reason: str) -> str:
    """Return an upstream's finish reason as one that the API defines; by default `stop`."""
    return reason if reason in _FINISH_REASONS else "stop"


def chat_usage(usage: Usage) -> dict[str, Any]:
    """Return token counts in the format of chat completions."""
    counts: dict[str, Any] = {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
    for name in ("prompt_tokens_details", "completion_tokens_details"):
        if (details := getattr(usage, name)) is not None:
            counts[name] = details
    return counts


def build_message(result: Result) -> dict[str, Any]:
    """Return the message of a whole answer. Its `content` is null if there is no text."""
    message: dict[str, Any] = {
        "role": "assistant",
        "content": result.text or None,
        "refusal": result.refusal or None,
    }
    if result.reasoning:
        message |= _name_reasoning(result.reasoning)
    if result.tool_calls:
        message["tool_calls"] = [build_tool_call(call) for call in result.tool_calls]
    if result.annotations:
        message["annotations"] = result.annotations
    return message


def build_tool_call(call: FunctionCall) -> dict[str, Any]:
    """Return a call as it is in messages."""
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": "function", "function": function}


def build_logprobs(logprobs: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the log probabilities of a choice."""
    return None if logprobs is None else {"refusal": None, **logprobs}


def build_delta(piece: Piece) -> dict[str, Any]:
    """Return a piece of an answer as the delta of a chunk."""
    match piece:
        case Chunk():
            delta: dict[str, Any] = {"content": piece.text}
            return delta | ({"annotations": piece.annotations} if piece.annotations else {})
        case Reasoning():
            return _name_reasoning(piece.text)
        case Refusal():
            return {"refusal": piece.text}
        case ToolCall():
            return {"tool_calls": [_build_call_delta(piece)]}


def _build_call_delta(piece: ToolCall) -> dict[str, Any]:
    if not (piece.call_id or piece.name):
        return {"index": piece.index, "function": {"arguments": piece.arguments}}
    call = FunctionCall(id=piece.call_id, name=piece.name, arguments=piece.arguments)
    return {"index": piece.index, **build_tool_call(call)}


def _name_reasoning(text: str) -> dict[str, Any]:
    return {"reasoning_content": text, "reasoning": text}
