"""A server of OpenAI's wire that answers by rules: the model's name selects what it does.

- `scripted-text` counts the messages and repeats the last one.
- `scripted-tools` calls the tool that `tool_choice` names, or the first one. `scripted-parallel`
  calls all tools. After the tools' results both answer with them.
- `scripted-reasoning` reasons, then answers. `scripted-refusal` refuses.

Arguments of a tool, and an answer to a JSON schema, are a value that fits the schema. The server
checks what comes back: a history in which a call has changed is answered with 400.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any, Final

from aiohttp import web

MODELS: Final = (
    "scripted-text",
    "scripted-tools",
    "scripted-parallel",
    "scripted-reasoning",
    "scripted-refusal",
)
THOUGHT: Final = "The user wants a number. It is seven."
REFUSAL: Final = "I cannot help with that."
USAGE: Final = {
    "prompt_tokens": 11,
    "completion_tokens": 7,
    "total_tokens": 18,
    "prompt_tokens_details": {"cached_tokens": 3},
    "completion_tokens_details": {"reasoning_tokens": 2},
}
_CALLERS: Final = ("scripted-tools", "scripted-parallel")
_PIECE_CHARS: Final = 7

Json = dict[str, Any]


class ScriptedUpstream:
    """What it was asked; the server runs within `scripted_upstream()`."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.requests: list[Json] = []


@asynccontextmanager
async def scripted_upstream() -> AsyncIterator[ScriptedUpstream]:
    """Run the server on a free port."""
    upstream = ScriptedUpstream("")

    async def complete(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        upstream.requests.append(body)
        if fault := _fault_of(body["messages"]):
            error = {"message": fault, "type": "invalid_request_error"}
            return web.json_response({"error": error}, status=400)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for frame in _frames(body):
            await response.write(b"data: " + json.dumps(frame).encode() + b"\n\n")
        await response.write(b"data: [DONE]\n\n")
        return response

    async def models(_: web.Request) -> web.Response:
        listed = [{"id": name, "object": "model"} for name in MODELS]
        return web.json_response({"object": "list", "data": listed})

    app = web.Application(client_max_size=16 << 20)
    app.add_routes([web.post("/v1/chat/completions", complete), web.get("/v1/models", models)])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    upstream.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    try:
        yield upstream
    finally:
        await runner.cleanup()


def _frames(body: Json) -> Iterator[Json]:
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1}
    head["model"] = body["model"]
    for delta, finish_reason in _deltas(body):
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        yield {**head, "choices": [choice]}
    if body.get("stream_options", {}).get("include_usage"):
        yield {**head, "choices": [], "usage": USAGE}


def _deltas(body: Json) -> Iterator[tuple[Json, str | None]]:
    yield {"role": "assistant", "content": ""}, None
    if tools := _chosen_tools(body):
        for index, tool in enumerate(tools):
            yield from ((delta, None) for delta in _call_deltas(index, tool["function"]))
        yield {}, "tool_calls"
        return
    if body["model"] == "scripted-reasoning":
        yield from (({"reasoning_content": piece}, None) for piece in _pieces(THOUGHT))
    if body["model"] == "scripted-refusal":
        yield from (({"refusal": piece}, None) for piece in _pieces(REFUSAL))
    else:
        yield from (({"content": piece}, None) for piece in _pieces(_text(body)))
    yield {}, "stop"


def _call_deltas(index: int, function: Json) -> Iterator[Json]:
    """The first delta has the id and the name, the others have pieces of the arguments."""
    arguments = json.dumps(example(function.get("parameters") or {"type": "object"}))
    head = {"name": function["name"], "arguments": ""}
    call_id = _call_id(function["name"], arguments)
    yield {"tool_calls": [{"index": index, "id": call_id, "type": "function", "function": head}]}
    for piece in _pieces(arguments):
        yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}


def _chosen_tools(body: Json) -> list[Json]:
    tools: list[Json] = [t for t in body.get("tools") or [] if t["type"] == "function"]
    choice = body.get("tool_choice", "auto")
    if not tools or choice == "none" or body["model"] not in _CALLERS:
        return []
    if isinstance(choice, dict):
        return [tool for tool in tools if tool["function"]["name"] == choice["function"]["name"]]
    if any(message["role"] == "tool" for message in body["messages"]):
        # The result is known. A client that forces a call has a tool for its final answer.
        return tools[-1:] if choice == "required" else []
    return tools if body["model"] == "scripted-parallel" else tools[:1]


def _text(body: Json) -> str:
    schema = (body.get("response_format") or {}).get("json_schema")
    if schema is not None:
        return json.dumps(example(schema["schema"]))
    if (body.get("response_format") or {}).get("type") == "json_object":
        return '{"city": "Paris", "days": 7}'
    messages = body["messages"]
    if results := [message for message in messages if message["role"] == "tool"]:
        return "The tool said: " + ", ".join(_plain(each["content"]) for each in results)
    if body["model"] == "scripted-reasoning":
        return "Seven."
    return f"{len(messages)} messages, the last one: {_plain(messages[-1]['content'])}"


def _plain(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "".join(part.get("text", f"[{part['type']}]") for part in content)


def _fault_of(messages: list[Json]) -> str:
    """Return what is wrong with the calls of a history."""
    open_calls: set[str] = set()
    for message in messages:
        for call in message.get("tool_calls") or ():
            function = call["function"]
            if call["id"] != _call_id(function["name"], function["arguments"]):
                return f"this call was not made: {json.dumps(call)}"
            open_calls.add(call["id"])
        if message["role"] == "tool":
            if message["tool_call_id"] not in open_calls:
                return f"no call has the id {message['tool_call_id']}"
            open_calls.remove(message["tool_call_id"])
    return f"calls without a result: {sorted(open_calls)}" if open_calls else ""


def _call_id(name: str, arguments: str) -> str:
    """The id shows later whether name and arguments are the ones that were sent.

    Some clients write the arguments anew, so only their value counts.
    """
    value = json.dumps(json.loads(arguments), sort_keys=True)
    return "call_" + hashlib.sha256(f"{name} {value}".encode()).hexdigest()[:24]


def _pieces(text: str) -> Iterator[str]:
    yield from (text[at : at + _PIECE_CHARS] for at in range(0, len(text), _PIECE_CHARS))


def example(schema: Json, root: Json | None = None) -> Any:
    """Return a value that fits a JSON schema."""
    root = root or schema
    if "$ref" in schema:
        found: Any = root
        for name in schema["$ref"].removeprefix("#/").split("/"):
            found = found[name]
        return example(found, root)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][0]
    for union in ("anyOf", "oneOf", "allOf"):
        if union in schema:
            return example(schema[union][0], root)
    kind = schema.get("type", "object")
    return _example_of_type(kind[0] if isinstance(kind, list) else kind, schema, root)


def _example_of_type(kind: str, schema: Json, root: Json) -> Any:
    if kind == "object":
        properties = schema.get("properties", {})
        return {name: example(each, root) for name, each in properties.items()}
    if kind == "array":
        return [example(schema.get("items", {"type": "string"}), root)]
    scalars = {"string": "Paris", "integer": 7, "number": 7.5, "boolean": True, "null": None}
    return scalars[kind]
