"""A Response's events against the SDK's own types, for any history that a job can have."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from darkq import Cancelled, Chunk, Completed, Failed, Queued, Retrying, Started, Usage
from darkq.event import AnyEvent
from darkq.openai.response_events import ResponseBuilder
from darkq_gateway.openai.chat_stream import ChatStream, Interrupted

EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
TEXTS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)
AT_MS = 1_700_000_000_000


@st.composite
def histories(draw: st.DrawFn) -> list[AnyEvent]:
    """Attempts of any number of chunks; each but the last may say why it ended, or not."""
    events: list[AnyEvent] = [Queued(id="0-1", at_ms=AT_MS)]
    attempts = draw(st.integers(0, 3))
    for attempt in range(1, attempts + 1):
        events.append(
            Started(id=f"{attempt}-0", attempt=attempt, model="m", upstream="u", at_ms=AT_MS)
        )
        texts = draw(st.lists(TEXTS, max_size=4))
        events += [Chunk(id=f"{attempt}-{n}", text=text) for n, text in enumerate(texts, 1)]
        if attempt < attempts and draw(st.booleans()):
            seq = len(texts) + 1
            events.append(
                Retrying(
                    id=f"{attempt}-{seq}", attempt=attempt, reason="x", retry_in_s=1, at_ms=AT_MS
                )
            )
    usage = draw(st.sampled_from([None, Usage(prompt_tokens=3, completion_tokens=4)]))
    end = "9-0"
    ends: list[AnyEvent] = [
        Completed(id=end, finish_reason="stop", usage=usage, at_ms=AT_MS),
        Completed(id=end, finish_reason="length", usage=usage, at_ms=AT_MS),
        Completed(id=end, finish_reason="content_filter", usage=usage, at_ms=AT_MS),
        Failed(id=end, code="timeout", message="too slow", at_ms=AT_MS),
        Cancelled(id=end, at_ms=AT_MS),
    ]
    return events + draw(st.lists(st.sampled_from(ends), max_size=1))


def respond(history: list[AnyEvent]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    response = ResponseBuilder("resp_0-1", asked={"background": True})
    told = [event for each in history for event in response.feed(each)]
    return told, response.snapshot()


@given(histories())
def test_every_event_is_one_that_the_sdk_knows(history: list[AnyEvent]) -> None:
    told, whole = respond(history)
    for event in told:
        assert EVENT.validate_python(event).type == event["type"]
    Response.model_validate(whole)
    assert [event["sequence_number"] for event in told] == list(range(len(told)))


@given(histories(), st.data())
def test_what_was_told_is_told_again_as_it_was(
    history: list[AnyEvent], data: st.DataObject
) -> None:
    cut = data.draw(st.integers(0, len(history)))
    before, _ = respond(history[:cut])
    assert respond(history)[0][: len(before)] == before


@given(histories())
def test_the_whole_text_is_that_of_the_last_attempt_alone(history: list[AnyEvent]) -> None:
    starts = [n for n, event in enumerate(history) if isinstance(event, Started)]
    last = history[starts[-1] :] if starts else []
    text = "".join(event.text for event in last if isinstance(event, Chunk))
    assert Response.model_validate(respond(history)[1]).output_text == text


@given(histories())
def test_items_open_and_close_one_after_the_other(history: list[AnyEvent]) -> None:
    open_item: str | None = None
    for event in respond(history)[0]:
        if event["type"] == "response.output_item.added":
            assert open_item is None
            open_item = event["item"]["id"]
        elif event["type"] == "response.output_text.delta":
            assert event["item_id"] == open_item
        elif event["type"] == "response.output_item.done":
            assert event["item"]["id"] == open_item
            open_item = None
    assert open_item is None or not isinstance(history[-1], Completed | Failed | Cancelled)


@given(histories(), st.booleans())
def test_chat_never_joins_two_attempts(history: list[AnyEvent], include_usage: bool) -> None:
    chat, heard = ChatStream("chatcmpl-1", 1, include_usage=include_usage), ""
    try:
        for event in history:
            for chunk in chat.feed(event):
                ChatCompletionChunk.model_validate(chunk)
                heard += "".join(c["delta"].get("content") or "" for c in chunk["choices"])
    except Interrupted:
        assert not chat.ended
    if chat.ended:
        assert heard == Response.model_validate(respond(history)[1]).output_text


def test_a_response_that_is_run_again_goes_on() -> None:
    started = Started(id="1-0", attempt=1, model="m", upstream="u", at_ms=AT_MS)
    history: list[AnyEvent] = [
        Queued(id="0-1", at_ms=AT_MS),
        started,
        Queued(id="2-0", at_ms=AT_MS),
        Started(id="3-0", attempt=3, model="m", upstream="u", at_ms=AT_MS),
        Chunk(id="3-1", text="yes"),
        Completed(id="3-2", at_ms=AT_MS),
    ]
    told, whole = respond(history)
    assert [event["type"] for event in told].count("response.created") == 1
    assert Response.model_validate(whole).output_text == "yes"


@pytest.mark.parametrize("value", ["stop", "length", "content_filter", "tool_calls", "eos"])
def test_a_finish_reason_is_one_of_the_apis(value: str) -> None:
    chat = ChatStream("chatcmpl-1", 1, include_usage=False)
    (chunk,) = chat.feed(Completed(id="1-1", finish_reason=value))
    ChatCompletionChunk.model_validate(chunk)


@pytest.mark.parametrize(
    ("finish_reason", "reason"),
    [("length", "max_output_tokens"), ("content_filter", "content_filter"), ("stop", None)],
)
def test_a_response_that_was_cut_off_or_filtered_is_incomplete(
    finish_reason: str, reason: str | None
) -> None:
    """Red if a filtered answer is `completed`."""
    status = "completed" if reason is None else "incomplete"
    told, whole = respond(
        [
            Queued(id="0-1", at_ms=AT_MS),
            Started(id="1-0", attempt=1, model="m", upstream="u", at_ms=AT_MS),
            Chunk(id="1-1", text="Half"),
            Completed(id="1-2", finish_reason=finish_reason, at_ms=AT_MS),
        ]
    )
    assert told[-1]["type"] == f"response.{status}"
    assert told[-1]["response"] == whole
    response = Response.model_validate(whole)
    assert (response.status, response.output_text) == (status, "Half")
    assert whole["output"][0]["status"] == status
    assert whole["incomplete_details"] == (None if reason is None else {"reason": reason})
