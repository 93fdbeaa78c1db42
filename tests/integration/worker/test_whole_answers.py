"""Whole requests in, typed events out: from an enqueue to a result, over a real HTTP upstream."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from pydantic import BaseModel

from darkq import Chunk, Client, Completed, JobFailed, JobHandle, Started
from darkq.errors import AttemptSuperseded
from darkq.event import PIECES, Piece, Reasoning, Refusal, ToolCall
from darkq.protocol.record import FunctionCall
from support.chat_service import Chat, call, say
from support.openai_frames import DONE, delta, finish
from support.waiting import wait_until

TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
CALL = {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}


FRAMES = [
    *(say(reasoning_content="I "), say(reasoning_content="add."), delta("Let me "), delta("see.")),
    *(call("", id="call_1", name="add"), call('{"a"'), call(": 1}")),
    *(finish("tool_calls"), DONE),
]


@pytest.fixture
def chat() -> Chat:
    return Chat(FRAMES)


@pytest.fixture
async def working(chat: Chat, make_settings: Any, start_worker: Any) -> AsyncIterator[None]:
    async with chat.serving() as url:
        upstreams = {"chat": {"url": url, "models": "m"}}
        start_worker(make_settings(darkai_url="none", upstreams=upstreams, retry_base_s=0.01))
        yield


async def pieces_of(job: JobHandle, after: str | None = None) -> list[Piece]:
    return [event async for event in job.events(after) if isinstance(event, PIECES)]


def join(pieces: list[Piece]) -> dict[str, str]:
    """Return the text of each kind of piece."""
    found: dict[str, str] = {}
    for piece in pieces:
        text = piece.arguments if isinstance(piece, ToolCall) else piece.text
        kind = type(piece).__name__
        found[kind] = found.get(kind, "") + text
    return found


async def test_a_request_arrives_whole(chat: Chat, working: None, client: Client) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 100_000}}
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": [{"type": "text", "text": "What?"}, image], "name": "ann"},
        {"role": "assistant", "content": None, "tool_calls": [CALL], "reasoning_content": "Hm."},
        {"role": "tool", "tool_call_id": "call_1", "content": "1"},
    ]
    parameters = {"tools": [TOOL], "tool_choice": "required", "top_k": 7, "temperature": 0.5}
    await (await client.enqueue(messages, parameters=parameters)).result(30)
    (body,) = chat.bodies
    assert body.pop("stream_options") == {"include_usage": True}
    assert body == {"model": "m", "messages": messages, "stream": True, **parameters}


async def test_events_and_result_say_all_that_the_model_said(
    chat: Chat, working: None, client: Client
) -> None:
    job = await client.enqueue("add")
    result = await job.result(30)
    said = {"Reasoning": "I add.", "Chunk": "Let me see.", "ToolCall": '{"a": 1}'}
    pieces = await pieces_of(job)
    assert join(pieces) == said
    first = next(piece for piece in pieces if isinstance(piece, ToolCall))
    assert (first.call_id, first.name) == ("call_1", "add")
    assert [part async for part in job.parts()] == pieces
    assert "".join([text async for text in job.text()]) == "Let me see."
    assert (result.text, result.reasoning, result.refusal) == ("Let me see.", "I add.", "")
    assert result.tool_calls == (FunctionCall(id="call_1", name="add", arguments='{"a": 1}'),)
    assert (result.finish_reason, result.chunks) == ("tool_calls", 7)


async def test_reader_that_resumes_anywhere_gets_the_rest(
    chat: Chat, working: None, client: Client
) -> None:
    job = await client.enqueue("add")
    events = [event async for event in job.events()]
    for number, event in enumerate(events[:-1], 1):
        assert [each async for each in job.events(event.id)] == events[number:]


async def test_late_reader_gets_all_kinds_from_the_result(
    chat: Chat, working: None, client: Client, redis: Any
) -> None:
    job = await client.enqueue("add")
    before = await job.result(30)
    pieces = await pieces_of(job)
    await redis.delete(job._keys.events)
    assert join(await pieces_of(job)) == join(pieces)
    assert await job.result() == before


async def test_arguments_of_two_attempts_are_never_joined(
    chat: Chat, working: None, client: Client
) -> None:
    """The service breaks off between two pieces of the arguments, and answers the second try."""
    whole = chat.frames
    chat.frames = whole[:6]
    job = await client.enqueue("add")
    await wait_until("the first attempt was cut off", lambda: len(chat.bodies) == 1)
    chat.frames = whole
    result = await job.result(30)
    assert result.attempt > 1
    assert result.tool_calls[0].arguments == '{"a": 1}'
    events = [event async for event in job.events()]
    (second,) = [n for n, e in enumerate(events) if isinstance(e, Started) and e.attempt == 2]
    arguments = [e.arguments for e in events[second:] if isinstance(e, ToolCall)]
    assert "".join(arguments) == '{"a": 1}'
    first = [event for event in events[:second] if isinstance(event, ToolCall)]
    with pytest.raises(AttemptSuperseded):
        [part async for part in job.parts(after=first[0].id)]


async def test_call_that_stays_cut_off_fails(chat: Chat, working: None, client: Client) -> None:
    chat.frames = chat.frames[:6]
    job = await client.enqueue("add", tries=1)
    with pytest.raises(JobFailed) as caught:
        await job.result(30)
    assert caught.value.code == "truncated"


async def test_refusal_is_an_answer(chat: Chat, working: None, client: Client) -> None:
    chat.frames = [say(refusal="I will "), say(refusal="not."), finish(), DONE]
    job = await client.enqueue("add")
    result = await job.result(30)
    assert (result.text, result.refusal, result.finish_reason) == ("", "I will not.", "stop")
    assert all(isinstance(piece, Refusal) for piece in await pieces_of(job))


async def test_pieces_that_wait_for_redis_are_merged_by_kind(
    chat: Chat, make_settings: Any, start_worker: Any, client: Client
) -> None:
    """A slow writer: many pieces wait at each flush."""
    count = 300
    chat.frames = [
        *(say(reasoning_content=f"r{n} ") for n in range(count)),
        *(delta(f"t{n} ") for n in range(count)),
        call("", id="call_1", name="add"),
        *(call(f"a{n} ") for n in range(count)),
        *(finish("tool_calls"), DONE),
    ]
    async with chat.serving() as url:
        upstreams = {"chat": {"url": url, "models": "m"}}
        start_worker(make_settings(darkai_url="none", upstreams=upstreams, worker_linger_s=0.2))
        job = await client.enqueue("add")
        result = await job.result(30)
    pieces = await pieces_of(job)
    assert len(pieces) < count
    assert sum(piece.merged for piece in pieces) == 3 * count + 1 == result.chunks
    assert join(pieces) == {
        "Reasoning": "".join(f"r{n} " for n in range(count)),
        "Chunk": "".join(f"t{n} " for n in range(count)),
        "ToolCall": "".join(f"a{n} " for n in range(count)),
    }
    assert isinstance(pieces[0], Reasoning)
    assert isinstance(pieces[-1], ToolCall)


class Model(BaseModel):
    city: str
    people: int


class Struct(msgspec.Struct):
    city: str
    people: int


@pytest.mark.parametrize("output", [Model, Struct])
async def test_output_of_a_type_is_asked_for_and_parsed(
    chat: Chat, working: None, client: Client, output: Any
) -> None:
    chat.frames = [delta('{"city": "Pa'), delta('ris", "people": 2}'), finish(), DONE]
    job = await client.enqueue("Where?", output=output)
    result = await job.result(30)
    assert result.parsed == output(city="Paris", people=2)
    (body,) = chat.bodies
    asked = body["response_format"]["json_schema"]
    assert (asked["name"], asked["strict"]) == (output.__name__, True)
    assert asked["schema"]["required"] == ["city", "people"]
    assert asked["schema"]["additionalProperties"] is False
    assert (await client.job(job.id).result()).parsed is None
    assert (await client.job(job.id, output=output).result()).parsed == result.parsed


async def test_answer_that_is_no_value_of_the_output_says_so(
    chat: Chat, working: None, client: Client
) -> None:
    chat.frames = [delta('{"city": "Par'), finish("length"), DONE]
    result = await (await client.enqueue("Where?", output=Struct)).result(30)
    assert (result.text, result.finish_reason) == ('{"city": "Par', "length")
    with pytest.raises(ValueError, match="output"):
        _ = result.parsed


async def test_upstream_of_text_refuses_what_it_cannot_do(
    client: Client, start_darkai: Any, make_settings: Any, start_worker: Any
) -> None:
    server = await start_darkai()
    start_worker(make_settings(darkai_url=server.url))
    refused: list[tuple[Any, dict[str, Any], str]] = [
        ("x", {"tools": [TOOL]}, "the option tools"),
        ("x", {"response_format": {"type": "json_object"}}, "the option response_format"),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}],
            {},
            "messages[0]",
        ),
        (
            [{"role": "assistant", "tool_calls": [CALL]}, {"role": "user", "content": "x"}],
            {},
            "messages[0]",
        ),
    ]
    for prompt, parameters, named in refused:
        job = await client.enqueue(prompt, parameters=parameters)
        with pytest.raises(JobFailed) as caught:
            await job.result(30)
        assert (caught.value.code, named in caught.value.message) == ("rejected", True)
    harmless = await client.enqueue("x", parameters={"user": "ann", "parallel_tool_calls": True})
    assert (await harmless.result(30)).text


async def test_request_is_kept_with_the_answer_if_it_was_asked_for(
    chat: Chat, working: None, client: Client
) -> None:
    chat.frames = [delta("yes"), finish(), DONE]
    kept = await client.enqueue("Why?", parameters={"tools": [TOOL]}, keeps_request=True)
    request = (await kept.result(30)).request
    assert request is not None
    assert (request.prompt, request.parameters) == ("Why?", {"tools": [TOOL]})
    plain = await client.enqueue("Why?")
    assert (await plain.result(30)).request is None


async def test_logprobs_come_with_their_chunks_and_with_the_result(
    chat: Chat, working: None, client: Client
) -> None:
    tokens: list[dict[str, Any]] = [{"token": text, "logprob": -0.5} for text in ("ye", "s")]
    chat.frames = [
        *(delta(token["token"], logprobs={"content": [token]}) for token in tokens),
        *(finish(), DONE),
    ]
    job = await client.enqueue("Why?", parameters={"logprobs": True})
    assert (await job.result(30)).logprobs == {"content": tokens}
    chunks = [piece for piece in await pieces_of(job) if isinstance(piece, Chunk)]
    assert [chunk.logprobs for chunk in chunks] == [{"content": [token]} for token in tokens]
    assert json.loads(msgspec.json.encode(chunks[0]))["logprobs"] == {"content": [tokens[0]]}


async def test_end_has_the_finish_reason_of_calls(
    chat: Chat, working: None, client: Client
) -> None:
    job = await client.enqueue("add")
    events = [event async for event in job.events()]
    assert isinstance(events[-1], Completed)
    assert events[-1].finish_reason == "tool_calls"
