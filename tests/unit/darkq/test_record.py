"""arq's records as JSON, never pickle."""

from __future__ import annotations

import asyncio
import pickle
from typing import Any, cast

import msgspec
import pytest
from arq.jobs import deserialize_job, deserialize_result

from darkq.errors import JobCancelled, JobFailed
from darkq.event import Usage
from darkq.jobs.cancel import CANCELLED
from darkq.protocol import record as rec
from darkq.protocol.job import Job
from darkq.protocol.keys import JobKeys
from darkq.protocol.record import Arguments, Details, Failure, JobRecord, ResultRecord
from darkq.protocol.result import build_result
from darkq.settings.settings import Settings
from darkq_worker.attempts.running import Attempt
from darkq_worker.attempts.settlement import Failed
from darkq_worker.leases import Claim

KEYS = JobKeys(0, "ab" * 16)


def result(answer: str | Failure = "text", **details: Any) -> ResultRecord:
    return ResultRecord(
        t=2,
        et=100,
        s=isinstance(answer, str),
        r=answer,
        st=200,
        ft=300,
        q="darkq:{0}:interactive",
        id=KEYS.arq_id,
        d=Details(**{"outcome": "completed", **details}),
    )


def test_a_job_record_comes_back_as_it_went() -> None:
    job = Job.create("hi", model="m", tries=2, metadata={"a": "b"})
    record = JobRecord(k=Arguments(job), et=7)
    assert rec.decode_job(rec.encode(record)) == record
    assert record.job is job


def test_the_records_are_versioned_and_bear_arqs_names() -> None:
    job = msgspec.json.decode(rec.encode(JobRecord(k=Arguments(Job.create("hi")), et=7)))
    assert job == {"v": 1, "f": "generate", "a": [], "k": {"job": {"prompt": "hi"}},
                   "et": 7}  # fmt: skip
    done = msgspec.json.decode(rec.encode(result()))
    assert done.keys() == {"v", "t", "f", "a", "k", "et", "s", "r", "st", "ft", "q", "id", "d"}


def test_a_record_says_the_lowest_version_that_reads_it() -> None:
    """Red where a worker of version 1 is handed a word that it takes for a corrupt record."""
    versions = {}
    for word in ("max_tokens", "max_completion_tokens"):
        record = JobRecord(k=Arguments(Job.create("hi", options={word: 7})), et=7)
        data = rec.encode(record)
        versions[word] = rec.decode_head(data).v
        assert rec.decode_job(data).job == record.job
    assert versions == {"max_tokens": 1, "max_completion_tokens": 2}


def test_arq_reads_a_job() -> None:
    job = Job.create("hi", metadata={"a": "b"})
    data = rec.encode(JobRecord(k=Arguments(job), et=1_700_000_000_000))
    definition = deserialize_job(data, deserializer=rec.deserialize)
    assert (definition.function, definition.args, definition.kwargs) == (
        "generate",
        (),
        {"job": job},
    )
    assert definition.enqueue_time.timestamp() == 1_700_000_000


def test_arq_reads_a_result() -> None:
    found = deserialize_result(rec.encode(result("a text")), deserializer=rec.deserialize)
    assert (found.success, found.result, found.job_try) == (True, "a text", 2)
    assert (found.job_id, found.queue_name) == (KEYS.arq_id, "darkq:{0}:interactive")
    assert not found.args
    assert not found.kwargs


def test_arq_sees_a_failure_as_an_exception() -> None:
    failure = Failure(type="JobFailed", code="truncated", message="cut off")
    data = rec.encode(result(failure, outcome="failed"))
    found = deserialize_result(data, deserializer=rec.deserialize)
    assert not found.success
    assert isinstance(found.result, JobFailed)
    assert (found.result.job_id, found.result.code) == (KEYS.public_id, "truncated")


def test_arq_sees_a_cancelled_job_as_cancelled() -> None:
    data = rec.encode(result(CANCELLED, outcome="cancelled"))
    found = deserialize_result(data, deserializer=rec.deserialize)
    assert not found.success
    assert isinstance(found.result, asyncio.CancelledError)


def test_a_result_as_people_see_it() -> None:
    usage = Usage(prompt_tokens=3, completion_tokens=4)
    record = result("ü", model="m", upstream="u", finish_reason="length", usage=usage, chunks=9,
                    metadata={"a": "b"})  # fmt: skip
    answer = build_result(rec.decode_result(rec.encode(record)))
    assert str(answer) == answer.text == "ü"
    assert (answer.job_id, answer.attempt, answer.chunks) == (KEYS.public_id, 2, 9)
    assert (answer.finish_reason, answer.usage, answer.metadata) == ("length", usage, {"a": "b"})
    assert (answer.queued_ms, answer.started_ms, answer.finished_ms) == (100, 200, 300)


def test_a_result_without_text_is_an_error() -> None:
    with pytest.raises(JobCancelled) as cancelled:
        build_result(result(CANCELLED, outcome="cancelled"))
    assert cancelled.value.job_id == KEYS.public_id
    with pytest.raises(JobFailed) as failed:
        build_result(result(Failure(type="JobFailed", code="c", message="m"), outcome="failed"))
    assert (failed.value.code, failed.value.message) == ("c", "m")


def test_a_field_of_a_later_version_is_passed_over() -> None:
    fields = msgspec.json.decode(rec.encode(result())) | {"new": {"a": 1}}
    assert rec.decode_result(msgspec.json.encode(fields)) == result()


@pytest.mark.parametrize("data", [b"", b"{}", b"null", b'"text"', b'{"t":1,"r":"x"}'])
def test_what_is_no_record_is_refused(data: bytes) -> None:
    for read in (rec.decode_job, rec.decode_result, rec.deserialize):
        with pytest.raises(msgspec.DecodeError):
            read(data)


def test_a_pickle_is_not_loaded() -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return pytest.fail, ("a pickle was loaded",)

    with pytest.raises(msgspec.DecodeError):
        rec.deserialize(pickle.dumps(Bomb()))


def test_only_plain_data_is_serialized() -> None:
    assert rec.serialize({"a": 1}) == b'{"a":1}'
    with pytest.raises(TypeError):
        rec.serialize({"a": object()})


@pytest.mark.parametrize("data", [b"{}", b"\xff", b'{"et":1,"k":{"job":{"prompt":"\xff"}}}'])
async def test_a_job_whose_record_cannot_be_read_fails_and_does_not_haunt_the_workers(
    data: bytes, settings: Settings
) -> None:
    """Red when `Attempt` catches msgspec's errors alone: bytes that are no UTF-8 raise another."""
    claim = Claim(KEYS, 0, 1, "w:1", 0, 0, False, data)
    outcome = await Attempt(claim, settings).run(cast(Any, None))
    assert isinstance(outcome, Failed)
    assert outcome.code == "bad_record"
