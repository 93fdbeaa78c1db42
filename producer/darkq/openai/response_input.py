"""Messages of the chat API as input items of the Responses API. No I/O.

The reverse of `response_body`, for reading the input of a Response.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

Json: TypeAlias = dict[str, Any]


def to_input_items(messages: Iterable[Mapping[str, Any]], job_id: str) -> list[Json]:
    """Return the items of a job's messages. Their ids consist of the job's id and a number."""
    items = [item for message in messages for item in _to_items(message)]
    return [{"id": f"in_{job_id}_{number}", **item} for number, item in enumerate(items)]


def _to_items(message: Mapping[str, Any]) -> list[Json]:
    role = message["role"]
    done = {"status": "completed"}
    if role == "tool":
        output = _to_output(message.get("content"))
        call_id = message.get("tool_call_id")
        return [{"type": "function_call_output", "call_id": call_id, "output": output, **done}]
    items: list[Json] = []
    if reasoning := message.get("reasoning_content"):
        content = [{"type": "reasoning_text", "text": reasoning}]
        items.append({"type": "reasoning", "summary": [], "content": content, **done})
    if parts := _to_parts(message):
        items.append({"type": "message", "role": role, "content": parts, **done})
    for call in message.get("tool_calls") or ():
        function = call.get("function") or {}
        fields = {name: function.get(name) for name in ("name", "arguments")}
        items.append({"type": "function_call", "call_id": call.get("id"), **fields, **done})
    return items


def _to_output(content: Any) -> Any:
    if isinstance(content, str) or content is None:
        return content or ""
    return [_to_part(part, "input_text") for part in content]


def _to_parts(message: Mapping[str, Any]) -> list[Json]:
    is_answer = message["role"] == "assistant"
    kind = "output_text" if is_answer else "input_text"
    content = message.get("content") or ()
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    parts = [_to_part(part, kind) for part in content]
    if refusal := message.get("refusal"):
        parts.append({"type": "refusal", "refusal": refusal})
    return parts


def _to_part(part: Mapping[str, Any], text_kind: str) -> Json:
    kind = part.get("type")
    if kind == "image_url":
        image = part.get("image_url") or {}
        url, detail = image.get("url"), image.get("detail", "auto")
        return {"type": "input_image", "image_url": url, "detail": detail}
    if kind == "file":
        return {"type": "input_file", **(part.get("file") or {})}
    if kind == "input_audio":
        return dict(part)
    text = {"type": text_kind, "text": part.get("text") or ""}
    return text | ({"annotations": []} if text_kind == "output_text" else {})
