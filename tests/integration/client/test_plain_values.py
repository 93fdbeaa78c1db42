"""Strings and numbers as templates and tables give them, and bad values beside good ones."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from markupsafe import Markup
from redis.asyncio import Redis

from darkq import Client, InvalidJob, Line, Settings
from darkq.protocol.job import Job
from darkq.protocol.keys import JobKeys
from darkq.protocol.prompt import Message
from darkq.protocol.record import decode_job
from darkq.sync import Client as SyncClient


class SafeString(str):
    """As Django's: what a template has made. Its `str()` is itself."""

    __slots__ = ()

    def __str__(self) -> str:
        return self

    def encode(self, *_: Any, **__: Any) -> bytes:
        raise AssertionError("a subclass may do anything")


class Shade(str, enum.Enum):  # noqa: UP042  as code of many years has it
    GREEN = "green"


KINDS: list[Callable[[str], str]] = [SafeString, Markup, np.str_]


async def _stored(redis: Redis, job_id: str) -> Job:
    keys = JobKeys.parse(job_id)
    record: bytes = await redis.get(keys.job)
    return decode_job(record).job


@pytest.mark.parametrize("kind", KINDS)
async def test_a_template_is_the_text_that_it_is(
    client: Client, redis: Redis, kind: Callable[[str], Any]
) -> None:
    """Red when any of these reaches the encoder as it came: "Encoding objects of type …"."""
    job = await client.enqueue(
        kind("Why <b>?"),
        model=kind("m"),
        upstream=kind("u"),
        priority=kind("bulk"),
        tenant=kind("t"),
        metadata={kind("k"): kind("v")},
        proxy=kind("http://proxy:1"),
        options={kind("stop"): [kind("x")]},
        idempotency_key=kind("key"),
    )
    assert await _stored(redis, job.id) == Job.create(
        "Why <b>?",
        model="m",
        upstream="u",
        priority="bulk",
        tenant="t",
        metadata={"k": "v"},
        proxy="http://proxy:1",
        options={"stop": "x"},
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", ["dict", "message", "parts", "message of parts"])
async def test_a_template_in_a_message(
    client: Client, redis: Redis, kind: Callable[[str], Any], shape: str
) -> None:
    parts = [{kind("type"): kind("text"), kind("text"): kind("Why?")}]
    message: Any = {
        "dict": {kind("role"): kind("user"), kind("content"): kind("Why?")},
        "message": Message(kind("user"), kind("Why?")),
        "parts": {"role": "user", "content": parts},
        "message of parts": Message("user", ({"type": "text", "text": kind("Why?")},)),
    }[shape]
    stored = await _stored(redis, (await client.enqueue([message])).id)
    assert not isinstance(stored.prompt, str)
    assert [message.text for message in stored.prompt] == ["Why?"]


async def test_an_enums_text_is_its_value(client: Client, redis: Redis) -> None:
    job = await client.enqueue(Shade.GREEN, model=Shade.GREEN)
    stored = await _stored(redis, job.id)
    assert (stored.prompt, stored.model) == ("green", "green")


async def test_numbers_of_a_table(client: Client, redis: Redis) -> None:
    """Red when `options` or `tries` take Python's own numbers only."""
    job = await client.enqueue(
        "hi",
        tries=np.int64(2),  # type: ignore[arg-type]
        timeout_s=np.float32(2.5),  # type: ignore[arg-type]
        options={
            "temperature": np.float64(0.5),
            "top_p": np.float32(0.25),
            "max_tokens": np.int32(7),
            "seed": np.uint8(3),
        },
    )
    stored = await _stored(redis, job.id)
    assert (stored.tries, stored.timeout_s) == (2, 2.5)
    assert stored.options is not None
    assert stored.options.given() == {
        "temperature": 0.5,
        "top_p": 0.25,
        "max_tokens": 7,
        "seed": 3,
    }


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tries", np.True_),
        ("tries", np.float64(2)),
        ("timeout_s", np.float64("nan")),
        ("options", {"max_tokens": np.float64(1.5)}),
        ("metadata", {"k": np.int64(1)}),
        ("model", np.int64(1)),
    ],
)
async def test_what_is_wrong_stays_wrong(client: Client, field: str, value: Any) -> None:
    with pytest.raises(InvalidJob) as caught:
        await client.enqueue("hi", **{field: value})
    assert caught.value.field.startswith(field)


async def test_a_column_of_a_table_as_prompts(client: Client, redis: Redis) -> None:
    column = np.array(["one", "two"])
    jobs = await client.enqueue_many(column)
    assert [(await _stored(redis, job.id)).prompt for job in jobs] == ["one", "two"]


async def test_a_column_of_a_table_as_a_batch(client: Client, redis: Redis) -> None:
    rows: list[dict[str, Any]] = [
        {"prompt": np.str_("one"), "custom_id": np.int64(7)},
        {"prompt": SafeString("two"), "custom_id": SafeString("b")},
    ]
    window: Any = np.int64(10)
    async with client.batch(
        name=SafeString("n"), window=window, metadata={SafeString("k"): SafeString("v")}
    ) as batch:
        for row in rows:
            await batch.add(**row)
        lines = [Line(number=3, custom_id=SafeString("c"), job=Job.create(SafeString("three")))]
        await batch.add_many(lines)
        status = await batch.status()
        assert (status.added, status.name, status.metadata) == (3, "n", {"k": "v"})
        await batch.cancel()


def _by_hand() -> Job:
    return Job(prompt=object())  # type: ignore[arg-type]


def _of_no_queue() -> Job:
    return Job(prompt="hi", priority=["bulk"])  # type: ignore[arg-type]


@pytest.mark.parametrize("make", [_by_hand, _of_no_queue])
async def test_a_bad_job_fails_alone_in_its_round_trip(
    client: Client, make: Callable[[], Job]
) -> None:
    """Red when a job is encoded in the flush: then its error is that of all who share it."""
    calls = [client.enqueue("hi") for _ in range(20)]
    calls.insert(10, client.enqueue_job(make()))
    ended = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(end) for n, end in enumerate(ended) if n == 10] == [InvalidJob]
    assert not [end for n, end in enumerate(ended) if n != 10 and isinstance(end, BaseException)]


async def test_bad_lines_of_a_batch_fail_before_they_share_a_round_trip(client: Client) -> None:
    async with client.batch() as batch:
        line = Line(number=1, custom_id="a", job=_by_hand())
        ended = await asyncio.gather(
            batch.add_many([line]), client.enqueue("hi"), return_exceptions=True
        )
        assert isinstance(ended[0], InvalidJob)
        assert not isinstance(ended[1], BaseException)


def test_forty_threads_of_which_some_send_nonsense(redis: object, settings: Settings) -> None:
    """Red when a job is encoded in the flush that threads share."""

    def call(number: int) -> str:
        prompt: Any = 7 if number % 20 == 0 else SafeString(f"hi {number}")
        try:
            client.enqueue(prompt)
        except InvalidJob:
            return "bad" if number % 20 == 0 else "good fails"
        return "good"

    with SyncClient(settings=settings) as client, ThreadPoolExecutor(40) as threads:
        ends = list(threads.map(call, range(400)))
    assert {end: ends.count(end) for end in set(ends)} == {"good": 380, "bad": 20}
