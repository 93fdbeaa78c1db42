"""The AI SDK's chats: a message is streamed, resumed after a reload, and stopped by its id."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from redis.asyncio import Redis

from darkq import Client
from darkq_gateway.ai_sdk import chats
from support.chat_service import Chat, call, say
from support.http_api import Api
from support.openai_frames import DONE, delta, finish, usage
from support.waiting import wait_until

ASKED = {"id": "u1", "role": "user", "parts": [{"type": "text", "text": "What is 1 + 1?"}]}
FRAMES = [
    *(say(reasoning_content="I add."), delta("Let me "), delta("see.")),
    *(call("", id="call_1", name="add"), call('{"a"'), call(": 1}")),
    *(finish("tool_calls"), usage(7, 5), DONE),
]


@pytest.fixture
async def chat(make_settings: Any, start_worker: Any) -> AsyncIterator[Chat]:
    chat = Chat(FRAMES)
    async with chat.serving() as url:
        upstreams = {"chat": {"url": url, "models": "m"}}
        start_worker(make_settings(darkai_url="none", upstreams=upstreams, retry_base_s=0.01))
        yield chat


def body(*messages: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"id": "chat-1", "trigger": "submit-message", "messages": [*messages], **more}


async def read_chunks(response: aiohttp.ClientResponse) -> list[dict[str, Any]]:
    """Read a whole stream, to its `[DONE]`."""
    assert response.status == 200
    assert response.headers["x-vercel-ai-ui-message-stream"] == "v1"
    text = await response.text()
    found = [line.removeprefix("data: ") for line in text.split("\n") if line.startswith("data: ")]
    assert found.pop() == "[DONE]"
    return [json.loads(each) for each in found]


async def post(api: Api, *messages: dict[str, Any], **more: Any) -> list[dict[str, Any]]:
    async with api.http.post(f"{api.url}/ui/chat", json=body(*messages, **more)) as response:
        return await read_chunks(response)


async def get(api: Api, path: str) -> list[dict[str, Any]]:
    async with api.http.get(api.url + path) as response:
        return await read_chunks(response)


async def test_message_has_reasoning_text_and_tool_calls(api: Api, chat: Chat) -> None:
    chunks = await post(api, ASKED)
    job_id = chunks[0]["messageId"]
    assert [chunk for chunk in chunks if not chunk["type"].endswith("-delta")] == [
        {"type": "start", "messageId": job_id, "messageMetadata": {"jobId": job_id}},
        {"type": "start-step"},
        {"type": "reasoning-start", "id": "reasoning-1"},
        {"type": "reasoning-end", "id": "reasoning-1"},
        {"type": "text-start", "id": "text-2"},
        {"type": "text-end", "id": "text-2"},
        {"type": "tool-input-start", "toolCallId": "call_1", "toolName": "add"},
        {
            "type": "tool-input-available",
            "toolCallId": "call_1",
            "toolName": "add",
            "input": {"a": 1},
        },
        {"type": "finish-step"},
        {
            "type": "finish",
            "finishReason": "tool-calls",
            "messageMetadata": {"usage": {"inputTokens": 7, "outputTokens": 5, "totalTokens": 12}},
        },
    ]
    text = "".join(chunk["delta"] for chunk in chunks if chunk["type"] == "text-delta")
    assert text == "Let me see."
    pieces = [c["inputTextDelta"] for c in chunks if c["type"] == "tool-input-delta"]
    assert "".join(pieces) == '{"a": 1}'


async def test_second_turn_has_the_tools_output(api: Api, chat: Chat) -> None:
    answered = {
        "id": "a1",
        "role": "assistant",
        "parts": [
            {"type": "step-start"},
            {"type": "reasoning", "text": "I add."},
            {"type": "text", "text": "Let me see."},
            {
                "type": "tool-add",
                "toolCallId": "call_1",
                "state": "output-available",
                "input": {"a": 1},
                "output": {"sum": 2},
            },
            {"type": "step-start"},
            {"type": "text", "text": "It is 2."},
        ],
    }
    image = {"type": "file", "mediaType": "image/png", "url": "data:image/png;base64,AA"}
    asked = {"id": "u2", "role": "user", "parts": [{"type": "text", "text": "And this?"}, image]}
    await post(api, ASKED, answered, asked, model="m", temperature=0)
    (sent,) = chat.bodies
    assert (sent["model"], sent["temperature"]) == ("m", 0)
    assert sent["messages"] == [
        {"role": "user", "content": "What is 1 + 1?"},
        {
            "role": "assistant",
            "content": "Let me see.",
            "reasoning_content": "I add.",
            "tool_calls": [
                {
                    "id": "call_1",
                    "type": "function",
                    "function": {"name": "add", "arguments": '{"a":1}'},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": '{"sum":2}'},
        {"role": "assistant", "content": "It is 2."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "And this?"},
                {"type": "image_url", "image_url": {"url": image["url"]}},
            ],
        },
    ]


async def test_step_after_a_tool_continues_the_message(api: Api, chat: Chat) -> None:
    """Red if the page that resumes loses the earlier steps, or runs their tools again."""
    ended = {"toolCallId": "call_1", "state": "output-available", "input": {"a": 1}, "output": 2}
    failed = {"toolCallId": "call_2", "state": "output-error", "input": None, "errorText": "No."}
    source = {"type": "source-url", "sourceId": "s", "url": "https://example.org"}
    answered = {
        "id": "a1",
        "role": "assistant",
        "parts": [
            *({"type": "step-start"}, {"type": "text", "text": "Let me see."}, source),
            {"type": "tool-add", **ended},
            *({"type": "step-start"}, {"type": "dynamic-tool", "toolName": "sub", **failed}),
        ],
    }
    chat.frames = [delta("It is 2."), finish(), DONE]
    chunks = await post(api, ASKED, answered)
    assert chunks[0]["messageId"] == "a1"
    job_id = chunks[0]["messageMetadata"]["jobId"]
    resumed = await get(api, "/ui/chat/chat-1/stream")
    start, earlier, latest = resumed[0], resumed[1:-6], resumed[-6:]
    assert [start, *latest] == chunks
    add, sub = {"toolCallId": "call_1"}, {"toolCallId": "call_2"}
    assert earlier == [
        {"type": "start-step"},
        {"type": "text-start", "id": "earlier-1"},
        {"type": "text-delta", "id": "earlier-1", "delta": "Let me see."},
        {"type": "text-end", "id": "earlier-1"},
        source,
        {"type": "tool-input-start", **add, "toolName": "add"},
        {"type": "tool-input-delta", **add, "inputTextDelta": '{"a":1}'},
        {"type": "tool-output-available", **add, "output": 2},
        {"type": "finish-step"},
        {"type": "start-step"},
        {"type": "tool-input-start", **sub, "toolName": "sub", "dynamic": True},
        {"type": "tool-input-delta", **sub, "inputTextDelta": "null"},
        {"type": "tool-output-error", **sub, "errorText": "No."},
        {"type": "finish-step"},
    ]
    assert (await get(api, f"/jobs/{job_id}/ui-stream"))[0]["messageId"] == job_id


async def test_message_begins_before_its_job(api: Api, client: Client) -> None:
    """Red if the page cannot name a job that waits, and so cannot cancel it."""
    async with api.http.post(f"{api.url}/ui/chat", json=body(ASKED)) as response:
        await response.content.readuntil(b"data: ")
        start = json.loads(await response.content.readline())
        job = client.job(start["messageMetadata"]["jobId"])
        assert (await job.status()).state == "queued"
        await job.cancel()
        assert b'"abort"' in await response.content.read()


async def test_error_in_the_middle_is_a_chunk(api: Api, redis: Redis) -> None:
    """Red if the error has the form of the native API: the SDK rejects such a chunk."""
    async with api.http.post(f"{api.url}/ui/chat", json=body(ASKED)) as response:
        await response.content.readuntil(b"start-step")
        await redis.flushall()
        text = (await response.content.read()).decode()
    assert json.loads(text.rpartition("data: ")[2])["type"] == "error"


async def test_reload_resumes_the_running_message_from_its_beginning(api: Api, chat: Chat) -> None:
    chat.pauses_after = 2
    async with api.http.post(f"{api.url}/ui/chat", json=body(ASKED)) as response:
        await response.content.readuntil(b"Let me")
    resumed = asyncio.create_task(get(api, "/ui/chat/chat-1/stream"))
    chat.may_go_on.set()
    chunks = await resumed
    text = "".join(chunk["delta"] for chunk in chunks if chunk["type"] == "text-delta")
    assert text == "Let me see."
    assert len(chat.bodies) == 1
    job_id = chunks[0]["messageId"]
    assert (await get(api, f"/jobs/{job_id}/ui-stream"))[-1]["type"] == "finish"


async def test_nothing_to_resume_is_204(
    api: Api, chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await api("GET", "/ui/chat/unknown/stream")).status == 204
    await post(api, ASKED)
    assert (await get(api, "/ui/chat/chat-1/stream"))[-1]["type"] == "finish"
    monkeypatch.setattr(chats, "RESUMABLE_S", -1)
    assert (await api("GET", "/ui/chat/chat-1/stream")).status == 204


async def test_new_attempt_resets_the_step(api: Api, chat: Chat) -> None:
    """Red without `reset-step`: the page would show the text of two attempts."""
    chat.frames = FRAMES[:3]
    chat.pauses_after = 3
    posted = asyncio.create_task(post(api, ASKED))
    await wait_until("the first attempt", lambda: chat.sent == 3)
    chat.frames = FRAMES
    chat.pauses_after = None
    chat.may_go_on.set()
    chunks = await posted
    kinds = [chunk["type"] for chunk in chunks]
    assert kinds.count("reset-step") == len(chat.bodies) - 1 == 1
    after = chunks[kinds.index("reset-step") :]
    text = "".join(chunk["delta"] for chunk in after if chunk["type"] == "text-delta")
    assert text == "Let me see."


async def test_cancel_of_the_message_stops_it(api: Api, chat: Chat) -> None:
    chat.pauses_after = 2
    posted = asyncio.create_task(post(api, ASKED))
    await wait_until("the beginning", lambda: chat.sent == 2)
    job_id = (await api("GET", "/jobs")).json["jobs"][0]["job_id"]
    await api("POST", f"/jobs/{job_id}/cancel")
    chunks = await posted
    assert chunks[-1] == {"type": "abort", "reason": "the job was cancelled"}


async def test_failure_is_an_error_in_the_stream(api: Api, chat: Chat) -> None:
    chunks = await post(api, ASKED, model="unknown-model")
    assert [chunk["type"] for chunk in chunks] == ["start", "start-step", "error"]
    assert "unknown-model" in chunks[-1]["errorText"]


@pytest.mark.parametrize(
    ("sent", "field"),
    [
        ({"id": "c"}, "messages"),
        ({"id": "c", "messages": ["x"]}, "messages[0]"),
        ({"id": "c", "messages": [{"role": "tool", "parts": []}]}, "messages[0]"),
        ({"id": "", "messages": [ASKED]}, "id"),
        ({"id": 7, "messages": [ASKED]}, "id"),
        ({"id": "c", "messages": [ASKED], "model": 7}, "model"),
        ({"id": "c", "messages": [ASKED], "temperature": 9}, "temperature"),
        (
            {"id": "c", "messages": [{"role": "user", "parts": [{"type": "file"}]}]},
            "messages[0]",
        ),
        (
            {"id": "c", "messages": [ASKED, {"id": 7, "role": "assistant", "parts": []}]},
            "messages[1]",
        ),
    ],
)
async def test_bad_body_is_refused_and_nothing_is_stored(
    api: Api, redis: Redis, sent: dict[str, Any], field: str
) -> None:
    answer = await api("POST", "/ui/chat", json=sent)
    assert (answer.status, answer.json["error"]["field"]) == (422, field)
    assert await redis.dbsize() == 0


async def test_chats_of_tenants_are_apart(
    api: Api, chat: Chat, make_key: Any, client: Client
) -> None:
    async with api.with_key(await make_key("alice")) as alice:
        chunks = await post(alice, ASKED)
        assert (await get(alice, "/ui/chat/chat-1/stream"))[0] == chunks[0]
    async with api.with_key(await make_key("bob")) as bob:
        assert (await bob("GET", "/ui/chat/chat-1/stream")).status == 204
        answer = await bob("GET", f"/jobs/{chunks[0]['messageId']}/ui-stream")
        assert answer.status == 404
