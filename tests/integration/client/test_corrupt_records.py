"""Whatever stands in place of a job's records, callers hear one typed error, and no content."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from darkq import Client, CorruptRecord, DarkqError
from darkq import event as ev
from darkq.protocol.keys import JobKeys, PartitionKeys
from darkq.protocol.record import encode
from support.by_hand import result_record

HOSTILE = {
    "nothing": b"",
    "no JSON": b"\x80\x04\x95hunter2",
    "another shape": b'{"hunter2": 1}',
    "no text": b'{"v": 1, "r": "\xff\xfehunter2"}',
    "a wrong type": b'{"v": "hunter2"}',
    "deep": b'{"hunter2":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
}


@pytest.fixture(params=HOSTILE)
def record(request: pytest.FixtureRequest) -> bytes:
    name: str = request.param
    return HOSTILE[name]


def check(error: CorruptRecord, keys: JobKeys) -> None:
    assert isinstance(error, DarkqError)
    assert error.job_id == keys.public_id
    assert keys.public_id in str(error)
    assert "hunter2" not in str(error)
    assert error.__cause__ is None
    assert error.__suppress_context__


@pytest.mark.parametrize("call", ["status", "cancel"])
async def test_a_waiting_jobs_record(
    client: Client, redis: Redis, record: bytes, call: str
) -> None:
    job = await client.enqueue("hi")
    keys = JobKeys.parse(job.id)
    await redis.set(keys.job, record, px=60_000)
    with pytest.raises(CorruptRecord) as caught:
        await getattr(job, call)()
    check(caught.value, keys)


@pytest.mark.parametrize("call", ["status", "result", "retry"])
async def test_a_finished_jobs_record(
    client: Client, redis: Redis, record: bytes, call: str
) -> None:
    keys = JobKeys.new(0)
    await redis.set(keys.result, record, px=60_000)
    with pytest.raises(CorruptRecord) as caught:
        await getattr(client.job(keys.public_id), call)()
    check(caught.value, keys)


async def test_a_failed_jobs_record_hides_no_other(
    client: Client, redis: Redis, record: bytes
) -> None:
    keys = JobKeys.new(0)
    await redis.set(keys.result, record, px=60_000)
    await redis.zadd(PartitionKeys(0).failed, {keys.arq_id: 1, "no id": 2})
    await redis.pexpire(PartitionKeys(0).failed, 60_000)
    (listed,) = [job async for job in client.failed()]
    assert (listed.job_id, listed.code, listed.kept) == (keys.public_id, "corrupt_record", False)
    assert "secret" not in listed.message


async def test_the_events_of_a_job_whose_log_has_gone(
    client: Client, redis: Redis, record: bytes
) -> None:
    keys = JobKeys.new(0)
    await redis.set(keys.result, record, px=60_000)
    with pytest.raises(CorruptRecord) as caught:
        _ = [event async for event in client.job(keys.public_id).events()]
    check(caught.value, keys)


HISTORIES = {
    "no started": b'[{"hunter2":1},[["chunk",0,"("]],"",[],[]]',
    "no size": b'[START,[["chunk",0,""],["chunk",0,"("]],"",[],[]]',
    "a wrong size": b'[START,[["chunk",0,"\'"]],"",[],[]]',
    "another kind": b'[START,[["hunter2",0,"("]],"",[],[]]',
    "a missing event": b'[START,[["event",0,"("]],"",[],[]]',
    "a missing call": b'[START,[["chunk",0,"("],["tool_call",0,"#"]],"",[],[]]',
    "a foreign event": b'[START,[["chunk",0,"("]],"",[],["hunter2"]]',
}


@pytest.mark.parametrize("history", HISTORIES)
@pytest.mark.parametrize("call", ["events", "latest_event", "latest_attempt"])
async def test_a_history_that_does_not_fit_its_answer(
    client: Client, redis: Redis, history: str, call: str
) -> None:
    """Red with a wrong text, or an error of Python."""
    keys = JobKeys.new(0)
    begin = ev.encode(ev.Started(id="1-0", attempt=1, model="m", upstream="u", at_ms=1))
    record = encode(result_record(keys, "hello"))[:-1] + b',"h":%b}'
    await redis.set(keys.result, record % HISTORIES[history].replace(b"START", begin), px=60_000)
    job = client.job(keys.public_id)
    with pytest.raises(CorruptRecord) as caught:
        _ = (
            [event async for event in job.events()]
            if call == "events"
            else await getattr(job, call)()
        )
    check(caught.value, keys)
    assert (await job.result()).text == "hello"


async def test_the_latest_jobs_but_for_one(client: Client, redis: Redis, record: bytes) -> None:
    jobs = [await client.enqueue("a") for _ in range(3)]
    await redis.set(JobKeys.parse(jobs[1].id).job, record, px=60_000)
    listed = await client.jobs()
    assert {status.job_id for status in listed} == {jobs[0].id, jobs[2].id}
    await redis.flushall()
