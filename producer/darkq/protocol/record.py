"""arq's job and result records, as versioned JSON.

arq keeps a job as a dictionary `t f a k et` and a result as the same with `s r st ft q id`,
pickled. Here both are JSON, so that nothing read from Redis can run code, and arq's own
tools read them by way of `serialize` and `deserialize`. A result drops the arguments: the
prompt does not outlive the job. `d` holds what arq has no field for.

`v` is the lowest version of the format that reads a record rightly, which most changes leave as it
is: readers ignore fields that they do not know, and have a default for those that are not there.
What an old reader would get wrong by ignoring it raises `v`, and then it refuses: docs/upgrade.md.

The text of a record, a prompt or an answer, is its last field. So its first few kilobytes tell
whose it is and how it stands, and lists are read without megabytes of texts: `job_head`,
`result_head`.

What a finished job leaves behind, as people see it.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from darkq.errors import CorruptRecord, JobCancelled, JobFailed, NewerRecord
from darkq.event import Usage
from darkq.protocol.job import Job
from darkq.protocol.keys import JobKeys

VERSION = 2
"""The highest version that this one reads.

2: the option `max_completion_tokens`, which readers of version 1 take for no record at all.
"""
FUNCTION = "generate"

R = TypeVar("R")

Outcome: TypeAlias = Literal["completed", "failed", "cancelled"]


class Arguments(msgspec.Struct, frozen=True):
    """Keyword arguments of the function that workers run."""

    job: Job


class JobRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What waits in Redis until a worker has finished it.

    `traceparent` and `tracestate`, where there are any, are W3C's words for whose trace it is part
    of. They say nothing of what is run: one that cannot be read is ignored (`darkq.tracing`).
    """

    v: int = 1
    t: int | None = None
    f: str = FUNCTION
    a: tuple[()] = ()
    et: Annotated[int, msgspec.Meta(ge=0, le=1 << 53)]
    traceparent: Any | UnsetType = UNSET
    tracestate: Any | UnsetType = UNSET
    k: Arguments

    @property
    def job(self) -> Job:
        return self.k.job


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """Why there is no text. `type` names the exception that arq's tools see."""

    type: Literal["JobFailed", "JobCancelled"]
    code: str
    message: str


class Details(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What darkq knows of a finished job beyond arq's record."""

    outcome: Outcome
    model: str = ""
    upstream: str = ""
    finish_reason: str = ""
    usage: Usage | None = None
    chunks: int = 0
    first_chunk_ms: int = 0
    metadata: dict[str, str] = {}
    tenant: str | None = None

    def __repr__(self) -> str:
        return f"Details(outcome={self.outcome!r}, model={self.model!r})"


class ResultRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What stays in Redis of a finished job. Times are epoch milliseconds."""

    v: int = 1
    t: int
    f: str = FUNCTION
    a: tuple[()] = ()
    k: dict[str, str] = {}
    et: int
    s: bool
    st: int
    ft: int
    q: str
    id: str
    d: Details
    r: str | Failure

    def __repr__(self) -> str:
        return f"ResultRecord(id={self.id!r}, d={self.d!r})"


class Head(msgspec.Struct, frozen=True):
    """What every version can read of any record: its own version, and when the job was enqueued."""

    v: int = 1
    et: int = 0

    @property
    def is_newer(self) -> bool:
        """Tell whether this version must not judge the rest."""
        return self.v > VERSION


_encoder = msgspec.json.Encoder()
_job_decoder = msgspec.json.Decoder(JobRecord)
_result_decoder = msgspec.json.Decoder(ResultRecord)
_head_decoder = msgspec.json.Decoder(Head)


def encode(record: JobRecord | ResultRecord) -> bytes:
    """Return the record as JSON, with the lowest version that reads it rightly."""
    if isinstance(record, JobRecord):
        options = record.job.options
        if options is not None and options.max_completion_tokens is not None:
            record = msgspec.structs.replace(record, v=max(record.v, 2))
    return _encoder.encode(record)


def decode_head(data: bytes) -> Head:
    """Read what any version can. Raises `msgspec.DecodeError` for what is no record."""
    return _head_decoder.decode(data)


def decode_job(data: bytes) -> JobRecord:
    """Read a job record. Raises `msgspec.DecodeError` for anything else."""
    return _job_decoder.decode(data)


def decode_result(data: bytes) -> ResultRecord:
    """Read a result record. Raises `msgspec.DecodeError` for anything else."""
    return _result_decoder.decode(data)


_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


def read_job(data: bytes, keys: JobKeys) -> JobRecord:
    """Read the record of a job that waits. Raises `CorruptRecord`, `NewerRecord`."""
    try:
        _refuse_newer(data, keys)
        return decode_job(data)
    except _UNREADABLE:  # the reason may quote the record: it goes no further
        raise CorruptRecord(keys.public_id, read_tenant(data)) from None


def read_result(data: bytes, keys: JobKeys) -> ResultRecord:
    """Read the record of a finished job. Raises `CorruptRecord`, `NewerRecord`."""
    try:
        _refuse_newer(data, keys)
        return decode_result(data)
    except _UNREADABLE:
        raise CorruptRecord(keys.public_id, read_tenant(data)) from None


HEADS_BYTES = (4 << 10, 192 << 10)
"""How much of a record to read to know all but its text: mostly the first, and the second where
16 KiB of metadata, escaped, stand before the text."""


class CutShort(Exception):
    """The head of a record does not tell enough. Read more of it."""


def read_job_head(head: bytes, keys: JobKeys, limit_bytes: int | None) -> JobRecord:
    """Read a job's record but for its prompt, from its first `limit_bytes` (None: from all of it).

    Raises `CutShort`, `CorruptRecord`, `NewerRecord`.
    """
    if limit_bytes is None or len(head) < limit_bytes:
        return read_job(head, keys)
    return _without_text(head, b'"prompt":', b'"prompt":""}}}', _job_decoder, keys)


def read_result_head(head: bytes, keys: JobKeys, limit_bytes: int | None) -> ResultRecord:
    """Read a result but for its answer, as `job_head` does."""
    if limit_bytes is None or len(head) < limit_bytes:
        return read_result(head, keys)
    return _without_text(head, b'"r":', b'"r":""}', _result_decoder, keys)


def _without_text(
    head: bytes, name: bytes, end: bytes, decoder: msgspec.json.Decoder[R], keys: JobKeys
) -> R:
    """Decode a record that is cut off at a field, with an empty text in the place of the rest.

    Within a JSON string quotes are escaped, so the bytes of `name` stand where a field begins. A
    field of that name elsewhere, such as in the metadata, is at another depth: the record that ends
    there is no JSON. Records of older versions have other fields after the text: they are missed.
    """
    at = head.find(name)
    while at >= 0:
        shortened = head[:at] + end
        try:
            _refuse_newer(shortened, keys)
            return decoder.decode(shortened)
        except _UNREADABLE:
            at = head.find(name, at + 1)
    raise CutShort


def _refuse_newer(data: bytes, keys: JobKeys) -> None:
    if decode_head(data).is_newer:
        raise NewerRecord(keys.public_id, read_tenant(data))


class _Owned(msgspec.Struct, frozen=True):
    """The least that can be read: whose it is. A job has `k`, a result `d`, a batch `tenant`."""

    k: Any = None
    d: Any = None
    tenant: Any = None


def read_tenant(data: bytes) -> str | None:
    """Return whose record it is, though the rest cannot be read; None where that cannot either."""
    try:
        found = msgspec.json.decode(data, type=_Owned)
    except _UNREADABLE:
        return None
    job = found.k.get("job") if isinstance(found.k, dict) else None
    told = [owned.get("tenant") for owned in (found.d, job) if isinstance(owned, dict)]
    return next((name for name in (*told, found.tenant) if isinstance(name, str)), None)


def serialize(data: dict[str, Any]) -> bytes:
    """arq's `job_serializer`: JSON, never pickle. Raises `TypeError` for other objects."""
    return _encoder.encode(data)


def deserialize(data: bytes) -> dict[str, Any]:
    """arq's `job_deserializer`, for its `Job.info()`, `Job.result()` and the like.

    A failure is revived as `JobFailed`, a cancelled job as `asyncio.CancelledError`, which is
    what arq's `Job.abort()` looks for. Raises `msgspec.DecodeError`.
    """
    fields: dict[str, Any] = msgspec.json.decode(data, type=dict[str, Any])
    if "r" not in fields:
        job = decode_job(data)
        return {"t": job.t, "f": job.f, "a": job.a, "k": {"job": job.job}, "et": job.et}
    result = decode_result(data)
    if isinstance(result.r, Failure):
        error = build_error(result, result.r)
        fields["r"] = asyncio.CancelledError() if isinstance(error, JobCancelled) else error
    return fields


def build_error(record: ResultRecord, failure: Failure) -> JobFailed | JobCancelled:
    """Return the error that a finished job without text raises."""
    job_id = _public_id(record.id)
    if failure.type == "JobCancelled":
        return JobCancelled(job_id)
    return JobFailed(job_id, failure.code, failure.message)


def _public_id(arq_id: str) -> str:
    return JobKeys.from_arq_id(arq_id).public_id


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """The answer. Times are epoch milliseconds; `chunks` counts what the upstream sent."""

    job_id: str
    text: str
    finish_reason: str
    model: str
    upstream: str
    attempt: int
    chunks: int
    usage: Usage | None
    metadata: dict[str, str]
    queued_ms: int
    started_ms: int
    finished_ms: int

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"Result(job_id={self.job_id!r}, chars={len(self.text)}, model={self.model!r})"


def build_result(record: ResultRecord) -> Result:
    """Return the answer of a finished job. Raises `JobFailed` or `JobCancelled`."""
    if isinstance(record.r, Failure):
        raise build_error(record, record.r)
    return Result(
        job_id=JobKeys.from_arq_id(record.id).public_id,
        text=record.r,
        finish_reason=record.d.finish_reason,
        model=record.d.model,
        upstream=record.d.upstream,
        attempt=record.t,
        chunks=record.d.chunks,
        usage=record.d.usage,
        metadata=record.d.metadata,
        queued_ms=record.et,
        started_ms=record.st,
        finished_ms=record.ft,
    )
