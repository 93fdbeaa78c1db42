"""A chat's history as services give it: their own answers, sent back with the next question."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai.types.chat import ChatCompletionMessage

from darkq.batches.lines import ForAllLines, json_line
from darkq.errors import InvalidJob
from darkq.openai.body import CHAT, RESPONSES, read_body
from darkq.protocol.job import Message

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
        {"tool_calls": None, "reasoning_content": "Let me think.", "reasoning": "Hm."},
        {"id": "msg_1", "reasoning_details": [{"type": "reasoning.text", "text": "Hm."}]},
        {"annotations": [{"type": "url_citation", "url_citation": {"url": "http://x"}}]},
        {"provider_specific_fields": {"a": 1}, "thinking_blocks": [{"type": "thinking"}]},
        {"reasoning_content": None, "name": "bot", "refusal": ""},
    ],
)
def test_assistant_message_with_extra_fields_is_accepted(more: dict[str, Any]) -> None:
    """Red when a field of `OF_ANSWERS`, or an empty one, is refused."""
    assert read({"role": "assistant", "content": "Because.", **more}) == (ASKED, ANSWERED)


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
        ({"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}, "`tool_calls`"),
        ({"role": "assistant", "content": None, "refusal": "No."}, "`refusal`"),
        ({"role": "assistant", "content": "x", "prefix": True}, "`prefix`"),
        ({"role": "user", "content": "x", "annotations": [1]}, "`annotations`"),
        ({"role": "user", "content": None}, "`content`"),
        ({"role": "user"}, "`content`"),
        ({"role": "tool", "content": "x"}, "role must be"),
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
