"""Translation of a body of the Responses API into one of the chat API, and of input back. No I/O.

Items become messages: a model's reasoning, text and function calls of one turn are one message of
the assistant. Whatever only OpenAI's own service could do, such as its built-in tools, is refused
by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, get_args

from darkq.errors import InvalidJob
from darkq.openai.chat import build_tool_call
from darkq.protocol.prompt import Role
from darkq.protocol.record import FunctionCall

MAX_OUTPUT_TOKENS: Final = "max_output_tokens"
NAMES_OF_RESPONSES: Final[Mapping[str, str]] = {
    "max_tokens": MAX_OUTPUT_TOKENS,
    "messages": "input",
    "max_completion_tokens": MAX_OUTPUT_TOKENS,
    "response_format": "text.format",
    "verbosity": "text.verbosity",
    "reasoning_effort": "reasoning.effort",
}
"""Names of the chat API that differ in Responses."""

_MEDIA: Final = ("input_image", "input_file", "input_audio")
_FOR_READERS: Final = ("include", "max_tool_calls")
REFUSALS: Final = {
    "truncation": "must be disabled: darkq never shortens a prompt",
    "previous_response_id": "cannot be honoured in a batch: repeat the messages",
}


def to_chat(body: Mapping[str, Any], history: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """Return the body for the chat API. Raises `InvalidJob`, which names the parameter.

    `history` are the messages of the Response that the body continues.
    """
    left = dict(body)
    messages = _read_input(left.pop("input", None))
    chat: dict[str, Any] = {
        "messages": [*_read_instructions(left.pop("instructions", None)), *history, *messages]
    }
    chat |= _read_text(left.pop("text", {}))
    chat |= _read_reasoning(left.pop("reasoning", {}))
    if (tools := left.pop("tools", None)) is not None:
        chat["tools"] = _read_tools(tools)
    if (choice := left.pop("tool_choice", None)) is not None:
        chat["tool_choice"] = _read_tool_choice(choice)
    if _wants_logprobs(left):
        chat["logprobs"] = True
    for name in REFUSALS.keys() & left.keys():
        raise InvalidJob(name, REFUSALS[name])
    return {**{name: left[name] for name in left if name not in _FOR_READERS}, **chat}


def _read_input(given: object) -> list[dict[str, Any]]:
    """Return the messages of `input`."""
    if isinstance(given, str):
        given = [{"role": "user", "content": given}]
    if not isinstance(given, list):
        reason = "must be a string or a list of items" if given is not None else "is missing"
        raise InvalidJob("input", reason)
    return read_items(given)


def _read_instructions(instructions: object) -> list[dict[str, Any]]:
    if instructions is None:
        return []
    if not isinstance(instructions, str):
        raise InvalidJob("instructions", "must be a string")
    return [{"role": "system", "content": instructions}]


def _wants_logprobs(body: Mapping[str, Any]) -> bool:
    include = body.get("include", [])
    if not isinstance(include, list) or not all(isinstance(each, str) for each in include):
        raise InvalidJob("include", "must be a list of strings")
    return "top_logprobs" in body or "message.output_text.logprobs" in include


def _read_text(text: object) -> dict[str, Any]:
    """Return `response_format` and `verbosity`."""
    if not isinstance(text, dict):
        raise InvalidJob("text", "must be an object")
    left = dict(text)
    chat: dict[str, Any] = {}
    wanted = left.pop("format", None)
    if wanted is not None and not isinstance(wanted, dict):
        raise InvalidJob("text.format", "must be an object")
    if wanted and wanted.get("type") == "json_schema":
        schema = {name: value for name, value in wanted.items() if name != "type"}
        chat["response_format"] = {"type": "json_schema", "json_schema": schema}
    elif wanted and wanted.get("type") != "text":
        chat["response_format"] = wanted
    if (verbosity := left.pop("verbosity", None)) is not None:
        chat["verbosity"] = verbosity
    _refuse_rest("text", left)
    return chat


def _read_reasoning(reasoning: object) -> dict[str, Any]:
    """Return `reasoning_effort`. A summary is never made: the reasoning itself is sent."""
    if not isinstance(reasoning, dict):
        raise InvalidJob("reasoning", "must be an object")
    left = {name: value for name, value in reasoning.items() if value is not None}
    effort = left.pop("effort", None)
    for name in ("summary", "generate_summary"):
        left.pop(name, None)
    _refuse_rest("reasoning", left)
    return {} if effort is None else {"reasoning_effort": effort}


def _refuse_rest(field: str, left: Mapping[str, Any]) -> None:
    for name, value in left.items():
        if value is not None:
            raise InvalidJob(f"{field}.{name}", "cannot be honoured: leave it out")


def _read_tools(tools: object) -> list[dict[str, Any]]:
    if not isinstance(tools, list):
        raise InvalidJob("tools", "must be a list")
    return [_read_tool(tool, f"tools[{number}]") for number, tool in enumerate(tools)]


def _read_tool(tool: object, field: str) -> dict[str, Any]:
    """Return a tool of the chat API, where the function is an object of its own."""
    if not isinstance(tool, dict) or tool.get("type") != "function":
        raise InvalidJob(field, "type must be function: darkq has no built-in tools")
    if isinstance(tool.get("function"), dict):  # the chat API's form, which some clients send
        return tool
    function = {name: value for name, value in tool.items() if name != "type" and value is not None}
    if not isinstance(function.get("name"), str):
        raise InvalidJob(field, "`name` must be a string")
    return {"type": "function", "function": function}


def _read_tool_choice(choice: object) -> object:
    if not isinstance(choice, dict):
        return choice
    kind = choice.get("type")
    if kind == "function":
        return _name_tool(choice)
    if kind == "allowed_tools" and isinstance(choice.get("tools"), list):
        tools = [_name_tool(tool) for tool in choice["tools"]]
        mode = choice.get("mode", "auto")
        return {"type": kind, "allowed_tools": {"mode": mode, "tools": tools}}
    raise InvalidJob("tool_choice", "must be none, auto, required, or name functions")


def _name_tool(tool: object) -> dict[str, Any]:
    if isinstance(tool, dict) and isinstance(tool.get("name"), str):
        return {"type": "function", "function": {"name": tool["name"]}}
    if isinstance(tool, dict) and isinstance(tool.get("function"), dict):
        return tool
    raise InvalidJob("tool_choice", "must name functions")


def read_items(items: list[Any]) -> list[dict[str, Any]]:
    """Return the messages of a list of items."""
    messages: list[dict[str, Any]] = []
    turn: dict[str, Any] | None = None  # the message of the assistant that items still belong to
    for number, item in enumerate(items):
        field = f"input[{number}]"
        if not isinstance(item, dict):
            raise InvalidJob(field, "must be an object")
        kind = item.get("type", "message")
        if kind in ("reasoning", "function_call") or item.get("role") == "assistant":
            if turn is None or (kind == "message" and "content" in turn):
                turn = {"role": "assistant"}
                messages.append(turn)
            _add_to_turn(turn, item, kind, field)
        else:
            turn = None
            messages.append(_read_item(item, kind, field))
    for message in messages:
        message.setdefault("content", None)
    return [message for message in messages if message != {"role": "assistant", "content": None}]


def _add_to_turn(turn: dict[str, Any], item: dict[str, Any], kind: str, field: str) -> None:
    if kind == "reasoning":
        parts = item.get("content") or item.get("summary") or []
        texts = [part.get("text") for part in parts if isinstance(part, dict)]
        if text := "".join(each for each in texts if isinstance(each, str)):
            turn["reasoning_content"] = turn.get("reasoning_content", "") + text
    elif kind == "function_call":
        names = ("call_id", "name", "arguments")
        if not all(isinstance(item.get(name), str) for name in names):
            raise InvalidJob(field, "`call_id`, `name` and `arguments` must be strings")
        call = FunctionCall(id=item["call_id"], name=item["name"], arguments=item["arguments"])
        turn.setdefault("tool_calls", []).append(build_tool_call(call))
    elif item.get("content") != []:  # empty: an item of an attempt that was lost
        turn |= _read_item(item, kind, field)


def _read_item(item: dict[str, Any], kind: str, field: str) -> dict[str, Any]:
    """Return the message of an item that is one by itself."""
    if kind == "function_call_output":
        if not isinstance(item.get("call_id"), str):
            raise InvalidJob(field, "`call_id` must be a string")
        content = _read_content(item.get("output"), field)
        return {"role": "tool", "tool_call_id": item["call_id"], "content": content}
    if kind != "message":
        raise InvalidJob(field, "must be a message, a function call or its output")
    role = item.get("role")
    if role not in get_args(Role) or role == "tool":
        raise InvalidJob(field, "role must be system, developer, user, assistant")
    content = item.get("content")
    refusal = ""
    if role == "assistant" and isinstance(content, list):
        parts = [part for part in content if isinstance(part, dict)]
        refusal = "".join(str(p.get("refusal", "")) for p in parts if p.get("type") == "refusal")
        content = [part for part in content if part not in parts or part.get("type") != "refusal"]
    message = {"role": role, "content": _read_content(content, field)}
    if refusal:
        message |= {"refusal": refusal, "content": message["content"] or None}
    return message


def _read_content(content: object, field: str) -> Any:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise InvalidJob(field, "content must be a string or a list of parts")
    parts = [_read_part(part, field) for part in content]
    if all(part["type"] == "text" for part in parts) and len(parts) < 2:
        return "".join(part["text"] for part in parts)
    return parts


def _read_part(part: object, field: str) -> dict[str, Any]:
    """Return a part of a message of the chat API."""
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(part, dict) or kind not in ("input_text", "output_text", "text", *_MEDIA):
        raise InvalidJob(field, "may have parts of text, images, files and audio only")
    if kind == "input_audio":
        return part
    if kind == "input_image":
        if not isinstance(part.get("image_url"), str):
            raise InvalidJob(field, "an image must have an `image_url`: darkq keeps no images")
        image = {"url": part["image_url"]}
        if isinstance(part.get("detail"), str):
            image["detail"] = part["detail"]
        return {"type": "image_url", "image_url": image}
    if kind == "input_file":
        names = ("file_data", "filename", "file_url")
        file = {name: part[name] for name in names if isinstance(part.get(name), str)}
        if "file_data" not in file and "file_url" not in file:
            raise InvalidJob(field, "a file must have `file_data` or `file_url`")
        return {"type": "file", "file": file}
    if not isinstance(part.get("text"), str):
        raise InvalidJob(field, "a part of text must have a `text`")
    return {"type": "text", "text": part["text"]}


def to_input_items(messages: Iterable[Mapping[str, Any]], job_id: str) -> list[dict[str, Any]]:
    """Return the items of a job's messages. Their ids consist of the job's id and a number."""
    items = [item for message in messages for item in _to_items(message)]
    return [{"id": f"in_{job_id}_{number}", **item} for number, item in enumerate(items)]


def _to_items(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    role = message["role"]
    done = {"status": "completed"}
    if role == "tool":
        output = _to_output(message.get("content"))
        call_id = message.get("tool_call_id")
        return [{"type": "function_call_output", "call_id": call_id, "output": output, **done}]
    items: list[dict[str, Any]] = []
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


def _to_parts(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    is_answer = message["role"] == "assistant"
    kind = "output_text" if is_answer else "input_text"
    content = message.get("content") or ()
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    parts = [_to_part(part, kind) for part in content]
    if refusal := message.get("refusal"):
        parts.append({"type": "refusal", "refusal": refusal})
    return parts


def _to_part(part: Mapping[str, Any], text_kind: str) -> dict[str, Any]:
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
