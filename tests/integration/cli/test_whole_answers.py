"""Reasoning, tool calls, schemas and images at the command line."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from darkq import Client
from support.chat_service import Chat, call, say
from support.command import Darkq, Done
from support.openai_frames import DONE, delta, finish

FRAMES = [
    *(say(reasoning_content="I add."), delta("Let me see.")),
    *(call("", id="call_1", name="add"), call('{"a"'), call(": 1}")),
    *(finish("tool_calls"), DONE),
]
SHAPE = {"title": "City", "type": "object", "properties": {"name": {"type": "string"}}}


@pytest.fixture
async def chat(make_settings: Any, start_worker: Any) -> AsyncIterator[Chat]:
    chat = Chat(FRAMES)
    async with chat.serving() as url:
        upstreams = {"chat": {"url": url, "models": "m"}}
        start_worker(make_settings(darkai_url="none", upstreams=upstreams))
        yield chat


async def run(darkq: Darkq, *arguments: str) -> Done:
    return await asyncio.to_thread(darkq, *arguments)


async def test_run_prints_text_and_each_tool_call_on_a_line(darkq: Darkq, chat: Chat) -> None:
    done = await run(darkq, "run", "add")
    assert (done.code, done.out) == (0, b'Let me see.\nadd({"a": 1})\n')
    assert "I add." not in done.err


async def test_reasoning_is_shown_on_stderr_if_it_is_asked_for(darkq: Darkq, chat: Chat) -> None:
    done = await run(darkq, "run", "add", "--reasoning")
    assert done.out.startswith(b"Let me see.")
    assert "I add.\n" in done.err


async def test_tail_and_result_print_what_run_printed(
    darkq: Darkq, chat: Chat, client: Client
) -> None:
    job = await client.enqueue("add")
    await job.result(30)
    for command in ("tail", "result"):
        done = await run(darkq, command, job.id)
        assert (done.code, done.out) == (0, b'Let me see.\nadd({"a": 1})\n')


async def test_json_has_the_events_and_the_result_as_they_are(
    darkq: Darkq, chat: Chat, client: Client
) -> None:
    done = await run(darkq, "run", "add", "--json")
    kinds = [event["type"] for event in done.objects]
    assert [kind for kind in dict.fromkeys(kinds) if kind != "note"] == [
        *("queued", "started", "reasoning", "chunk", "tool_call", "completed")
    ]
    job = await client.enqueue("add")
    (result,) = (await run(darkq, "result", job.id, "--wait", "--json")).objects
    assert result["tool_calls"] == [{"id": "call_1", "name": "add", "arguments": '{"a": 1}'}]
    assert result["reasoning"] == "I add."


async def test_schema_and_image_reach_the_upstream(
    darkq: Darkq, chat: Chat, tmp_path: Path
) -> None:
    chat.frames = [delta('{"name": "Rome"}'), finish(), DONE]
    schema, image = tmp_path / "city.json", tmp_path / "photo.png"
    schema.write_text(json.dumps(SHAPE))
    image.write_bytes(b"\x89PNG")
    files = ("--schema", str(schema), "--image", str(image))
    done = await run(darkq, "run", "Which city?", *files, "--option", "top_k=5")
    assert (done.code, done.out) == (0, b'{"name": "Rome"}')
    (body,) = chat.bodies
    assert body["response_format"]["json_schema"] == {"name": "City", "schema": SHAPE}
    assert body["top_k"] == 5
    url = f"data:image/png;base64,{base64.b64encode(image.read_bytes()).decode()}"
    assert body["messages"] == [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Which city?"},
                {"type": "image_url", "image_url": {"url": url}},
            ],
        }
    ]


@pytest.mark.parametrize(
    ("name", "content", "option", "said"),
    [
        ("city.json", "{", "--schema", "is not JSON"),
        ("city.json", "[]", "--schema", "is not a JSON object"),
        ("city.json", None, "--schema", "cannot be read"),
        ("photo.txt", "x", "--image", "has no ending of an image"),
        ("photo.png", None, "--image", "cannot be read"),
    ],
)
async def test_file_that_cannot_be_used_is_named(
    darkq: Darkq, tmp_path: Path, name: str, content: str | None, option: str, said: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    done = await run(darkq, "run", "hi", option, str(path))
    assert done.code == 2
    assert said in " ".join(done.err.split())
    assert name in done.err


async def test_answer_that_was_cut_says_so(darkq: Darkq, chat: Chat) -> None:
    chat.frames = [delta("Once upon"), finish("length"), DONE]
    done = await run(darkq, "run", "Tell.")
    assert (done.code, done.out) == (0, b"Once upon")
    assert "token limit" in done.err
