"""The messages of a `useChat`: as messages of the chat API, and as chunks of a stream. No I/O.

A message of the AI SDK has parts. An assistant's message has all steps of a turn: text and tool
calls, and the outputs of the tools, which the chat API has as messages of their own.

The output of a tool is sent with the message that called it, and the answer is the next step of
that message. A page that resumes begins the message anew, so it gets the earlier steps as chunks.
"""

from __future__ import annotations

from typing import Any

import msgspec

from darkq import InvalidJob
from darkq.openai.chat import build_tool_call
from darkq.protocol.record import FunctionCall

_TOOL = "tool-"
_DYNAMIC_TOOL = "dynamic-tool"
_EQUAL_TO_CHUNKS = ("file", "source-url", "source-document")
"""Parts that are equal to their chunks, as those whose type begins with `data-`."""
MAX_ID_CHARS = 200


def to_chat_messages(messages: object) -> list[dict[str, Any]]:
    """Return the messages for the chat API. Raises `InvalidJob`, which names the message."""
    if not isinstance(messages, list):
        raise InvalidJob("messages", "must be a list of messages")
    return [each for n, message in enumerate(messages) for each in _convert(message, n)]


def get_continued(messages: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the message that the answer continues: the latest one, if it is the assistant's.

    Raises `InvalidJob` if it has no usable id.
    """
    latest = messages[-1] if messages else {}
    if latest.get("role") != "assistant":
        return None
    if not isinstance(latest.get("id"), str) or len(latest["id"]) > MAX_ID_CHARS:
        reason = f"id must be a string of at most {MAX_ID_CHARS} characters"
        raise InvalidJob(f"messages[{len(messages) - 1}]", reason)
    return latest


def _convert(message: object, number: int) -> list[dict[str, Any]]:
    field = f"messages[{number}]"
    if not isinstance(message, dict) or not isinstance(message.get("parts"), list):
        raise InvalidJob(field, "must be a message with `parts`")
    parts = [part for part in message["parts"] if isinstance(part, dict)]
    match message.get("role"):
        case "system":
            return [{"role": "system", "content": _join_texts(parts)}]
        case "user":
            return [{"role": "user", "content": _build_content(parts, field)}]
        case "assistant":
            return _build_turn(parts, field)
    raise InvalidJob(field, "role must be system, user or assistant")


def _join_texts(parts: list[dict[str, Any]]) -> str:
    return "".join(str(part.get("text", "")) for part in parts if part.get("type") == "text")


def _build_content(parts: list[dict[str, Any]], field: str) -> str | list[dict[str, Any]]:
    files = [part for part in parts if part.get("type") == "file"]
    if not files:
        return _join_texts(parts)
    return [
        _build_file(part, field)
        if part.get("type") == "file"
        else {"type": "text", "text": part.get("text")}
        for part in parts
        if part.get("type") in ("text", "file")
    ]


def _build_file(part: dict[str, Any], field: str) -> dict[str, Any]:
    url, media_type = part.get("url"), part.get("mediaType")
    if not isinstance(url, str) or not isinstance(media_type, str):
        raise InvalidJob(field, "a file must have `url` and `mediaType`")
    if media_type.startswith("image/"):
        return {"type": "image_url", "image_url": {"url": url}}
    name = part.get("filename")
    file = {"file_data": url, **({"filename": name} if isinstance(name, str) else {})}
    return {"type": "file", "file": file}


def _build_turn(parts: list[dict[str, Any]], field: str) -> list[dict[str, Any]]:
    """Return the messages of an assistant's turn: for each step one, and the tools' outputs."""
    messages: list[dict[str, Any]] = []
    step: list[dict[str, Any]] = []
    for part in [*parts, {"type": "step-start"}]:
        if part.get("type") == "step-start":
            messages += _build_step(step, field) if step else []
            step = []
        else:
            step.append(part)
    return messages


def _build_step(parts: list[dict[str, Any]], field: str) -> list[dict[str, Any]]:
    calls = [part for part in parts if _is_tool(part)]
    text = _join_texts(parts)
    reasoning = [part for part in parts if part.get("type") == "reasoning"]
    message: dict[str, Any] = {"role": "assistant", "content": text or None}
    if reasoning:
        message["reasoning_content"] = "".join(str(part.get("text", "")) for part in reasoning)
    if calls:
        message["tool_calls"] = [_build_call(part, field) for part in calls]
    answered = [part for part in calls if part.get("state") in ("output-available", "output-error")]
    outputs = [_build_output(part) for part in answered]
    return [message, *outputs] if text or calls else outputs


def _is_tool(part: dict[str, Any]) -> bool:
    return str(part.get("type", "")).startswith(_TOOL) or part.get("type") == _DYNAMIC_TOOL


def _get_tool_name(part: dict[str, Any]) -> object:
    is_dynamic = part.get("type") == _DYNAMIC_TOOL
    return part.get("toolName") if is_dynamic else str(part.get("type")).removeprefix(_TOOL)


def _build_call(part: dict[str, Any], field: str) -> dict[str, Any]:
    name = _get_tool_name(part)
    if not isinstance(part.get("toolCallId"), str) or not isinstance(name, str):
        raise InvalidJob(field, "a tool call must have a `toolCallId` and a name")
    arguments = msgspec.json.encode(part.get("input", {})).decode()
    return build_tool_call(FunctionCall(id=part["toolCallId"], name=name, arguments=arguments))


def _build_output(part: dict[str, Any]) -> dict[str, Any]:
    output = part.get("output") if part["state"] == "output-available" else part.get("errorText")
    content = output if isinstance(output, str) else msgspec.json.encode(output).decode()
    return {"role": "tool", "tool_call_id": part["toolCallId"], "content": content}


def replay(message: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the chunks that build a message's steps."""
    chunks = [
        chunk
        for number, part in enumerate(message["parts"])
        if isinstance(part, dict)
        for chunk in _replay_part(part, number)
    ]
    return [*chunks, {"type": "finish-step"}]


def _replay_part(part: dict[str, Any], number: int) -> list[dict[str, Any]]:
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
    if _is_tool(part):
        return _replay_call(part)
    return [part] if kind in _EQUAL_TO_CHUNKS or kind.startswith("data-") else []


def _replay_call(part: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the chunks of a call and its output.

    The input comes in a delta: at a tool-input-available the page would call the tool again.
    """
    call: dict[str, Any] = {"toolCallId": part["toolCallId"]}
    dynamic = {"dynamic": True} if part.get("type") == "dynamic-tool" else {}
    text = msgspec.json.encode(part.get("input")).decode()
    chunks: list[dict[str, Any]] = [
        {"type": "tool-input-start", **call, "toolName": _get_tool_name(part), **dynamic},
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
