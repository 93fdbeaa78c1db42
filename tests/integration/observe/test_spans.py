"""The spans of producer, worker and reader in one process that traces, with the real SDK."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode
from redis.asyncio import Redis

from darkq import Client, InvalidJob, Job, JobFailed, JobNotFound, QueueFull, Settings
from darkq.event import Chunk, Completed, Started
from darkq.protocol.keys import JobKeys, PartitionKeys
from darkq.protocol.record import Arguments, JobRecord, encode
from darkq.sync import Client as SyncClient
from darkq.telemetry.tracing import NO_CONTEXT, TraceContext
from darkq_local.faults import Fault
from darkq_local.local_darkai import LocalDarkAI
from support.by_hand import Hand, chunk, put, started
from support.openai_frames import DONE, delta, finish, usage
from support.scripted_http import ScriptedServer, Step, head
from support.waiting import wait_until

from .conftest import Traced

StartDarkAI = Callable[..., Awaitable[LocalDarkAI]]
StartWorker = Callable[[Settings], asyncio.Task[None]]
MakeSettings = Callable[..., Settings]

PROMPT = "canary-prompt-5f3a"
METADATA = "canary-metadata-77"
SECRETS = (PROMPT, METADATA, "canary-stop", "canary-answer", "canary-key")
PARENT = f"00-{'ab' * 16}-{'cd' * 8}-01"
ANSWER: list[Step] = [head(), delta("canary-answer") + finish("length") + usage(3, 1) + DONE]


def trace_of(span: Any) -> int:
    return int(span.context.trace_id)


def is_child(span: Any, parent: Any) -> bool:
    return bool(span.parent is not None and span.parent.span_id == parent.context.span_id)


async def all_ended(traced: Traced, *names: str) -> None:
    """Wait until there is a span of each name: an attempt's ends after its job."""
    await wait_until(f"spans {names}", lambda: all(map(traced.named, names)))


async def test_one_job_is_one_trace(
    traced: Traced,
    client: Client,
    make_settings: MakeSettings,
    start_worker: StartWorker,
) -> None:
    async with ScriptedServer(ANSWER) as server:
        other = {"url": server.url.replace("/chat", "/v1"), "models": "m", "api_key": "canary-key"}
        start_worker(make_settings(darkai_url="none", upstreams={"other": other}))
        job = await client.enqueue(
            PROMPT,
            metadata={"user": METADATA},
            options={"temperature": 0.5, "stop": "canary-stop"},
        )
        events = [event async for event in job.events()]
        await all_ended(traced, "enqueue", "attempt", "chat m", "tail")
        (asked,) = server.requests
    enqueue, attempt = traced.one("enqueue"), traced.one("attempt")
    call, tail = traced.one("chat m"), traced.one("tail")
    assert {trace_of(span) for span in traced.spans} == {trace_of(enqueue)}
    assert enqueue.parent is None
    assert is_child(attempt, enqueue)
    assert is_child(call, attempt)
    assert is_child(tail, attempt)
    assert [span.kind for span in (enqueue, attempt, call, tail)] == [
        SpanKind.PRODUCER, SpanKind.CONSUMER, SpanKind.CLIENT, SpanKind.CONSUMER,
    ]  # fmt: skip
    assert {s.attributes["messaging.message.id"] for s in (enqueue, attempt, tail)} == {job.id}
    told = {**attempt.attributes}
    assert (told["darkq.attempt"], told["darkq.outcome"], told["darkq.chars"]) == (
        1, "completed", len("canary-answer"),
    )  # fmt: skip
    told = {**call.attributes}
    assert told["gen_ai.provider.name"] == "other"
    assert told["gen_ai.request.temperature"] == 0.5
    assert told["gen_ai.response.finish_reasons"] == ("length",)
    assert (told["gen_ai.usage.input_tokens"], told["gen_ai.usage.output_tokens"]) == (3, 1)
    assert (told["server.port"], told["http.response.status_code"]) == (server.port, 200)
    for span in (attempt, call, tail):
        assert [event.name for event in span.events] == ["first chunk"]
        assert span.status.status_code is StatusCode.UNSET
    assert [link.context.span_id for link in tail.links] == [attempt.context.span_id]
    (begun,) = [event for event in events if isinstance(event, Started)]
    assert begun.traceparent.split("-")[2] == f"{attempt.context.span_id:016x}"
    assert "traceparent" not in asked.headers, "nobody has asked for it to be sent there"
    assert not [secret for secret in SECRETS if secret in traced.everything]


@pytest.mark.parametrize("sends", [True, False])
async def test_an_upstream_is_sent_the_trace_if_its_setting_says_so(
    traced: Traced, client: Client, make_settings: MakeSettings, start_worker: StartWorker,
    sends: bool,
) -> None:  # fmt: skip
    async with ScriptedServer(ANSWER) as server:
        url = server.url.replace("/chat", "/v1")
        other = {"url": url, "models": "m", "sends_trace": sends}
        changes = {"darkai_url": server.url, "darkai_sends_trace": sends}
        start_worker(make_settings(**changes, upstreams={"other": other}))
        await (await client.enqueue(PROMPT, model="m")).result(timeout_s=10)
        with pytest.raises(JobFailed):  # the answer is not of its wire
            await (await client.enqueue(PROMPT, tries=1)).result(timeout_s=10)
        await wait_until("both calls", lambda: len(traced.named("attempt")) == 2)
        calls = [*traced.named("chat m"), *traced.named("chat llama-3-70b")]
        sent = [request.headers.get("traceparent", "") for request in server.requests]
    assert [text.split("-")[2] if text else "" for text in sent] == [
        f"{call.context.span_id:016x}" if sends else "" for call in calls
    ]


async def test_each_attempt_is_a_span_and_says_why_it_failed(
    traced: Traced, client: Client, make_settings: MakeSettings, start_darkai: StartDarkAI,
    start_worker: StartWorker,
) -> None:  # fmt: skip
    darkai = await start_darkai(Fault.parse("429"), Fault.parse("truncate=2"))
    start_worker(make_settings(darkai_url=darkai.url, retry_base_s=0.01))
    with pytest.raises(JobFailed):
        await (await client.enqueue(PROMPT, tries=2)).result(timeout_s=10)
    await wait_until("both attempts", lambda: len(traced.named("attempt")) == 2)
    first, second = traced.named("attempt")
    assert is_child(first, traced.one("enqueue"))
    assert is_child(second, traced.one("enqueue"))
    told = [
        (span.attributes["darkq.try"], span.attributes["darkq.outcome"],
         span.attributes["error.type"], [event.name for event in span.events])
        for span in (first, second)
    ]  # fmt: skip
    assert told == [
        (1, "retrying", "rate_limited", ["retry"]),
        (2, "failed", "truncated", ["first chunk"]),
    ]
    for span in (first, second, *traced.named("chat llama-3-70b")):
        assert span.status.status_code is StatusCode.ERROR
        assert span.status.description is None
        assert "exception" not in {event.name for event in span.events}


async def test_a_cancelled_job_is_no_error(
    traced: Traced, client: Client, make_settings: MakeSettings, start_darkai: StartDarkAI,
    start_worker: StartWorker,
) -> None:  # fmt: skip
    darkai = await start_darkai(chunks=1000, chunks_per_s=50)
    start_worker(make_settings(darkai_url=darkai.url))
    job = await client.enqueue(PROMPT)
    async for event in job.events():
        if isinstance(event, Chunk):
            await job.cancel()
    await all_ended(traced, "attempt", "tail")
    for name in ("attempt", "chat llama-3-70b"):
        span = traced.one(name)
        assert [event.name for event in span.events] == ["first chunk", "cancelled"]
        assert span.status.status_code is StatusCode.UNSET
    assert traced.one("tail").attributes["darkq.outcome"] == "cancelled"


async def test_a_lost_lease_is_told_by_the_span_of_who_lost_it(
    traced: Traced, client: Client, redis: Redis, make_settings: MakeSettings,
    start_darkai: StartDarkAI, start_worker: StartWorker,
) -> None:  # fmt: skip
    darkai = await start_darkai(chunks=1000, chunks_per_s=50)
    start_worker(make_settings(darkai_url=darkai.url, worker_lease_s=1))
    job = await client.enqueue(PROMPT)
    async for event in job.events():
        if isinstance(event, Chunk):
            break
    await redis.set(JobKeys.parse(job.id).in_progress, b"somebody", keepttl=True)
    await redis.incr(JobKeys.parse(job.id).retry)
    await all_ended(traced, "attempt")
    attempt = traced.named("attempt")[0]
    assert attempt.attributes["error.type"] == "lease_lost"
    assert attempt.events[-1].name == "lease lost"
    await job.cancel()


async def test_a_reader_within_a_trace_of_its_own_stays_there_and_links(
    traced: Traced, client: Client, redis: Redis
) -> None:
    hand = Hand(redis)
    claim = await hand.take()
    begun = Started(id="1-0", attempt=1, model="m", upstream="u", at_ms=1, traceparent=PARENT)
    await hand.append(claim, begun, chunk(1, 1), chunk(1, 2))
    await hand.complete(claim, "xx", begun.cursor._replace(seq=3))
    with traced.tracer.start_as_current_span("page"):
        # In the middle of the attempt: which one it is, stands before the cursor.
        job = client.job(claim.keys.public_id)
        seen = [event.id async for event in job.events(after="1-1")]
        current = trace.get_current_span()
    assert current.get_span_context().span_id == traced.one("page").context.span_id
    assert seen == ["1-2", "1-3"]
    tail = traced.one("tail")
    assert is_child(tail, traced.one("page"))
    assert [f"{link.context.trace_id:032x}" for link in tail.links] == ["ab" * 16]
    assert (tail.attributes["darkq.events"], tail.attributes["darkq.outcome"]) == (2, "completed")


async def test_a_reader_that_leaves_is_no_error_and_one_that_finds_nothing_is(
    traced: Traced, client: Client, redis: Redis
) -> None:
    hand = Hand(redis)
    claim = await hand.take()
    await hand.append(claim, started(1), chunk(1, 1))
    events = client.job(claim.keys.public_id).events()
    async for event in events:
        if isinstance(event, Chunk):
            break
    await events.aclose()
    assert traced.one("tail").attributes["darkq.outcome"] == "left"
    assert traced.one("tail").status.status_code is StatusCode.UNSET
    with pytest.raises(JobNotFound):
        [event async for event in client.job(f"0-{'0' * 32}").events()]
    assert traced.named("tail")[1].attributes["error.type"] == "JobNotFound"


async def test_jobs_of_one_call_share_its_span(
    traced: Traced, client: Client, redis: Redis, make_settings: MakeSettings
) -> None:
    jobs = await client.enqueue_many([PROMPT, Job.create("b", priority="bulk")])
    span = traced.one("enqueue")
    assert span.attributes["messaging.batch.message_count"] == 2
    wanted = TraceContext.from_span(trace.NonRecordingSpan(span.context)).traceparent
    for job in jobs:
        record = await redis.get(JobKeys.parse(job.id).job)
        assert json.loads(record)["traceparent"] == wanted
    async with Client(settings=make_settings(queue_max_jobs=1)) as full:
        with pytest.raises(QueueFull):
            await full.enqueue(PROMPT)
    assert traced.named("enqueue")[1].attributes["error.type"] == "QueueFull"
    assert traced.named("enqueue")[1].status.status_code is StatusCode.ERROR
    with pytest.raises(InvalidJob):
        await client.enqueue("")
    assert len(traced.named("enqueue")) == 2


async def test_it_changes_no_idempotency_digest(
    traced: Traced, client: Client, redis: Redis
) -> None:
    first = await client.enqueue(PROMPT, idempotency_key="k")
    digest = await redis.get(PartitionKeys(0).idempotency("k", None))
    second = await client.enqueue(PROMPT, idempotency_key="k")
    assert (second.id, second.duplicate) == (first.id, True)
    assert await redis.get(PartitionKeys(0).idempotency("k", None)) == digest
    assert [span.attributes.get("darkq.duplicate") for span in traced.named("enqueue")] == [
        None, True,
    ]  # fmt: skip
    assert len({trace_of(span) for span in traced.named("enqueue")}) == 2


async def test_the_callers_of_the_sync_client_are_parents_too(
    traced: Traced, make_settings: MakeSettings
) -> None:
    def enqueue() -> None:
        view = traced.tracer.start_as_current_span("view")
        with SyncClient(settings=make_settings()) as client, view:
            client.enqueue(PROMPT)

    await asyncio.to_thread(enqueue)
    assert is_child(traced.one("enqueue"), traced.one("view"))


@pytest.mark.parametrize(
    ("traceparent", "tracestate"),
    [("x", ""), ("", ""), (5, None), ({"a": [1]}, 7),
     (f"00-{'0' * 32}-{'0' * 16}-01", ""), ("x" * 100_000, "x" * 100_000),
     (PARENT + "\nforged", ""), (PARENT, "a=b\nforged,,"),
     (PARENT, "a=" + "b" * 600)],
)  # fmt: skip
async def test_what_a_hostile_record_carries_is_ignored(
    traced: Traced, client: Client, redis: Redis, make_settings: MakeSettings,
    start_darkai: StartDarkAI, start_worker: StartWorker,
    traceparent: Any, tracestate: Any, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    keys = JobKeys.new(0)
    record = JobRecord(
        k=Arguments(Job.create("hi")), et=1, traceparent=traceparent, tracestate=tracestate
    )
    await put(redis, keys, record=encode(record))
    start_worker(make_settings(darkai_url=(await start_darkai()).url))
    events = [event async for event in client.job(keys.public_id).events()]
    assert isinstance(events[-1], Completed)
    await all_ended(traced, "attempt")
    attempt = traced.one("attempt")
    usable = traceparent == PARENT
    assert (attempt.parent is not None) == usable
    assert not attempt.context.trace_state
    assert "forged" not in caplog.text, "which OpenTelemetry itself would quote"


async def test_without_a_provider_there_is_nothing(
    client: Client, redis: Redis, make_settings: MakeSettings, start_darkai: StartDarkAI,
    start_worker: StartWorker,
) -> None:  # fmt: skip
    job = await client.enqueue(PROMPT)
    record = await redis.get(JobKeys.parse(job.id).job)
    assert b"trace" not in record
    start_worker(make_settings(darkai_url=(await start_darkai()).url))
    events = [event async for event in job.events()]
    assert [event.traceparent for event in events if isinstance(event, Started)] == [""]
    assert TraceContext.from_record(record) is NO_CONTEXT


async def test_state_of_other_vendors_travels_with_the_job(
    traced: Traced, client: Client, redis: Redis
) -> None:
    parent = TraceContext.parse(PARENT, "vendor=a b,other@x=1")
    with trace.use_span(trace.NonRecordingSpan(parent.span_context())):  # type: ignore[arg-type]
        job = await client.enqueue(PROMPT)
    carried = TraceContext.from_record(await redis.get(JobKeys.parse(job.id).job))
    assert carried.traceparent.split("-")[1] == "ab" * 16
    assert carried.tracestate == "vendor=a b,other@x=1"
