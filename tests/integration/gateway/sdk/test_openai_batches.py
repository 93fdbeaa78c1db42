"""Batches over files, by OpenAI's own SDK, run by workers that may die."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

import openai
import pytest
from openai import AsyncOpenAI
from openai.types import Batch
from openai.types.chat import ChatCompletion
from redis.asyncio import Redis

from darkq import Client, JobNotFound, Settings
from darkq.protocol.keys import BatchKeys
from darkq_local.faults import Fault
from darkq_local.local_darkai import LocalDarkAI
from support.http_api import Api
from support.processes import WorkerProcess
from support.waiting import wait_until

Working = Callable[..., Awaitable[LocalDarkAI]]
CHAT: Final = "/v1/chat/completions"


OF_RESPONSES = (
    b'{"custom_id": "1", "method": "POST", "url": "/v1/responses", "body": {"input": "Hi"}}\n'
)

WITHOUT_ID = b'{"method": "POST", "url": "/v1/chat/completions", "body": {"messages": []}}\n'
MISSING = "missing_required_parameter"


def lines(count: int, model: str = "llama-3-70b") -> bytes:
    return b"".join(
        json.dumps(
            {
                "custom_id": f"request-{n}",
                "method": "POST",
                "url": CHAT,
                "body": {"model": model, "messages": [{"role": "user", "content": f"Count {n}"}]},
            }
        ).encode()
        + b"\n"
        for n in range(count)
    )


async def order(sdk: AsyncOpenAI, data: bytes, **more: Any) -> Batch:
    stored = await sdk.files.create(file=data, purpose="batch")
    return await sdk.batches.create(
        input_file_id=stored.id, endpoint=CHAT, completion_window="24h", **more
    )


async def ended(sdk: AsyncOpenAI, batch_id: str, timeout_s: float = 50) -> Batch:
    async def now() -> Batch | None:
        batch = await sdk.batches.retrieve(batch_id)
        final = ("completed", "failed", "expired", "cancelled")
        return batch if batch.status in final else None

    found = await wait_until("the batch ends", now, timeout_s=timeout_s)
    assert found is not None
    return found


async def read(sdk: AsyncOpenAI, file_id: str | None) -> list[dict[str, Any]]:
    if file_id is None:
        return []
    text = (await sdk.files.content(file_id)).content
    return [json.loads(line) for line in text.splitlines()]


async def test_every_request_is_answered_once(sdk: AsyncOpenAI, working: Working) -> None:
    await working(chunks=3)
    batch = await order(sdk, lines(250), metadata={"order": "17"})
    assert (batch.status, batch.metadata) == ("validating", {"order": "17"})
    batch = await ended(sdk, batch.id)
    assert batch.status == "completed"
    assert batch.request_counts is not None
    assert (batch.request_counts.completed, batch.request_counts.failed) == (250, 0)
    answers = await read(sdk, batch.output_file_id)
    assert sorted(a["custom_id"] for a in answers) == sorted(f"request-{n}" for n in range(250))
    for answer in answers:
        assert answer["error"] is None
        assert ChatCompletion.model_validate(answer["response"]["body"]).choices[0].message.content
    assert batch.error_file_id is None


async def test_a_record_outlives_its_batch(
    sdk: AsyncOpenAI, working: Working, redis: Redis
) -> None:
    await working(chunks=3)
    batch = await ended(sdk, (await order(sdk, lines(2))).id)
    await redis.delete(BatchKeys.parse(batch.id).batch)
    assert await sdk.batches.retrieve(batch.id) == batch
    assert [each async for each in sdk.batches.list()] == [batch]
    assert batch.request_counts is not None
    assert batch.request_counts.completed == 2


async def test_what_failed_is_in_the_error_file(sdk: AsyncOpenAI, working: Working) -> None:
    await working(chunks=3)
    batch = await ended(sdk, (await order(sdk, lines(3) + lines(5, "gpt-17")[-200:])).id)
    assert batch.status == "failed"  # half a line is no request
    data = lines(3) + lines(5, "gpt-17")[len(lines(3, "gpt-17")) :]
    batch = await ended(sdk, (await order(sdk, data)).id)
    assert batch.status == "completed"
    errors = await read(sdk, batch.error_file_id)
    assert {e["custom_id"] for e in errors} == {"request-3", "request-4"}
    for line in errors:
        assert line["error"] is None
        assert line["response"]["status_code"] == 404
        error = line["response"]["body"]["error"]
        assert (error["code"], error["param"]) == ("model_not_found", "model")
    assert len(await read(sdk, batch.output_file_id)) == 3


async def test_a_refused_request_fails_alone(sdk: AsyncOpenAI, working: Working) -> None:
    """Red if one parameter that cannot be honoured fails the requests of all others."""
    await working(chunks=1)
    hello = {"model": "llama-3-70b", "messages": [{"role": "user", "content": "Hi"}]}
    refused: dict[str, tuple[dict[str, Any], str]] = {
        "n": (hello | {"n": 2}, "n"),
        "hot": (hello | {"temperature": 9}, "temperature"),
        "tools": (hello | {"tools": [{}], "tool_choice": "required"}, "tools"),
        "image": (hello | {"messages": [{"role": "user", "content": [{}]}]}, "messages[0]"),
        "empty": ({"model": "llama-3-70b"}, "messages"),
    }
    data = lines(3) + b"".join(
        json.dumps({"custom_id": name, "method": "POST", "url": CHAT, "body": body}).encode()
        + b"\n"
        for name, (body, _) in refused.items()
    )
    batch = await ended(sdk, (await order(sdk, data)).id)
    assert (batch.status, batch.errors) == ("completed", None)
    counts = batch.request_counts
    assert counts is not None
    assert (counts.total, counts.completed, counts.failed) == (8, 3, 5)
    assert len(await read(sdk, batch.output_file_id)) == 3
    errors = {line["custom_id"]: line for line in await read(sdk, batch.error_file_id)}
    assert errors.keys() == refused.keys()
    for name, (_, param) in refused.items():
        assert errors[name]["error"] is None
        assert errors[name]["response"]["status_code"] == 400
        error = errors[name]["response"]["body"]["error"]
        assert error["param"] == param
        assert error["message"].startswith(f"{param}: ")
        assert error["type"] == "invalid_request_error"


async def test_a_batch_of_nothing_but_refused_requests_ends(
    sdk: AsyncOpenAI, working: Working
) -> None:
    """Red if a batch waits for jobs that there are none of, or does not count what was refused."""
    await working()
    bad = b'{"custom_id": "a", "method": "POST", "url": "%b", "body": {}}\n' % CHAT.encode()
    batch = await ended(sdk, (await order(sdk, bad)).id)
    assert (batch.status, batch.output_file_id) == ("completed", None)
    assert batch.request_counts is not None
    assert (batch.request_counts.total, batch.request_counts.failed) == (1, 1)
    assert len(await read(sdk, batch.error_file_id)) == 1


async def test_what_a_key_may_not_ask_for_fails_alone(
    api: Api, working: Working, make_key: Callable[..., Awaitable[str]]
) -> None:
    """Red if one such line fails the batch, or if it is answered."""
    await working(chunks=1)
    key = await make_key(models=["llama-3-70b"], max_prompt_bytes=9)
    data = lines(2) + lines(3, "gpt-4o")[len(lines(2, "gpt-4o")) :]
    data += lines(4)[len(lines(3)) :].replace(b"Count", b"Count slowly")
    async with AsyncOpenAI(base_url=f"{api.url}/v1", api_key=key, max_retries=0) as sdk:
        batch = await ended(sdk, (await order(sdk, data)).id)
        errors = {line["custom_id"]: line for line in await read(sdk, batch.error_file_id)}
        assert len(await read(sdk, batch.output_file_id)) == 2
    assert {n: line["response"]["status_code"] for n, line in errors.items()} == {
        "request-2": 403,
        "request-3": 413,
    }


@pytest.mark.parametrize("store", [True, False])
async def test_a_response_of_a_batch_can_be_retrieved(
    sdk: AsyncOpenAI, working: Working, store: bool
) -> None:
    """Red if its id is none of `/v1/responses`, or if what one gets there is another object."""
    await working(chunks=3)
    body = {
        "model": "llama-3-70b",
        "input": "Hi",
        "metadata": {"order": "17"},
        "user": "u",
        "store": store,
        "background": True,
    }
    line = {"custom_id": "a", "method": "POST", "url": "/v1/responses", "body": body}
    stored = await sdk.files.create(file=json.dumps(line).encode(), purpose="batch")
    begun = await sdk.batches.create(
        input_file_id=stored.id, endpoint="/v1/responses", completion_window="24h"
    )
    batch = await ended(sdk, begun.id)
    (answer,) = await read(sdk, batch.output_file_id)
    said = answer["response"]["body"]
    assert (said["metadata"], said["user"], said["store"]) == ({"order": "17"}, "u", store)
    if not store:
        with pytest.raises(openai.NotFoundError):
            await sdk.responses.retrieve(said["id"])
        return
    assert (await sdk.responses.retrieve(said["id"])).to_dict() == said
    reference: Any = [{"type": "item_reference", "id": said["output"][0]["id"]}]
    again = await sdk.responses.create(model="llama-3-70b", input=reference)
    assert again.status == "completed"
    await sdk.responses.delete(said["id"])
    with pytest.raises(openai.NotFoundError):
        await sdk.responses.retrieve(said["id"])


async def test_the_ids_of_a_batch_are_like_live_ones(sdk: AsyncOpenAI, working: Working) -> None:
    """Red if a chat has another kind of id in a batch."""
    await working(chunks=1)
    hello: Any = [{"role": "user", "content": "Hi"}]
    live = await sdk.chat.completions.create(model="llama-3-70b", messages=hello)
    batch = await ended(sdk, (await order(sdk, lines(1))).id)
    (answer,) = await read(sdk, batch.output_file_id)
    form = re.compile(r"chatcmpl-\d+-[0-9a-f]{32}")
    assert form.fullmatch(live.id)
    assert form.fullmatch(answer["response"]["body"]["id"])


@pytest.mark.parametrize(
    ("data", "code", "line"),
    [
        (b"", "empty_file", None),
        (lines(2) + b"{nonsense\n", "invalid_json_line", 3),
        (lines(2) + lines(1), "duplicate_custom_id", 3),
        (WITHOUT_ID + lines(2), MISSING, 1),
        (lines(2) + WITHOUT_ID.replace(b"{", b'{"custom_id": null, ', 1), MISSING, 3),
        (OF_RESPONSES, "mismatched_url", 1),
        (lines(2).decode().encode("utf-16"), "invalid_json_line", 1),
        (lines(1) + b"\0" * 512 + b"\n", "invalid_json_line", 2),
    ],
)
async def test_a_bad_input_fails_with_its_line(
    sdk: AsyncOpenAI, working: Working, data: bytes, code: str, line: int | None
) -> None:
    await working()
    batch = await ended(sdk, (await order(sdk, data)).id)
    assert batch.status == "failed"
    assert batch.errors is not None
    assert batch.errors.data is not None
    assert (batch.errors.data[0].code, batch.errors.data[0].line) == (code, line)


async def test_files_of_windows_and_of_azure_are_read_as_the_command_reads_them(
    sdk: AsyncOpenAI, working: Working
) -> None:
    """Red when a byte order mark is text, or `/chat/completions` another endpoint."""
    await working(chunks=3)
    first, second = lines(2).replace(CHAT.encode(), b"/chat/completions").splitlines()
    joined = b"\xef\xbb\xbf" + first + b"\r\n" + b"\xef\xbb\xbf" + second
    stored = await sdk.files.create(file=joined, purpose="batch")
    endpoint: Any = "/chat/completions"
    batch = await sdk.batches.create(
        input_file_id=stored.id, endpoint=endpoint, completion_window="24h"
    )
    batch = await ended(sdk, batch.id)
    assert (batch.status, batch.endpoint) == ("completed", CHAT)
    answers = await read(sdk, batch.output_file_id)
    assert sorted(answer["custom_id"] for answer in answers) == ["request-0", "request-1"]


async def test_a_cancelled_batch_keeps_what_was_answered(
    sdk: AsyncOpenAI, working: Working
) -> None:
    await working(Fault.parse("slow=0"), chunks=2, chunks_per_s=4)
    batch = await order(sdk, lines(3000))

    async def some_are_answered() -> bool:
        counts = (await sdk.batches.retrieve(batch.id)).request_counts
        return counts is not None and counts.completed > 0

    await wait_until("some are answered", some_are_answered, timeout_s=30)
    cancelling = await sdk.batches.cancel(batch.id)
    assert cancelling.status in ("cancelling", "cancelled")
    assert cancelling.cancelling_at is not None
    batch = await ended(sdk, batch.id)
    assert batch.status == "cancelled"
    assert batch.cancelling_at == cancelling.cancelling_at
    assert cancelling.cancelling_at is not None
    assert batch.cancelled_at is not None
    assert batch.created_at <= cancelling.cancelling_at <= batch.cancelled_at
    answers, errors = await read(sdk, batch.output_file_id), await read(sdk, batch.error_file_id)
    assert 0 < len(answers) < 3000
    told = [line["custom_id"] for line in answers + errors]
    assert sorted(told) == sorted(f"request-{n}" for n in range(3000))
    with pytest.raises(openai.ConflictError):
        await sdk.batches.cancel(batch.id)


async def test_a_running_response_of_a_batch_that_is_deleted_does_not_keep_it_open(
    sdk: AsyncOpenAI, working: Working, client: Client
) -> None:
    """Red if the batch never ends, or if the line is in neither file or in both."""
    await working(chunks=50, chunks_per_s=50)
    data = b"".join(OF_RESPONSES.replace(b'"1"', b'"%d"' % n) for n in range(3))
    stored = await sdk.files.create(file=data, purpose="batch")
    begun = await sdk.batches.create(
        input_file_id=stored.id, endpoint="/v1/responses", completion_window="24h"
    )
    job_id = BatchKeys.parse(begun.id).job(2).public_id

    async def runs() -> bool:
        with suppress(JobNotFound):
            return (await client.job(job_id).status()).state == "running"
        return False

    await wait_until("the second line runs", runs)
    await sdk.responses.delete(f"resp_{job_id}")
    batch = await ended(sdk, begun.id)
    assert batch.status == "completed"
    answers, errors = [await read(sdk, f) for f in (batch.output_file_id, batch.error_file_id)]
    assert sorted(line["custom_id"] for line in answers + errors) == ["0", "1", "2"]


@pytest.mark.slow
async def test_a_batch_outlives_the_workers_that_run_it(
    sdk: AsyncOpenAI,
    make_settings: Callable[..., Settings],
    start_darkai: Callable[..., Awaitable[LocalDarkAI]],
    start_process: Callable[[Settings], WorkerProcess],
) -> None:
    darkai = await start_darkai(chunks=3, chunks_per_s=20)
    settings = make_settings(darkai_url=darkai.url, worker_lease_s=1.0, worker_max_lost_leases=50)
    batch = await order(sdk, lines(1000))
    worker = start_process(settings)
    for share in (0.1, 0.6):

        async def has_come_so_far(share: float = share) -> bool:
            counts = (await sdk.batches.retrieve(batch.id)).request_counts
            return counts is not None and counts.completed >= share * 1000

        await wait_until(f"{share:.0%} are answered", has_come_so_far, timeout_s=40)
        worker.end()
        worker = start_process(settings)
    batch = await ended(sdk, batch.id)
    answers = await read(sdk, batch.output_file_id)
    assert sorted(a["custom_id"] for a in answers) == sorted(f"request-{n}" for n in range(1000))


async def test_batches_are_listed_by_tenant(
    api: Api, make_key: Callable[..., Awaitable[str]]
) -> None:
    alice, bob = [
        AsyncOpenAI(base_url=f"{api.url}/v1", api_key=await make_key(name), max_retries=0)
        for name in ("alice", "bob")
    ]
    ordered = [(await order(alice, lines(1))).id for _ in range(3)]
    assert [batch.id async for batch in alice.batches.list(limit=2)] == ordered[::-1]
    assert [batch async for batch in bob.batches.list()] == []
    for call in (bob.batches.retrieve, bob.batches.cancel):
        with pytest.raises(openai.NotFoundError):
            await call(ordered[0])
    stored = await alice.files.create(file=lines(1), purpose="batch")
    with pytest.raises(openai.NotFoundError):
        await bob.batches.create(input_file_id=stored.id, endpoint=CHAT, completion_window="24h")
    for client in (alice, bob):
        await client.close()


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"endpoint": "/v1/embeddings"}, "endpoint"),
        ({"completion_window": "1h"}, "completion_window"),
        ({"extra_body": {"nonsense": 1}}, "nonsense"),
    ],
)
async def test_what_cannot_be_honoured_is_refused_by_name(
    sdk: AsyncOpenAI, change: dict[str, Any], param: str
) -> None:
    asked: Any = {"input_file_id": "file-1", "endpoint": CHAT, "completion_window": "24h"}
    with pytest.raises(openai.BadRequestError) as refused:
        await sdk.batches.create(**{**asked, **change})
    assert refused.value.param == param


async def test_the_output_expires_when_the_batch_says(sdk: AsyncOpenAI, working: Working) -> None:
    """Red if `output_expires_after` is refused, or does not come as far as the worker."""
    await working(chunks=1)
    expiry: Any = {"anchor": "created_at", "seconds": 3600}
    batch = await ended(sdk, (await order(sdk, lines(2), output_expires_after=expiry)).id)
    assert batch.output_file_id is not None
    output = await sdk.files.retrieve(batch.output_file_id)
    assert output.expires_at == output.created_at + 3600
    with pytest.raises(openai.BadRequestError) as refused:
        await order(sdk, lines(2), output_expires_after=expiry | {"seconds": 60})
    assert refused.value.param == "output_expires_after.seconds"
