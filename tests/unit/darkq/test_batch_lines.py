"""The lines of a batch: which are read, and what is said of those that are not."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from darkq import InvalidJob, Message, Result, Usage
from darkq.batches.answers import answer_line, failure_line
from darkq.batches.lines import ForAllLines, Line, json_line, text_line
from darkq.errors import InvalidLine
from darkq.openai.body import CHAT, RESPONSES

PLAIN = ForAllLines()


def line(fields: object, number: int = 7, common: ForAllLines = PLAIN) -> Line:
    return json_line(json.dumps(fields).encode(), number, common)


def request(body: dict[str, Any], url: str = CHAT) -> Line:
    return line({"custom_id": "a", "method": "POST", "url": url, "body": body})


def chat(**body: Any) -> Line:
    return request({"messages": [{"role": "user", "content": "hi"}], **body})


def test_a_request_of_openais_batch_format() -> None:
    read = chat(model="gpt-4o", metadata={"a": "b"})
    assert (read.number, read.custom_id, read.endpoint) == (7, "a", CHAT)
    assert read.job.prompt == (Message("user", "hi"),)
    assert (read.job.model, read.job.metadata, read.job.priority) == ("gpt-4o", {"a": "b"}, "bulk")


def test_a_request_of_the_responses_api() -> None:
    parts = [{"type": "input_text", "text": "h"}, {"type": "input_text", "text": "i"}]
    given = [{"role": "user", "content": parts}]
    read = request({"input": given, "instructions": "Be brief.", "max_output_tokens": 5}, RESPONSES)
    assert read.endpoint == RESPONSES
    assert read.job.prompt == (
        Message("system", "Be brief."),
        Message("user", ({"type": "text", "text": "h"}, {"type": "text", "text": "i"})),
    )
    assert read.job.options is not None
    assert read.job.options.max_tokens == 5
    assert request({"input": "hi"}, RESPONSES).job.prompt == (Message("user", "hi"),)


def test_a_plain_prompt() -> None:
    read = line({"prompt": "hi", "custom_id": "x", "model": "m", "temperature": 0.5})
    assert (read.custom_id, read.job.prompt, read.job.model) == ("x", "hi", "m")
    assert read.job.options is not None
    assert read.job.options.temperature == 0.5


def test_a_line_of_text() -> None:
    read = text_line("Почему очереди?".encode(), 3, PLAIN)
    assert (read.custom_id, read.job.prompt, read.endpoint) == ("line-3", "Почему очереди?", CHAT)


def test_without_a_custom_id_the_line_is_named_after_its_number() -> None:
    assert line({"prompt": "hi"}, 12).custom_id == "line-12"


@pytest.mark.parametrize("fields", [{"prompt": "hi"}, {"prompt": "hi", "custom_id": None}])
def test_a_line_that_needs_a_custom_id_is_refused_without(fields: dict[str, Any]) -> None:
    """Red if it is called `line-12` over OpenAI's wire."""
    with pytest.raises(InvalidLine) as refused:
        json_line(json.dumps(fields).encode(), 12, PLAIN, needs_custom_id=True)
    error = refused.value
    assert (error.line, error.field, error.code) == (12, "custom_id", "missing_required_parameter")


def test_what_all_lines_have_in_common_reaches_each_job() -> None:
    common = ForAllLines(model="m", upstream="u", priority="interactive", tries=2, timeout_s=3)
    job = line({"prompt": "hi"}, 1, common).job
    assert (job.model, job.upstream, job.priority) == ("m", "u", "interactive")
    assert (job.tries, job.timeout_s) == (2, 3)
    assert line({"prompt": "hi", "model": "own"}, 1, common).job.model == "own"


@pytest.mark.parametrize(
    "harmless",
    [
        {"n": 1},
        {"stream": False},
        {"store": True, "stream_options": {}, "background": False},
        {"tools": [], "tool_choice": "auto", "parallel_tool_calls": True},
        {"response_format": {"type": "text"}, "logprobs": False, "logit_bias": {}},
        {"stop": None, "seed": None, "top_p": 1, "presence_penalty": 0},
    ],
)
def test_parameters_that_change_nothing_are_accepted(harmless: dict[str, Any]) -> None:
    assert chat(**harmless).job == chat().job


@pytest.mark.parametrize(
    "parameters",
    [
        {"user": "u", "service_tier": "flex", "prompt_cache_key": "k"},
        {"tools": [{"type": "function"}], "tool_choice": "none", "parallel_tool_calls": False},
        {"response_format": {"type": "json_object"}},
        {"logprobs": True, "top_logprobs": 3, "logit_bias": {"50256": -100}},
        {"top_k": 40, "chat_template_kwargs": {"enable_thinking": False}},
    ],
)
def test_other_parameters_reach_the_job_unchanged(parameters: dict[str, Any]) -> None:
    assert chat(**parameters).job.parameters == parameters


def test_options_reach_the_job() -> None:
    options = chat(temperature=0, max_completion_tokens=9, stop="x", seed=4).job.options
    assert options is not None
    given = {"temperature": 0, "max_completion_tokens": 9, "stop": ("x",), "seed": 4}
    assert options.given() == given, "each word is kept: some models take only one"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"n": 2}, "body.n"),
        ({"n": True}, "body.n"),
        ({"stream": True}, "body.stream"),
        ({"audio": {"voice": "alloy"}}, "body.audio"),
        ({"modalities": ["text", "audio"]}, "body.modalities"),
        ({"api_base": "http://elsewhere"}, "body.api_base"),
        ({"conversation": "conv_1"}, "body.conversation"),
        ({"temperature": 3}, "body.temperature"),
        ({"model": 5}, "body.model"),
        ({"metadata": {"a": 1}}, "body.metadata"),
        ({"messages": "hi"}, "body.messages"),
        ({"messages": []}, "body.messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "body.messages[0]"),
        ({"messages": [{"role": "user", "content": 4}]}, "body.messages[0]"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(body: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidLine) as caught:
        chat(**body)
    assert (caught.value.line, caught.value.field) == (7, field)
    assert str(caught.value).startswith(f"line 7: {field}: ")


@pytest.mark.parametrize(
    ("fields", "field", "code"),
    [
        ([], "line", "invalid_json_line"),
        ("hi", "line", "invalid_json_line"),
        ({}, "body", "invalid_request"),
        ({"body": 1}, "body", "invalid_request"),
        ({"prompt": ""}, "prompt", "invalid_request"),
        ({"prompt": "hi", "colour": "red"}, "colour", "invalid_request"),
        ({"prompt": "hi", "custom_id": 4}, "custom_id", "invalid_request"),
        ({"prompt": "hi", "custom_id": ""}, "custom_id", "invalid_request"),
        ({"prompt": "hi", "custom_id": "x" * 513}, "custom_id", "invalid_request"),
        ({"method": "GET", "body": {}}, "method", "invalid_method"),
        ({"url": "/v1/embeddings", "body": {}}, "url", "invalid_url"),
        ({"url": [], "body": {}}, "url", "invalid_url"),
        ({"url": RESPONSES, "body": {"input": 4}}, "body.input", "invalid_request"),
        (
            {"url": RESPONSES, "body": {"input": [{"type": "function_call"}]}},
            "body.input[0]",
            "invalid_request",
        ),
        (
            {"url": RESPONSES, "body": {"input": "hi", "previous_response_id": "r"}},
            "body.previous_response_id",
            "invalid_request",
        ),
    ],
)
def test_errors_name_the_line_the_field_and_the_kind(fields: object, field: str, code: str) -> None:
    with pytest.raises(InvalidLine) as caught:
        line(fields)
    assert (caught.value.line, caught.value.field, caught.value.code) == (7, field, code)
    assert isinstance(caught.value, InvalidJob)


@pytest.mark.parametrize(
    "text", [b"{", b'{"prompt": "\xff"}', b"[" * 100_000, b'{"prompt": 1e999}', b"hi", b"NaN"]
)
def test_what_is_no_json_is_named(text: bytes) -> None:
    with pytest.raises(InvalidLine) as caught:
        json_line(text, 3, PLAIN)
    assert (caught.value.field, caught.value.code) == ("line", "invalid_json_line")


def test_no_error_quotes_what_stands_there() -> None:
    secret = "PromptOfSomebody"
    bad = [
        {"prompt": [{"role": secret, "content": "x"}]},
        {"prompt": "hi", f"{secret} {secret}": 1},
        {"url": secret, "body": {}},
        {"body": {"messages": [{"role": "user", "content": [{"type": f"{secret} "}]}]}},
        {"body": {"messages": [{"role": "user", "content": "x"}], "modalities": [secret]}},
        {"custom_id": secret * 100, "prompt": "x"},
        {"prompt": "x", "stop": secret * 100},
    ]
    for fields in bad:
        with pytest.raises(InvalidLine) as caught:
            line(fields)
        assert secret not in str(caught.value)
    with pytest.raises(InvalidLine) as caught:
        json_line(f'{{"prompt": "{secret}'.encode(), 1, PLAIN)
    assert secret not in str(caught.value)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
_names = st.sampled_from(
    [
        *("custom_id", "method", "url", "body", "prompt", "model", "messages", "input", "role"),
        *("content", "type", "text", "stop", "n", "tools", "metadata", "instructions", "options"),
    ]
)
_known = st.recursive(
    _json | st.sampled_from([CHAT, RESPONSES, "POST", "user", "input_text", "text"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_names, inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(_names, _known, max_size=5))
def test_any_object_is_a_job_or_an_invalid_line(fields: dict[str, Any]) -> None:
    text = json.dumps(fields).encode()
    with suppress(InvalidLine):
        read = json_line(text, 1, PLAIN)
        assert read == json_line(text, 1, PLAIN)
        assert msgspec.json.encode(read.job)


@given(st.binary(max_size=60))
def test_any_bytes_are_a_job_or_an_invalid_line(text: bytes) -> None:
    for read in (json_line, text_line):
        with suppress(InvalidLine):
            assert read(text, 1, PLAIN).custom_id


_messages = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "system"]), "content": st.text()}
    ),
    min_size=1,
    max_size=4,
)


@given(_messages, st.text(min_size=1, max_size=20))
def test_every_prompt_survives(messages: list[dict[str, str]], custom_id: str) -> None:
    if not any(message["content"].strip() for message in messages):
        return
    read = line({"custom_id": custom_id, "url": CHAT, "body": {"messages": messages}})
    assert read.custom_id == custom_id
    assert [{"role": m.role, "content": m.content} for m in read.job.prompt] == messages  # type: ignore[union-attr]


def result(**changes: Any) -> Result:
    fields: dict[str, Any] = {
        "job_id": "0-abc", "text": "Because.\n", "finish_reason": "stop", "model": "m",
        "upstream": "u", "attempt": 1, "chunks": 2, "usage": None, "metadata": {},
        "queued_ms": 1000, "started_ms": 2000, "finished_ms": 3000,
    }  # fmt: skip
    return Result(**{**fields, **changes})


def test_an_answer_is_what_openais_library_reads() -> None:
    from openai.types.chat import ChatCompletion
    from openai.types.responses import Response

    usage = Usage(prompt_tokens=3, completion_tokens=4)
    written = json.loads(answer_line("a", result(usage=usage), CHAT))
    assert (written["id"], written["custom_id"], written["error"]) == ("batch_req_abc", "a", None)
    assert written["response"]["status_code"] == 200
    assert written["response"]["request_id"] == "0-abc"
    completion = ChatCompletion.model_validate(written["response"]["body"], strict=True)
    assert completion.choices[0].message.content == "Because.\n"
    assert completion.usage is not None
    assert completion.usage.total_tokens == 7
    body = json.loads(answer_line("a", result(usage=usage), RESPONSES))["response"]["body"]
    assert Response.model_validate(body).output_text == "Because.\n"


@pytest.mark.parametrize(
    ("finish_reason", "reason"),
    [("length", "max_output_tokens"), ("content_filter", "content_filter")],
)
def test_an_answer_that_was_cut_says_so(finish_reason: str, reason: str) -> None:
    """Red if a Response of a batch is `completed` where a live one is `incomplete`."""
    from openai.types.responses import Response

    cut = result(finish_reason=finish_reason)
    body = json.loads(answer_line("a", cut, CHAT))["response"]["body"]
    assert body["choices"][0]["finish_reason"] == finish_reason
    body = json.loads(answer_line("a", cut, RESPONSES))["response"]["body"]
    assert Response.model_validate(body).output_text == "Because.\n"
    assert (body["status"], body["completed_at"]) == ("incomplete", None)
    assert body["incomplete_details"] == {"reason": reason}
    assert body["output"][0]["status"] == "incomplete"


@given(st.text(), st.text())
def test_a_line_has_one_line_end(text: str, custom_id: str) -> None:
    for written in (
        answer_line(custom_id, result(text=text), CHAT),
        failure_line(custom_id, "0-abc", "timeout", text),
    ):
        assert written.endswith(b"\n")
        assert written.count(b"\n") == 1
        assert json.loads(written)["custom_id"] == custom_id


def test_a_failure_has_no_response() -> None:
    assert json.loads(failure_line("a", "0-abc", "timeout", "too slow")) == {
        "id": "batch_req_abc",
        "custom_id": "a",
        "response": None,
        "error": {"code": "timeout", "message": "too slow"},
    }


def test_json_that_breaks_off_is_told_in_plain_words() -> None:
    with pytest.raises(InvalidLine, match=r"^line 17: JSON is incomplete: each line must hold"):
        json_line(b'{"prompt": "hi"', 17, PLAIN)


@pytest.mark.parametrize(
    ("url", "endpoint"), [("/chat/completions", CHAT), ("/responses", RESPONSES)]
)
def test_azures_names_of_endpoints_mean_the_same(url: str, endpoint: str) -> None:
    body = (
        {"messages": [{"role": "user", "content": "hi"}]} if endpoint == CHAT else {"input": "hi"}
    )
    assert line({"url": url, "body": body}).endpoint == endpoint


def test_a_line_of_text_is_the_prompt_as_it_stands() -> None:
    assert text_line(b"  def f():\t", 1, PLAIN).job.prompt == "  def f():\t"


@pytest.mark.parametrize("text", [b"[", b'[{"prompt": "hi"},', b'  [{"prompt": "hi"}]', b"[]"])
def test_an_array_is_told_to_be_one(text: bytes) -> None:
    with pytest.raises(InvalidLine, match=r"^line 1: is a JSON array, or begins one: each line"):
        json_line(text, 1, PLAIN)
