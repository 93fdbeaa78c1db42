"""The earlier steps of a message as chunks, for a page that does not have them any more. No I/O.

The output of a tool is sent with the message that called it, and the answer is the next step of
that message. A page that resumes begins the message anew.
"""

from __future__ import annotations

from typing import Any

import msgspec

from darkq_gateway.ai_sdk.messages import get_tool_name, is_tool
from darkq_gateway.ai_sdk.stream import Json

_ALIKE = ("file", "source-url", "source-document")
"""Parts that are equal to their chunks, as those whose type begins with `data-`."""


def replay(message: dict[str, Any]) -> list[Json]:
    """Return the chunks that build a message's steps."""
    chunks = [
        chunk
        for number, part in enumerate(message["parts"])
        if isinstance(part, dict)
        for chunk in _replay_part(part, number)
    ]
    return [*chunks, {"type": "finish-step"}]


def _replay_part(part: dict[str, Any], number: int) -> list[Json]:
    kind = str(part.get("type"))
    if kind == "step-start":
        return [{"type": "finish-step"}] * (number > 0) + [{"type": "start-step"}]
    if kind in ("text", "reasoning"):
        part_id, text = f"earlier-{number}", str(part.get("text", ""))
        return [
            {"type": f"{kind}-start", "id": part_id},
            {"type": f"{kind}-delta", "id": part_id, "delta": text},
            {"type": f"{kind}-end", "id": part_id},
        ]
    if is_tool(part):
        return _replay_call(part)
    return [part] if kind in _ALIKE or kind.startswith("data-") else []


def _replay_call(part: dict[str, Any]) -> list[Json]:
    """Return the chunks of a call and its output.

    The input comes in a delta: at a tool-input-available the page would call the tool again.
    """
    call: Json = {"toolCallId": part["toolCallId"]}
    dynamic = {"dynamic": True} if part.get("type") == "dynamic-tool" else {}
    text = msgspec.json.encode(part.get("input")).decode()
    chunks: list[Json] = [
        {"type": "tool-input-start", **call, "toolName": get_tool_name(part), **dynamic},
        {"type": "tool-input-delta", **call, "inputTextDelta": text},
    ]
    match part.get("state"):
        case "output-available":
            end = {"type": "tool-output-available", **call, "output": part.get("output")}
            return [*chunks, end]
        case "output-error":
            error = str(part.get("errorText", ""))
            return [*chunks, {"type": "tool-output-error", **call, "errorText": error}]
    return chunks
