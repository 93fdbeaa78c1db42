"""Responses, by OpenAI's own SDK: left, resumed at every event, cancelled, deleted."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from darkq import Client
from darkq_gateway.http import sse_response
from darkq_local.faults import Fault
from darkq_local.local_darkai import LocalDarkAI
from support.http_api import Api
from support.waiting import wait_until

Working = Callable[..., Awaitable[LocalDarkAI]]
MODEL = "llama-3-70b"
WHY = "Why do people queue?"

ANSWER = [
    *("response.created", "response.queued", "response.in_progress"),
    *("response.output_item.added", "response.content_part.added"),
    "response.output_text.delta",
    *("response.output_text.done", "response.content_part.done", "response.output_item.done"),
    "response.completed",
]


def told(events: list[Any]) -> list[str]:
    """The types of events in order, each run of deltas as one."""
    types: list[str] = []
    for event in events:
        if not (types and types[-1] == event.type == "response.output_text.delta"):
            types.append(event.type)
    return types


def is_about(event: Any, item: Any, what: str) -> bool:
    """Tell whether an event is of an item's text."""
    return bool(event.type == f"response.output_text.{what}" and event.item_id == item.id)


async def text_of(client: Client, response_id: str) -> str:
    return (await client.job(response_id.removeprefix("resp_")).result()).text


async def hears_of_it(darkai: LocalDarkAI) -> None:
    """Wait until an upstream knows that its client has left, which it does a moment later."""
    await wait_until(
        "the upstream hears of it", lambda: darkai.exchanges[0].outcome == "client left"
    )


async def read(stream: Any) -> list[Any]:
    return [event async for event in stream]


async def test_an_answer_in_one_piece(sdk: AsyncOpenAI, client: Client, working: Working) -> None:
    await working()
    response = await sdk.responses.create(
        model=MODEL, input=WHY, instructions="Be brief.", metadata={"order": "17"}
    )
    assert response.status == "completed"
    assert response.output_text == await text_of(client, response.id) != ""
    assert response.metadata == {"order": "17"}
    assert (response.model, response.background) == (MODEL, False)


async def test_a_stream_tells_its_events_in_order(
    sdk: AsyncOpenAI, client: Client, working: Working
) -> None:
    await working(chunks_per_s=200)
    events = await read(await sdk.responses.create(model=MODEL, input=WHY, stream=True))
    assert told(events) == ANSWER
    assert [event.sequence_number for event in events] == list(range(len(events)))
    whole = events[-1].response
    assert whole.output_text == await text_of(client, whole.id)
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == (
        whole.output_text
    )


async def test_the_sdk_builds_up_the_same_response(
    sdk: AsyncOpenAI, client: Client, working: Working
) -> None:
    await working()
    async with sdk.responses.stream(model=MODEL, input=WHY) as stream:
        final = await stream.get_final_response()
    assert final.output_text == await text_of(client, final.id) != ""


async def test_a_response_in_the_background_is_there_when_one_comes_back(
    sdk: AsyncOpenAI, client: Client, working: Working
) -> None:
    begun = await sdk.responses.create(model=MODEL, input=WHY, background=True)
    assert (begun.status, begun.background, begun.output) == ("queued", True, [])
    await working(chunks_per_s=100)

    async def ended() -> Any:
        now = await sdk.responses.retrieve(begun.id)
        return now if now.status == "completed" else None

    now = await wait_until("the response is completed", ended)
    assert now.output_text == await text_of(client, begun.id) != ""
    assert now.created_at == begun.created_at <= now.completed_at


async def test_resumed_at_every_event_the_rest_is_the_same(
    sdk: AsyncOpenAI, working: Working
) -> None:
    await working(chunks=6, chunks_per_s=100)
    stream = await sdk.responses.create(model=MODEL, input=WHY, background=True, stream=True)
    events = await read(stream)
    response_id = events[0].response.id
    for after in range(-1, len(events)):
        rest = await read(
            await sdk.responses.retrieve(response_id, stream=True, starting_after=after)
            if after >= 0
            else await sdk.responses.retrieve(response_id, stream=True)
        )
        assert [e.to_dict() for e in rest] == [e.to_dict() for e in events[after + 1 :]]


async def test_a_reader_that_left_in_the_middle_goes_on_live(
    sdk: AsyncOpenAI, client: Client, working: Working
) -> None:
    await working(chunks=40, chunks_per_s=40)
    stream = await sdk.responses.create(model=MODEL, input=WHY, background=True, stream=True)
    seen: list[Any] = []
    async for event in stream:
        seen.append(event)
        if len(seen) == 10:
            break
    await stream.close()
    rest = await sdk.responses.retrieve(
        seen[0].response.id, stream=True, starting_after=seen[-1].sequence_number
    )
    seen += await read(rest)
    assert [event.sequence_number for event in seen] == list(range(len(seen)))
    assert seen[-1].response.output_text == await text_of(client, seen[0].response.id)


async def test_an_attempt_that_was_lost_is_an_item_of_its_own(
    sdk: AsyncOpenAI, client: Client, working: Working
) -> None:
    await working(Fault.parse("truncate=3"), chunks_per_s=100)
    events = await read(await sdk.responses.create(model=MODEL, input=WHY, stream=True))
    whole = events[-1].response
    lost, kept = whole.output
    assert (lost.status, kept.status) == ("incomplete", "completed")
    assert lost.content == []
    assert [e.item_id for e in events if e.type == "response.output_text.done"] == [
        lost.id,
        kept.id,
    ]
    answer = await text_of(client, whole.id)
    for item in (lost, kept):
        deltas = [e.delta for e in events if is_about(e, item, "delta")]
        (done,) = (e.text for e in events if is_about(e, item, "done"))
        assert "".join(deltas) == done
    assert whole.output_text == answer == done
    async with sdk.responses.stream(response_id=whole.id) as stream:
        assert (await stream.get_final_response()).output_text == answer


async def test_cancel_closes_the_upstream_before_it_answers(
    sdk: AsyncOpenAI, working: Working
) -> None:
    darkai = await working(chunks=10_000, chunks_per_s=50)
    begun = await sdk.responses.create(model=MODEL, input=WHY, background=True)
    await wait_until("it runs", lambda: bool(darkai.exchanges))
    cancelled = await sdk.responses.cancel(begun.id)
    assert cancelled.status == "cancelled"
    assert (await sdk.responses.cancel(begun.id)).status == "cancelled"
    await hears_of_it(darkai)


async def test_what_cannot_be_cancelled_is_told(sdk: AsyncOpenAI, working: Working) -> None:
    await working()
    foreground = await sdk.responses.create(model=MODEL, input=WHY)
    with pytest.raises(openai.BadRequestError, match="background"):
        await sdk.responses.cancel(foreground.id)
    stream = await sdk.responses.create(model=MODEL, input=WHY, background=True, stream=True)
    whole = (await read(stream))[-1].response
    with pytest.raises(openai.BadRequestError, match="completed"):
        await sdk.responses.cancel(whole.id)


async def test_a_deleted_response_is_unknown(sdk: AsyncOpenAI, working: Working) -> None:
    await working()
    response = await sdk.responses.create(model=MODEL, input=WHY)
    await sdk.responses.delete(response.id)
    with pytest.raises(openai.NotFoundError):
        await sdk.responses.retrieve(response.id)


async def test_a_running_response_is_cancelled_when_it_is_deleted(
    sdk: AsyncOpenAI, working: Working
) -> None:
    darkai = await working(chunks=10_000, chunks_per_s=50)
    begun = await sdk.responses.create(model=MODEL, input=WHY, background=True)
    await wait_until("it runs", lambda: bool(darkai.exchanges))
    await sdk.responses.delete(begun.id)
    await hears_of_it(darkai)
    with pytest.raises(openai.NotFoundError):
        await sdk.responses.retrieve(begun.id)


async def test_a_failure_in_the_background_is_told_as_a_failed_response(
    sdk: AsyncOpenAI, working: Working
) -> None:
    """Red if the error of a Response has no type, or does not name the parameter."""
    await working()
    events = await read(
        await sdk.responses.create(model="gpt-17", input=WHY, stream=True, background=True)
    )
    assert events[-1].type == "response.failed"
    assert events[-1].response.status == "failed"
    error = events[-1].response.error
    assert error.message.startswith("model: unknown model 'gpt-17'")
    assert (error.code, error.param) == ("model_not_found", "model")
    assert error.type == "invalid_request_error"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_response_that_cannot_begin_is_an_http_error(
    sdk: AsyncOpenAI, working: Working, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red if it is 200 and `failed`, so that `output_text` is "" and nothing is raised."""
    monkeypatch.setattr(sse_response, "BEGIN_S", 20)
    await working()
    with pytest.raises(openai.NotFoundError) as unknown:
        await sdk.responses.create(model="gpt-17", input=WHY, stream=stream)
    assert (unknown.value.code, unknown.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError, match=r"temperature: .*cannot honour") as refused:
        await sdk.responses.create(model=MODEL, input=WHY, stream=stream, temperature=0.5)
    assert (refused.value.code, refused.value.param) == ("unsupported_parameter", "temperature")
    with pytest.raises(openai.BadRequestError) as refused:
        await sdk.responses.create(model=MODEL, input=WHY, stream=stream, max_output_tokens=5)
    assert refused.value.param == "max_output_tokens"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_response_whose_upstream_fails_is_not_asked_again_by_the_sdk(
    api: Api, working: Working, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red if the SDK sees no error, or tries again what darkq has tried as often as it may."""
    monkeypatch.setattr(sse_response, "BEGIN_S", 20)
    darkai = await working(*[Fault.parse("error=0")] * 9)
    body = {"model": MODEL, "input": WHY, "stream": stream}
    answer = await api("POST", "/v1/responses", body)
    assert answer.status >= 500
    assert answer.headers["x-should-retry"] == "false"
    assert answer.json["error"]["type"] == "server_error"
    assert len(darkai.exchanges) > 1


async def test_a_stream_that_has_begun_tells_of_a_failure_in_an_event(
    sdk: AsyncOpenAI, working: Working, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red if what was held for an HTTP error is lost when the response begins after all."""
    monkeypatch.setattr(sse_response, "BEGIN_S", 0)
    stream = await sdk.responses.create(model="gpt-17", input=WHY, stream=True)
    await working()
    events = await read(stream)
    assert told(events) == ["response.created", "response.queued", "response.failed"]
    assert [event.sequence_number for event in events] == [0, 1, 2]


@pytest.mark.parametrize(
    ("parameters", "param"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools[0]"),
        ({"input": [{"type": "function_call_output", "output": "x"}]}, "input[0]"),
        ({"input": ""}, "input"),
        ({"input": 3}, "input"),
        ({"background": True, "store": False}, "store"),
        ({"text": {"format": "json"}}, "text.format"),
        ({"reasoning": {"budget": 3}}, "reasoning.budget"),
    ],
)
async def test_what_cannot_be_honoured_is_refused_by_name(
    sdk: AsyncOpenAI, parameters: dict[str, Any], param: str | None
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await sdk.responses.create(**{"model": MODEL, "input": WHY, **parameters})
    assert param is None or refused.value.param == param


async def test_an_earlier_answer_can_be_given_back_as_input(
    sdk: AsyncOpenAI, working: Working
) -> None:
    await working()
    first = await sdk.responses.create(model=MODEL, input=WHY)
    history: Any = [{"role": "user", "content": WHY}, *(item.to_dict() for item in first.output)]
    again = await sdk.responses.create(
        model=MODEL, input=[*history, {"role": "user", "content": "Go on."}]
    )
    assert again.status == "completed"
