"""A chat's history as services give it: their own answers, sent back with the next question."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai.types.chat import ChatCompletionMessage

from darkq.batches.lines import ForAllLines, json_line
from darkq.errors import InvalidJob
from darkq.openai.body import CHAT, RESPONSES, read_body
from darkq.protocol.prompt import Message

ASKED = Message("user", "Why?")
ANSWERED = Message("assistant", "Because.")


def read(*messages: dict[str, Any]) -> Any:
    body = {"model": "m", "messages": [{"role": "user", "content": "Why?"}, *messages]}
    chat = read_body(body, CHAT).job().prompt
    line = json.dumps({"url": CHAT, "body": body}).encode()
    assert json_line(line, 1, ForAllLines()).job.prompt == chat
    return chat


@pytest.mark.parametrize(
    "more",
    [
        {"annotations": [], "refusal": None, "audio": None},
        {"tool_calls": [], "function_call": {}},
        {"annotations": [{"type": "url_citation", "url_citation": {"url": "http://x"}}]},
        {"id": "msg_1", "provider_specific_fields": {"a": 1}},
        {"reasoning_content": None, "refusal": ""},
    ],
)
def test_assistant_message_with_extra_fields_is_accepted(more: dict[str, Any]) -> None:
    """Red when a field of `OF_ANSWERS`, or an empty one, is refused."""
    assert read({"role": "assistant", "content": "Because.", **more}) == (ASKED, ANSWERED)


CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    "answer",
    [
        {"content": None, "tool_calls": [CALL]},
        {"content": "Because.", "tool_calls": [CALL, CALL], "reasoning_content": "Hm."},
        {"content": None, "refusal": "No."},
        {"content": "x", "reasoning_details": [{"type": "reasoning.text", "text": "Hm."}]},
        {"content": "x", "thinking_blocks": [{"type": "thinking"}], "name": "bot"},
    ],
)
def test_assistant_message_is_kept_with_its_tool_calls_and_reasoning(
    answer: dict[str, Any],
) -> None:
    message = {"role": "assistant", **answer}
    kept = {name: list(v) if isinstance(v, tuple) else v for name, v in fields_of(message).items()}
    assert kept == message


def fields_of(message: dict[str, Any]) -> dict[str, Any]:
    fields: dict[str, Any] = read(message)[1].fields()
    return fields


def test_output_of_a_tool_is_a_message() -> None:
    message = {"role": "tool", "tool_call_id": "call_1", "content": "42"}
    assert read(message)[1].fields() == message


def test_assistant_message_of_the_openai_library_is_accepted() -> None:
    message = ChatCompletionMessage(
        role="assistant", content="Because.", annotations=[], tool_calls=[]
    )
    assert read(message.model_dump()) == (ASKED, ANSWERED)


@pytest.mark.parametrize("answer", [{"content": None}, {}, {"content": None, "tool_calls": []}])
def test_assistant_message_without_content_is_empty_text(answer: dict[str, Any]) -> None:
    assert read({"role": "assistant", **answer}) == (ASKED, Message("assistant", ""))


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ({"role": "assistant", "content": "x", "prefix": True}, "`prefix`"),
        ({"role": "user", "content": "x", "annotations": [1]}, "`annotations`"),
        ({"role": "user", "content": None}, "`content`"),
        ({"role": "user"}, "`content`"),
        ({"role": "tool", "content": "x"}, "`tool_call_id`"),
        ({"role": "critic", "content": "x"}, "role must be"),
    ],
)
def test_message_field_that_would_change_the_answer_is_refused(
    message: dict[str, Any], said: str
) -> None:
    with pytest.raises(InvalidJob, match=said) as caught:
        read_body({"messages": [{"role": "user", "content": "Why?"}, message]}, CHAT).job()
    assert caught.value.field == "messages[1]"


def test_reasoning_items_beside_a_response_answer_are_ignored() -> None:
    """As `input += response.output` sends it back."""
    output = {"type": "output_text", "text": "Because.", "annotations": []}
    given = [
        {"role": "user", "content": "Why?"},
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant",
         "content": [output]},
    ]  # fmt: skip
    prompt: Any = read_body({"input": given}, RESPONSES).job().prompt
    assert [(message.role, message.text) for message in prompt] == [
        ("user", "Why?"),
        ("assistant", "Because."),
    ]
