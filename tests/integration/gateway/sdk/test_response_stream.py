"""A Response's events against the SDK's own types, for any history that a job can have."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses import Response

from darkq import Cancelled, Chunk, Completed, Failed, Queued, Retrying, Started, Usage
from darkq.event import AnyEvent, Reasoning, Refusal, ToolCall
from darkq.openai.response_events import ResponseBuilder
from darkq_gateway.http.errors import ApiError
from darkq_gateway.openai.chat import ChatStream
from support.open_responses import check_chunk, check_event, check_response

TEXTS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)
AT_MS = 1_700_000_000_000


@st.composite
def pieces(draw: st.DrawFn, attempt: int) -> list[AnyEvent]:
    """Pieces of all kinds in any order; the first one of a call has its id and name."""
    kinds = draw(st.lists(st.sampled_from(["chunk", "reasoning", "refusal", 0, 1]), max_size=7))
    made: list[AnyEvent] = []
    seen: set[object] = set()
    for number, kind in enumerate(kinds, 1):
        at, text = f"{attempt}-{number}", draw(TEXTS)
        match kind:
            case "chunk":
                made.append(Chunk(id=at, text=text))
            case "reasoning":
                made.append(Reasoning(id=at, text=text))
            case "refusal":
                made.append(Refusal(id=at, text=text))
            case int():
                index = len(seen & {0, 1}) if kind not in seen else kind
                named: Any = {} if index in seen else {"call_id": f"{attempt}.{index}", "name": "f"}
                seen.add(index)
                made.append(ToolCall(id=at, index=index, arguments=text, **named))
    return made


@st.composite
def histories(draw: st.DrawFn) -> list[AnyEvent]:
    """Attempts of any number of pieces; each but the last may say why it ended, or not."""
    events: list[AnyEvent] = [Queued(id="0-1", at_ms=AT_MS)]
    attempts = draw(st.integers(0, 3))
    for attempt in range(1, attempts + 1):
        events.append(
            Started(id=f"{attempt}-0", attempt=attempt, model="m", upstream="u", at_ms=AT_MS)
        )
        said = draw(pieces(attempt))
        events += said
        if attempt < attempts and draw(st.booleans()):
            seq = len(said) + 1
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
def test_every_event_is_one_that_the_sdk_and_open_responses_know(history: list[AnyEvent]) -> None:
    told, whole = respond(history)
    for event in told:
        check_event(event)
    check_response(whole)
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


def last_attempt(history: list[AnyEvent]) -> list[AnyEvent]:
    starts = [n for n, event in enumerate(history) if isinstance(event, Started)]
    return history[starts[-1] :] if starts else []


@given(histories())
def test_no_item_joins_two_attempts(history: list[AnyEvent]) -> None:
    """Red if a call, a reasoning or a refusal of a lost attempt is in the output, or a part."""
    output = respond(history)[1]["output"]
    last = last_attempt(history)
    calls = {item["call_id"]: item for item in output if item["type"] == "function_call"}
    said: dict[str, str] = {}
    for event in last:
        if isinstance(event, ToolCall):
            call_id = f"{event.cursor.attempt}.{event.index}"
            said[call_id] = said.get(call_id, "") + event.arguments
    assert {call_id: item["arguments"] for call_id, item in calls.items()} == said
    for kind, part_kind in ((Reasoning, "reasoning_text"), (Refusal, "refusal")):
        parts = [p for item in output for p in item.get("content", ()) if p["type"] == part_kind]
        text = "".join(part.get("text", part.get("refusal")) for part in parts)
        assert text == "".join(event.text for event in last if isinstance(event, kind))


@given(histories())
def test_items_open_and_close_once(history: list[AnyEvent]) -> None:
    """Red if an item gets anything before it is added or after it is done."""
    told, whole = respond(history)
    state: dict[str, str] = {}
    for event in told:
        if event["type"] == "response.output_item.added":
            assert event["output_index"] == len(state)
            state[event["item"]["id"]] = "open"
        elif event["type"] == "response.output_item.done":
            assert state[event["item"]["id"]] == "open"
            state[event["item"]["id"]] = "done"
        elif "item_id" in event:
            assert state[event["item_id"]] == "open"
    assert list(state) == [item["id"] for item in whole["output"]]
    completed = [item["id"] for item in whole["output"] if item["status"] == "completed"]
    assert all(state[item_id] == "done" for item_id in completed)


@given(histories())
def test_a_call_of_a_lost_attempt_is_never_done(history: list[AnyEvent]) -> None:
    """Red if a program that runs a call when it is done runs one that the answer has not."""
    told, whole = respond(history)
    done = [e["item"] for e in told if e["type"] == "response.output_item.done"]
    run = {item["id"] for item in done if item["type"] == "function_call"}
    assert run <= {item["id"] for item in whole["output"] if item["type"] == "function_call"}


@given(histories(), st.booleans())
def test_chat_never_joins_two_attempts(history: list[AnyEvent], include_usage: bool) -> None:
    chat = ChatStream("chatcmpl-1", 1, include_usage=include_usage)
    heard: dict[str, str] = {}
    try:
        for event in history:
            for chunk in chat.feed(event):
                check_chunk(chunk)
                for choice in chunk["choices"]:
                    add_delta(heard, choice["delta"])
    except ApiError:
        assert not chat.ended
    if chat.ended:
        assert heard.pop("content", "") == Response.model_validate(respond(history)[1]).output_text
        for item in respond(history)[1]["output"]:
            if item["type"] == "function_call":
                assert heard.pop(item["call_id"]) == item["arguments"]
        left = {name for name in heard if not name.startswith("id of ")}
        assert left <= {"reasoning", "reasoning_content", "refusal"}


def add_delta(heard: dict[str, str], delta: dict[str, Any]) -> None:
    """Add a delta's texts by name, and the arguments of calls by id."""
    for name, value in delta.items():
        if name == "tool_calls":
            for call in value:
                call_id = heard.setdefault(f"id of {call['index']}", call.get("id", ""))
                heard[call_id] = heard.get(call_id, "") + call["function"]["arguments"]
        elif name != "role" and value is not None:
            heard[name] = heard.get(name, "") + value


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
    check_chunk(chunk)


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
