"""What a client shows of a refusal: the message alone, in which the parameter must stand."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from darkq import Settings
from darkq_gateway.http import sse_response
from integration.gateway.sdk.test_openai_batches import ended, read
from support.http_api import Api
from support.recorded_http import RecordedServer, Recording

HELLO = [{"role": "user", "content": "Hi"}]
SAID = {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}
TOOL = {"type": "function", "name": "f", "parameters": {}}
CHAT, RESPONSES, BATCHES = "/v1/chat/completions", "/v1/responses", "/v1/batches"
CALL_OUTPUT = {"type": "function_call_output", "call_id": "1", "output": "x"}

GOOD: dict[str, dict[str, Any]] = {
    CHAT: {"model": "m", "messages": HELLO},
    RESPONSES: {"model": "m", "input": "Hi"},
    BATCHES: {"input_file_id": "file-1", "endpoint": CHAT, "completion_window": "24h"},
}

TOO_LONG = {
    "llama": '{"error":{"code":400,"message":"request (9 tokens) exceeds the available context '
    'size (8 tokens), try increasing it","type":"exceed_context_size_error"}}',
    "vllm": '{"error":{"message":"This model\'s maximum context length is 8 tokens.",'
    '"type":"BadRequestError","param":"input_tokens","code":400}}',
    "openai": '{"error":{"message":"Your input exceeds the context window of this model.",'
    '"type":"invalid_request_error","param":"input","code":"context_length_exceeded"}}',
}


@pytest.mark.parametrize(
    ("path", "parameters", "param"),
    [
        (CHAT, {"n": 2}, "n"),
        (CHAT, {"tools": ["f"]}, "tools[0]"),
        (CHAT, {"tools": [TOOL], "tool_choice": 3}, "tool_choice"),
        (CHAT, {"response_format": "json"}, "response_format"),
        (CHAT, {"logprobs": 3}, "logprobs"),
        (RESPONSES, {"reasoning": {"effort": 3}}, "reasoning.effort"),
        (RESPONSES, {"text": {"verbosity": 3}}, "text.verbosity"),
        (RESPONSES, {"reasoning": {"summary": 3}}, "reasoning.summary"),
        (CHAT, {"modalities": ["audio"]}, "modalities"),
        (CHAT, {"audio": {"voice": "x"}}, "audio"),
        (CHAT, {"stream_options": {"include_usage": True}}, "stream_options"),
        (CHAT, {"stream": "yes"}, "stream"),
        (CHAT, {"stream": True, "stream_options": 3}, "stream_options"),
        (CHAT, {"temperature": 9}, "temperature"),
        (CHAT, {"temperature": "hot"}, "temperature"),
        (CHAT, {"max_tokens": 0}, "max_tokens"),
        (CHAT, {"stop": ["a"] * 17}, "stop"),
        (CHAT, {"stop": [""]}, "stop"),
        (CHAT, {"messages": None}, "messages"),
        (CHAT, {"messages": "Hi"}, "messages"),
        (CHAT, {"messages": [*HELLO, {"role": "narrator", "content": "x"}]}, "messages[1]"),
        (CHAT, {"messages": [{"role": "tool", "content": "x"}]}, "messages[0]"),
        (CHAT, {"messages": [{"content": "x"}]}, "messages[0]"),
        (CHAT, {"messages": [{"role": "user", "content": 3}]}, "messages[0]"),
        (CHAT, {"messages": [SAID, {"role": "tool"}], "tools": [TOOL]}, "messages[1]"),
        (CHAT, {"model": 3}, "model"),
        (CHAT, {"metadata": {"a": 1}}, "metadata"),
        (RESPONSES, {"tools": [{"type": "web_search"}]}, "tools[0]"),
        (RESPONSES, {"tools": 3}, "tools"),
        (RESPONSES, {"tools": [{"type": "function"}]}, "tools[0]"),
        (RESPONSES, {"tool_choice": {"type": "mcp"}, "tools": [TOOL]}, "tool_choice"),
        (RESPONSES, {"text": {"format": 3}}, "text.format"),
        (RESPONSES, {"text": {"colour": "red"}}, "text.colour"),
        (RESPONSES, {"reasoning": {"depth": 3}}, "reasoning.depth"),
        (RESPONSES, {"truncation": "auto"}, "truncation"),
        (RESPONSES, {"conversation": "conv_1"}, "conversation"),
        (RESPONSES, {"include": 3}, "include"),
        (RESPONSES, {"input": [{"type": "function_call_output", "output": "x"}]}, "input[0]"),
        (RESPONSES, {"input": [{"type": "function_call", "name": "f"}]}, "input[0]"),
        (RESPONSES, {"input": [{"type": "computer_call"}]}, "input[0]"),
        (RESPONSES, {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
         "input[0]"),
        (RESPONSES, {"input": None}, "input"),
        (RESPONSES, {"instructions": 3}, "instructions"),
        (RESPONSES, {"previous_response_id": 3}, "previous_response_id"),
        (RESPONSES, {"background": 1}, "background"),
        (RESPONSES, {"background": True, "store": False}, "store"),
        (RESPONSES, {"max_output_tokens": "many"}, "max_output_tokens"),
        (RESPONSES, {"user": "x" * 600}, "user"),
        (BATCHES, {"endpoint": "/v1/embeddings"}, "endpoint"),
        (BATCHES, {"nonsense": 1}, "nonsense"),
        (BATCHES, {"completion_window": None}, "completion_window"),
        (BATCHES, {"output_expires_after": {"anchor": "x", "seconds": 3600}},
         "output_expires_after.anchor"),
    ],
)  # fmt: skip
async def test_the_message_of_a_refusal_names_the_parameter(
    api: Api, path: str, parameters: dict[str, Any], param: str
) -> None:
    """Red if only `param` names it, if the effect is named and not the cause, or if msgspec talks.

    Most clients show the message and nothing else.
    """
    answer = await api("POST", path, GOOD[path] | parameters)
    assert answer.status == 400
    error = answer.json["error"]
    assert error["param"] == param
    assert error["message"].startswith((f"{param}: ", f"{param} "))
    assert not any(words in error["message"] for words in ("Expected", "Object ", "enum"))


IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
SCHEMA = {"name": "s", "schema": {"type": "object"}}


@pytest.mark.parametrize(
    ("path", "parameters", "param"),
    [
        (CHAT, {"tools": [TOOL], "tool_choice": "required"}, "tools"),
        (CHAT, {"tool_choice": "required", "tools": [TOOL]}, "tools"),
        (CHAT, {"function_call": {"name": "f"}, "functions": [TOOL]}, "functions"),
        (CHAT, {"top_logprobs": 2, "logprobs": True}, "logprobs"),
        (CHAT, {"response_format": {"type": "json_object"}}, "response_format"),
        (CHAT, {"messages": [*HELLO, SAID]}, "messages[1]"),
        (CHAT, {"messages": [{"role": "user", "content": [IMAGE]}]}, "messages[0]"),
        (RESPONSES, {"tool_choice": "required", "tools": [TOOL]}, "tools"),
        (RESPONSES, {"tools": [TOOL], "input": [CALL_OUTPUT]}, "tools"),
        (RESPONSES, {"input": [CALL_OUTPUT]}, "input"),
        (RESPONSES, {"text": {"format": {"type": "json_schema", **SCHEMA}}}, "text.format"),
        (RESPONSES, {"text": {"verbosity": "low"}}, "text.verbosity"),
        (RESPONSES, {"reasoning": {"effort": "high"}}, "reasoning.effort"),
    ],
)
async def test_a_refusal_of_a_service_of_text_names_the_parameter(
    api: Api,
    working: Callable[..., Any],
    path: str,
    parameters: dict[str, Any],
    param: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Red if what DarkAI cannot do is dropped, or refused under a name of the other endpoint."""
    monkeypatch.setattr(sse_response, "BEGIN_S", 20)
    await working()
    for stream in (False, True):
        body = GOOD[path] | {"model": "llama-3-70b", "stream": stream} | parameters
        answer = await api("POST", path, body)
        assert answer.status == 400
        error = answer.json["error"]
        assert (error["param"], error["code"]) == (param, "unsupported_parameter")
        assert error["message"].startswith(f"{param}: ")


async def test_a_query_and_a_path_are_named_too(api: Api) -> None:
    """Red if only bodies pass the place that puts the name into the message."""
    for path, param in (
        ("/v1/files?limit=x", "limit"),
        ("/v1/files?order=x", "order"),
        ("/v1/responses/resp_1?starting_after=x", "starting_after"),
    ):
        answer = await api("GET", path)
        assert answer.json["error"]["message"].startswith(f"{param}: ")


@pytest.fixture
async def refusing(
    make_settings: Callable[..., Settings],
    start_worker: Callable[[Settings], asyncio.Task[None]],
) -> AsyncIterator[None]:
    """A worker with upstreams that refuse every prompt as too long, each in its own words."""
    recordings = {
        name: Recording((body.encode(),), status=400, content_type="application/json")
        for name, body in TOO_LONG.items()
    }
    async with RecordedServer(recordings) as server:
        upstreams = {name: {"url": server.url_of(name), "models": name} for name in recordings}
        start_worker(make_settings(darkai_url="none", upstreams=upstreams))
        yield


@pytest.mark.usefixtures("refusing")
@pytest.mark.parametrize("model", TOO_LONG)
async def test_a_prompt_that_is_too_long_has_the_code_that_clients_look_for(
    sdk: AsyncOpenAI, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red if it is `rejected`, or if one of both endpoints differs."""
    monkeypatch.setattr(sse_response, "BEGIN_S", 20)
    hello: Any = HELLO
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError, match=r"messages: .*context") as chat:
            await sdk.chat.completions.create(model=model, messages=hello, stream=stream)
        assert chat.value.code == "context_length_exceeded"
        with pytest.raises(openai.BadRequestError, match=r"input: .*context") as response:
            await sdk.responses.create(model=model, input="Hi", stream=stream)
        assert (response.value.code, response.value.param) == ("context_length_exceeded", "input")
    begun = await sdk.responses.create(model=model, input="Hi", background=True, stream=True)
    last = [event async for event in begun][-1]
    assert last.type == "response.failed"
    assert last.response.error is not None
    assert json.loads(last.response.error.model_dump_json())["code"] == "context_length_exceeded"


@pytest.mark.usefixtures("refusing")
@pytest.mark.parametrize(("endpoint", "param"), [(CHAT, "messages"), (RESPONSES, "input")])
async def test_a_prompt_that_is_too_long_fails_its_line_of_a_batch_in_the_same_words(
    sdk: AsyncOpenAI, endpoint: Any, param: str
) -> None:
    """Red if the line is in the output, has `error` beside `response`, or another code."""
    asked = {"messages": HELLO} if endpoint == CHAT else {"input": "Hi"}
    data = b"".join(
        json.dumps(
            {
                "custom_id": model,
                "method": "POST",
                "url": endpoint,
                "body": {"model": model, **asked},
            }
        ).encode()
        + b"\n"
        for model in TOO_LONG
    )
    stored = await sdk.files.create(file=data, purpose="batch")
    batch = await sdk.batches.create(
        input_file_id=stored.id, endpoint=endpoint, completion_window="24h"
    )
    batch = await ended(sdk, batch.id)
    assert (batch.status, batch.output_file_id, batch.errors) == ("completed", None, None)
    assert batch.request_counts is not None
    assert (batch.request_counts.completed, batch.request_counts.failed) == (0, len(TOO_LONG))
    lines = {line["custom_id"]: line for line in await read(sdk, batch.error_file_id)}
    assert lines.keys() == TOO_LONG.keys()
    for line in lines.values():
        assert line["error"] is None
        assert line["response"]["status_code"] == 400
        error = line["response"]["body"]["error"]
        assert (error["code"], error["param"]) == ("context_length_exceeded", param)
        assert error["type"] == "invalid_request_error"
        assert error["message"].startswith(f"{param}: ")
        assert "context" in error["message"]
