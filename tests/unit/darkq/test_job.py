"""What a job may be, and that bad input is refused by name."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from darkq.errors import InvalidJob
from darkq.protocol.job import MAX_METADATA_BYTES, MAX_NAME_CHARS, MAX_TIMEOUT_S, MAX_TRIES, Job
from darkq.protocol.prompt import MAX_PROMPT_BYTES, Message
from darkq.protocol.record import Arguments, JobRecord, decode_job, encode

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
prompts = texts.filter(str.strip)
names = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=MAX_NAME_CHARS)
parts = st.fixed_dictionaries({"type": st.just("text"), "text": prompts})
messages = st.builds(
    Message,
    role=st.sampled_from(["system", "developer", "user", "assistant"]),
    content=prompts | st.lists(parts, min_size=1).map(tuple),
)


@given(
    st.builds(
        Job.create,
        prompts | st.lists(messages, min_size=1),
        model=st.none() | names,
        upstream=st.none() | names,
        priority=st.sampled_from(["interactive", "bulk"]),
        timeout_s=st.none() | st.floats(0, MAX_TIMEOUT_S, exclude_min=True),
        tries=st.none() | st.integers(1, MAX_TRIES),
        metadata=st.dictionaries(texts, texts),
        proxy=st.none() | st.sampled_from(["http://host:1", "http://u:p%40@host:8080"]),
    )
)
def test_a_job_comes_back_from_redis_as_it_went(job: Job) -> None:
    assert decode_job(encode(JobRecord(k=Arguments(job), et=1))).job == job


class TestPrompt:
    def test_a_string_is_kept_verbatim(self) -> None:
        assert Job.create("  Hallo\r\n\x00 😀 ").prompt == "  Hallo\r\n\x00 😀 "

    def test_messages_may_be_openais_dictionaries(self) -> None:
        prompt: Any = [
            {"role": "system", "content": "Be brief."},
            {
                "role": "user",
                "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
            },
        ]
        assert Job.create(prompt).prompt == (
            Message("system", "Be brief."),
            Message("user", ({"type": "text", "text": "a"}, {"type": "text", "text": "b"})),
        )

    def test_messages_may_come_from_any_iterable(self) -> None:
        def conversation() -> Iterator[Message]:
            yield Message("user", "a")
            yield Message("assistant", "b")

        assert len(Job.create(conversation()).prompt) == 2

    def test_a_messages_text(self) -> None:
        assert Message("user", "ab").text == "ab"
        assert (
            Message("user", ({"type": "text", "text": "a"}, {"type": "text", "text": "b"})).text
            == "ab"
        )

    @pytest.mark.parametrize(
        "prompt",
        ["", " \n\t", "\u2003", [], [Message("user", " ")], [Message("user", ())], iter(())],
    )
    def test_an_empty_one_is_refused(self, prompt: Any) -> None:
        with pytest.raises(InvalidJob, match="prompt: is empty"):
            Job.create(prompt)

    def test_one_blank_message_among_others_is_none_of_our_business(self) -> None:
        Job.create([Message("system", ""), Message("user", "x")])

    @pytest.mark.parametrize(
        "prompt", [None, 7, 1.5, {"role": "user", "content": "x"}, object(), True]
    )
    def test_another_type_is_refused(self, prompt: Any) -> None:
        with pytest.raises(InvalidJob, match="must be a string or a list of messages") as caught:
            Job.create(prompt)
        assert caught.value.field == "prompt"

    @pytest.mark.parametrize(
        "message",
        [
            "a string",
            b"bytes",
            None,
            7,
            {},
            {"role": "user"},
            {"content": "x"},
            {"role": "tool", "content": "x"},
            {"role": 7, "content": "x"},
            {"role": "user", "content": None},
            {"role": "user", "content": 7},
            {"role": "user", "content": {"type": "text", "text": "x"}},
            {"role": "user", "content": [{"image_url": "x"}]},
            {"role": "user", "content": "x", "weight": 1},
            {"role": "user", "content": "x", "name": 7},
            {"role": "assistant", "tool_calls": "x"},
            {"role": "assistant", "tool_calls": [{"function": {"arguments": float("nan")}}]},
            Message("tool", "x"),
            Message("user", 7),  # type: ignore[arg-type]
            Message("user", (7,)),  # type: ignore[arg-type]
            Message("user", ({"type": "text", "text": 7},)),
            {"role": "user", "content": [{"type": "text", "text": 7}]},
            {"role": "user", "content": [{"type": "image_url", "image_url": b"x"}]},
            Message("user", object()),  # type: ignore[arg-type]
        ],
    )
    def test_a_bad_message_is_named_by_its_number(self, message: Any) -> None:
        with pytest.raises(InvalidJob) as caught:
            Job.create([Message("user", "fine"), message])
        assert caught.value.field.startswith("prompt[1]")

    def test_the_limit_counts_bytes_of_all_messages(self) -> None:
        most = "ü" * (MAX_PROMPT_BYTES // 2)
        Job.create(most)
        Job.create(
            [Message("user", most[:1]), Message("user", ({"type": "text", "text": most[1:]},))]
        )
        with pytest.raises(InvalidJob, match=r"has 67,108,865 bytes; the limit is 67,108,864"):
            Job.create(most + "x")
        with pytest.raises(InvalidJob, match="the limit is"):
            Job.create([Message("user", most), Message("user", "x")])

    def test_messages_without_text_are_bounded_too(self) -> None:
        """Red when only text counts: the record would have no bound."""
        with pytest.raises(InvalidJob, match="prompt"):
            Job.create([Message("user", "x"), *[Message("user", "")] * 100_000])
        with pytest.raises(InvalidJob, match="prompt"):
            Job.create(
                [
                    Message(
                        "user",
                        ({"type": "text", "text": "x"}, *[{"type": "text", "text": ""}] * 100_000),
                    )
                ]
            )

    @pytest.mark.parametrize("prompt", ["a\ud800", [Message("user", "\udfff")]])
    def test_a_lone_surrogate_is_refused(self, prompt: Any) -> None:
        with pytest.raises(InvalidJob, match="lone surrogate"):
            Job.create(prompt)


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("model", ["", 7, b"m", "a\nb", "a\x00", "x" * (MAX_NAME_CHARS + 1), "\ud800", "\u202e"]),
        ("upstream", ["", 7, "a\tb", "x" * (MAX_NAME_CHARS + 1)]),
        ("priority", ["", "urgent", None, 1, "Bulk", ["bulk"]]),
        (
            "timeout_s",
            [0, -1, math.nan, math.inf, -math.inf, "5", True, MAX_TIMEOUT_S + 1, 10**400, 1j],
        ),
        ("tries", [0, -1, MAX_TRIES + 1, 1.0, "1", True, 10**400]),
        (
            "metadata",
            [
                "x",
                7,
                [],
                [("a", "b")],
                {"a": 1},
                {1: "a"},
                {"a": None},
                {"a": "\ud800"},
                {"\ud800": "a"},
                {"a": "x" * MAX_METADATA_BYTES},
            ],
        ),
        (
            "proxy",
            [
                "",
                7,
                "host:80",
                "http://",
                "http://:80",
                "https://host:80",
                "socks5://host:80",
                "ftp://host",
                "http://host:0",
                "http://host:99999",
                "http://host:port",
                "http://[::1",
                "http://ho\nst:80",
                b"http://host:80",
            ],
        ),
    ],
)
def test_bad_options_are_refused_by_name(field: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(InvalidJob) as caught:
            Job.create("hi", **{field: value})
        assert caught.value.field == field, value
        assert isinstance(caught.value, ValueError)


def test_what_is_left_out_stays_open() -> None:
    assert Job.create("hi") == Job(prompt="hi")
    assert msgspec.json.encode(Job(prompt="hi")) == b'{"prompt":"hi"}'


def test_an_integer_timeout_is_a_number_of_seconds() -> None:
    job = Job.create("hi", timeout_s=5)
    assert job.timeout_s == 5.0
    assert isinstance(job.timeout_s, float)


def test_metadata_is_copied() -> None:
    metadata = {"a": "b"}
    job = Job.create("hi", metadata=metadata)
    metadata["a"] = "c"
    assert job.metadata == {"a": "b"}
