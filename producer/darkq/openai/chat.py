"""Parts of OpenAI's `chat.completion` objects, whole and streamed. No I/O."""

from __future__ import annotations

from typing import Any

from darkq.event import Usage

_FINISH_REASONS = ("stop", "length", "content_filter", "tool_calls")


def map_finish_reason(reason: str) -> str:
    """Return an upstream's finish reason as one that the API defines; by default `stop`."""
    return reason if reason in _FINISH_REASONS else "stop"


def chat_usage(usage: Usage) -> dict[str, Any]:
    """Return token counts in the format of chat completions."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
