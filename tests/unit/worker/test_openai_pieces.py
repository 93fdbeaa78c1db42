"""Reasoning, tool calls and refusals as services send them, and what an answer becomes of them."""

from __future__ import annotations

from typing import Any

import pytest

from darkq.event import Usage
from darkq.protocol.record import BeyondText, FunctionCall
from darkq_worker.pieces import AnyPiece, Piece, assemble
from darkq_worker.upstreams.base import EmptyAnswer, Truncated
from darkq_worker.upstreams.openai_wire import AnswerDecoder
from support.openai_frames import DONE, delta, finish, frame


def say(**fields: Any) -> bytes:
    return frame(choices=[{"index": 0, "delta": fields, "finish_reason": None}])


def read(*frames: bytes, size: int = 1 << 20) -> tuple[str, BeyondText, AnswerDecoder]:
    data, answer = b"".join(frames), AnswerDecoder()
    pieces: list[AnyPiece] = []
    for start in range(0, len(data), size):
        pieces += answer.feed(data[start : start + size])
    pieces += answer.feed_eof()
    text, beyond = assemble(pieces)
    return text, beyond or BeyondText(), answer


def called(index: int | None, arguments: Any = None, **more: Any) -> bytes:
    function = {"name": more.pop("name", None), "arguments": arguments}
    call = {**({} if index is None else {"index": index}), "function": function, **more}
    return say(tool_calls=[call])


ONE = FunctionCall(id="a", name="f", arguments='{"x": 1}')
TWO = FunctionCall(id="b", name="g", arguments="{}")

CALLS = {
    "openai": [
        called(0, "", id="a", name="f", type="function"), called(0, '{"x"'), called(0, ": 1}"),
        called(1, "", id="b", name="g", type="function"), called(1, "{}"),
    ],
    "each whole, in one frame": [
        say(tool_calls=[
            {"index": 0, "id": "a", "function": {"name": "f", "arguments": '{"x": 1}'}},
            {"index": 1, "id": "b", "function": {"name": "g", "arguments": "{}"}},
        ])
    ],
    "all with index 0, as Gemini": [
        called(0, '{"x": 1}', id="a", name="f"), called(0, "{}", id="b", name="g"),
    ],
    "without an index": [
        called(None, '{"x"', id="a", name="f"), called(None, ": 1}"),
        called(None, "{}", id="b", name="g"),
    ],
    "id and name in each frame": [
        called(0, '{"x"', id="a", name="f"), called(0, ": 1}", id="a", name="f"),
        called(1, "{}", id="b", name="g"),
    ],
    "arguments as an object, as Ollama": [
        called(0, {"x": 1}, id="a", name="f"), called(1, {}, id="b", name="g"),
    ],
    "the name after the id": [
        called(0, None, id="a"), called(0, None, name="f"), called(0, '{"x": 1}'),
        called(1, "{}", id="b", name="g"),
    ],
    "interleaved": [
        called(0, '{"x"', id="a", name="f"), called(1, "{", id="b", name="g"),
        called(0, ": 1}"), called(1, "}"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
@pytest.mark.parametrize("frames", CALLS.values(), ids=CALLS)
def test_tool_calls_are_read_from_every_shape(frames: list[bytes], size: int) -> None:
    text, beyond, answer = read(*frames, finish("tool_calls"), DONE, size=size)
    assert (text, answer.end.finish_reason) == ("", "tool_calls")
    assert beyond.tool_calls == (ONE, TWO)


def test_call_without_an_id_gets_one() -> None:
    _, beyond, _ = read(called(0, "{}", name="f"), finish("tool_calls"))
    (call,) = beyond.tool_calls
    assert call.id.startswith("call_")


def test_older_form_of_a_call() -> None:
    pieces = {"name": "f", "arguments": "{"}, {"arguments": "}"}
    frames = [say(function_call=piece) for piece in pieces]
    _, beyond, answer = read(*frames, finish("function_call"))
    assert [(call.name, call.arguments) for call in beyond.tool_calls] == [("f", "{}")]
    assert answer.end.finish_reason == "tool_calls"


def test_first_piece_of_a_call_has_its_id_and_name() -> None:
    answer = AnswerDecoder()
    frames = called(0, "", id="a", name="f"), called(0, "{}", id="a", name="f")
    assert list(answer.feed(b"".join(frames))) == [
        Piece(kind="tool_call", index=0, text="", call_id="a", name="f"),
        Piece(kind="tool_call", index=0, text="{}"),
    ]


def test_whole_completion_with_calls_instead_of_a_stream() -> None:
    message = {
        "role": "assistant",
        "content": None,
        "reasoning_content": "Hm.",
        "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": '{"x": 1}'}}],
    }
    body = frame(choices=[{"index": 0, "message": message, "finish_reason": "tool_calls"}])
    text, beyond, _ = read(body.removeprefix(b"data: "))
    assert (text, beyond.reasoning, beyond.tool_calls) == ("", "Hm.", (ONE,))


def test_calls_in_a_closing_message_are_not_read_twice() -> None:
    message = {"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "f"}}]}
    last = {"index": 0, "delta": {}, "message": message, "finish_reason": "tool_calls"}
    _, beyond, _ = read(called(0, '{"x": 1}', id="a", name="f"), frame(choices=[last]))
    assert beyond.tool_calls == (ONE,)


REASONING = {
    "DeepSeek, vLLM": [say(content=None, reasoning_content="H"), say(reasoning_content="m.")],
    "OpenRouter": [
        say(content="", reasoning="H", reasoning_details=[{"type": "x", "text": "H"}]),
        say(content="", reasoning="m.", reasoning_details=[{"type": "x", "text": "m."}]),
    ],
    "details alone": [say(reasoning_details=[{"text": "H"}, {"summary": "m."}])],
    "both names": [say(reasoning_content="Hm.", reasoning="Hm.")],
    "Mistral": [
        say(content=[{"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}]),
    ],
    "a part of a content": [say(content=[{"type": "reasoning", "text": "Hm."}])],
}


@pytest.mark.parametrize("frames", REASONING.values(), ids=REASONING)
def test_reasoning_is_read_and_is_not_text(frames: list[bytes]) -> None:
    text, beyond, _ = read(*frames, delta("yes"), finish(), DONE)
    assert (text, beyond.reasoning) == ("yes", "Hm.")


def test_answer_of_reasoning_alone_is_empty() -> None:
    with pytest.raises(EmptyAnswer):
        read(say(reasoning_content="Hm."), finish(), DONE)


@pytest.mark.parametrize(
    "frames",
    [
        [say(refusal="No"), say(refusal=".")],
        [say(content=[{"type": "refusal", "refusal": "No."}])],
    ],
)
def test_refusal_is_an_answer(frames: list[bytes]) -> None:
    text, beyond, _ = read(*frames, finish(), DONE)
    assert (text, beyond.refusal) == ("", "No.")


def test_call_that_is_cut_off_never_completes() -> None:
    with pytest.raises(Truncated):
        read(called(0, '{"x"', id="a", name="f"))


def test_call_that_cannot_be_read_never_completes() -> None:
    with pytest.raises(Truncated):
        read(say(tool_calls=["f"]), finish("tool_calls"), DONE)


def test_call_after_a_stop_is_a_part_of_the_answer() -> None:
    text, beyond, _ = read(delta("x"), finish(), called(0, '{"x": 1}', id="a", name="f"), DONE)
    assert (text, beyond.tool_calls) == ("x", (ONE,))


def test_logprobs_and_annotations_stay_with_their_chunk() -> None:
    logprobs = {"content": [{"token": "a", "logprob": -0.1}], "refusal": None}
    annotation = {"type": "url_citation", "url_citation": {"url": "http://x"}}
    answer = AnswerDecoder()
    pieces = [*answer.feed(delta("a", logprobs=logprobs) + say(annotations=[annotation]))]
    assert [(p.text, p.logprobs, p.annotations) for p in pieces if isinstance(p, Piece)] == [
        ("a", logprobs, None),
        ("", None, [annotation]),
    ]


def test_usage_has_the_details_of_the_service() -> None:
    counts = {
        "prompt_tokens": 9,
        "completion_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 4, "audio_tokens": 0, "kind": "x"},
        "completion_tokens_details": {"reasoning_tokens": 3},
    }
    *_, answer = read(delta("x"), finish(), frame(choices=[], usage=counts), DONE)
    assert answer.end.usage == Usage(
        prompt_tokens=9,
        completion_tokens=5,
        prompt_tokens_details={"cached_tokens": 4, "audio_tokens": 0},
        completion_tokens_details={"reasoning_tokens": 3},
    )
