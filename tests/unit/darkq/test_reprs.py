"""No log line can show what a `repr` does not: no prompt, no text, no metadata, no proxy."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darkq import InvalidJob
from darkq import event as ev
from darkq.jobs.enqueue import _EncodedJob
from darkq.jobs.status import Status
from darkq.jobs.tail import News
from darkq.protocol.job import Job
from darkq.protocol.keys import JobKeys
from darkq.protocol.prompt import Message
from darkq.protocol.record import Arguments, Details, JobRecord, ResultRecord, encode
from darkq.protocol.result import Result, build_result
from darkq.telemetry.tracing import NO_CONTEXT
from darkq_worker.leases import Claim
from darkq_worker.upstreams.base import Request
from darkq_worker.writing.attempt_log import Entry

# Never in a repr by chance: hypothesis likes to try the names that it finds in our code. A repr
# may escape it, so no quotes or controls.
secrets = st.text(st.characters(categories=["Lu", "Ll", "Nd"]), min_size=12, max_size=40).map(
    "ß0".__add__
)


def everything(secret: str) -> list[Any]:
    """One of everything that holds a prompt, a text, a proxy or metadata."""
    keys = JobKeys.new(0)
    message = Message("user", secret)
    parts = Message("user", ({"type": "text", "text": secret},))
    proxy = f"http://user:{secret}@host:1"
    job = Job.create([message, parts], metadata={secret: secret}, proxy=proxy)
    record = JobRecord(k=Arguments(job), et=1)
    details = Details(outcome="completed", metadata=job.metadata)
    result = ResultRecord(
        t=1, et=1, s=True, r=secret, st=1, ft=1, q="q", id=keys.arq_id, d=details
    )  # fmt: skip
    chunk = ev.Chunk(id="1-1", text=secret)
    return [
        message, parts, job, Job.create(secret), record, record.k, details, result,
        build_result(result), chunk, News([chunk], gap=False), Entry("1-1", ev.encode(chunk)),
        Status(job_id="j", state="queued", metadata=job.metadata),
        Request(prompt=secret, proxy=proxy), Request(prompt=(message,)),
        Claim(keys, 0, 1, "w:1", 0, 0, False, encode(record)),
        _EncodedJob.encode(keys, job, NO_CONTEXT, "k"),
    ]  # fmt: skip


@given(secrets)
def test_no_repr_shows_it(secret: str) -> None:
    for thing in everything(secret):
        assert secret not in repr(thing), type(thing)
        assert secret not in repr([thing]), type(thing)
        if not isinstance(thing, Result):  # as a string it is its text, which was asked for
            assert secret not in str(thing), type(thing)


create: Any = Job.create


@pytest.mark.parametrize(
    "bad",
    [
        lambda secret: create("hi", parameters={"tools": [secret, float("nan")]}),
        lambda secret: create("hi", parameters={f"{secret} ": 1}),
        lambda secret: create(secret + "\ud800"),
        lambda secret: create({"role": "user", "content": secret}),
        lambda secret: create([secret]),
        lambda secret: create([{"role": "user", "content": {"text": secret}}]),
        lambda secret: create([{"role": secret, "content": secret}]),
        lambda secret: create("hi", proxy=f"https://user:{secret}@host"),
        lambda secret: create("hi", proxy=f"http://user:{secret}@host:{secret}"),
        lambda secret: create("hi", metadata={secret: 1}),
        lambda secret: create("hi", metadata={"a": secret + "\ud800"}),
        lambda secret: create("hi", model=secret + "\n"),
    ],
)
def test_no_error_quotes_it(bad: Any) -> None:
    secret = "PromptOfSomebody"
    with pytest.raises(InvalidJob) as caught:
        bad(secret)
    assert secret not in str(caught.value)
    assert secret not in repr(caught.value)
