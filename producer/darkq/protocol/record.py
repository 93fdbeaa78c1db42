"""arq's job and result records as versioned JSON.

arq stores a job as a pickled dictionary `t f a k et`, and a result as the same with
`s r st ft q id`. darkq stores both as JSON, so that data from Redis cannot run code. arq's own
tools read them through `serialize` and `deserialize`. A result has no arguments: the prompt is
deleted with the job. `d` contains the fields that arq does not have.

`v` is the lowest version of the format that can read a record. Most changes do not raise it:
readers ignore unknown fields, and have defaults for missing ones. A change that an old reader would
misread raises `v`, and old readers refuse such a record: docs/upgrade.md.

The texts of a record, prompts and answers, come after all fields but a `History`. The first few
kilobytes therefore contain the tenant and the state, and lists are read without megabytes of texts:
`read_job_head`, `read_result_head`.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from darkq.errors import CorruptRecord, JobCancelled, JobFailed, NewerRecord
from darkq.event import Usage
from darkq.protocol.job import Job
from darkq.protocol.keys import JobKeys
from darkq.protocol.prompt import Message

VERSION = 3
"""The highest version that can be read here.

2: the option `max_completion_tokens`; readers of version 1 reject such a record as invalid.
3: jobs with parameters, with `ignore_unsupported`, or with more than roles and texts in their
messages; results with tool calls or a refusal. Readers of version 2 would leave these out.
"""
FUNCTION = "generate"
KEPT_CHARS = 1000
"""How much of a prompt its result may keep, for lists of jobs that people read."""

R = TypeVar("R")

Outcome: TypeAlias = Literal["completed", "failed", "cancelled"]


class Arguments(msgspec.Struct, frozen=True):
    """Keyword arguments of the function that workers run."""

    job: Job


class JobRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A job in Redis, until a worker has finished it.

    `traceparent` and `tracestate` are the optional W3C trace context. They do not affect how the
    job runs: an invalid one is ignored (`darkq.telemetry.tracing`). `h` is 1 if the producer can
    read a `History`: then the job may end with one.
    """

    v: int = 1
    t: int | UnsetType | None = UNSET
    h: int | UnsetType = UNSET
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
    """The fields of a finished job that arq's record does not have.

    `prompt` is the first `KEPT_CHARS` of the prompt, if `DARKQ_RESULTS_KEEP_PROMPTS` is set.
    """

    outcome: Outcome
    model: str = ""
    upstream: str = ""
    finish_reason: str = ""
    usage: Usage | None = None
    chunks: int = 0
    first_chunk_ms: int = 0
    metadata: dict[str, str] = {}
    tenant: str | None = None
    prompt: str = ""
    ignored: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"Details(outcome={self.outcome!r}, model={self.model!r})"


class FunctionCall(msgspec.Struct, frozen=True, kw_only=True):
    """A call of a tool that the model asks for. `arguments` is JSON, as the model wrote it."""

    id: str
    name: str
    arguments: str

    def __repr__(self) -> str:
        return f"FunctionCall(id={self.id!r}, chars={len(self.arguments)})"


class BeyondText(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an answer has beside its text. `logprobs` are those of all its chunks, in order.

    `outline` has the kinds of its pieces in the order in which they began, if that is not:
    reasoning, text, refusal, tool calls. A number is the size of a text of reasoning, or the index
    of a call.
    """

    reasoning: str = ""
    tool_calls: tuple[FunctionCall, ...] = ()
    refusal: str = ""
    logprobs: dict[str, Any] | None = None
    annotations: list[Any] | None = None
    outline: tuple[tuple[str, int], ...] = ()

    def __repr__(self) -> str:
        return f"BeyondText(tool_calls={len(self.tool_calls)})"


class KeptRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The request of a finished job, if it was to be kept."""

    prompt: str | tuple[Message, ...]
    parameters: dict[str, Any] = {}

    def __repr__(self) -> str:
        return "KeptRequest(…)"


class Stretch(msgspec.Struct, frozen=True, array_like=True):
    """Consecutive pieces of one kind; those of a tool call have its index. `sizes` is packed."""

    kind: str
    index: int
    sizes: str


class History(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """What the event log of a completed job had beside its texts: `darkq.protocol.history`.

    `merged` of all pieces is packed, or empty if each is 1. `finish.lua` adds the events of earlier
    attempts, so these are last.
    """

    started: msgspec.Raw
    stretches: tuple[Stretch, ...]
    merged: str = ""
    verbatim: tuple[msgspec.Raw, ...] = ()
    earlier: tuple[msgspec.Raw, ...] = ()

    def __repr__(self) -> str:
        return f"History(stretches={len(self.stretches)})"


class ResultRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A finished job in Redis. Times are epoch milliseconds.

    With `h` the job has no event log any more.
    """

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
    b: BeyondText | UnsetType = UNSET
    p: KeptRequest | UnsetType = UNSET
    h: History | UnsetType = UNSET

    def __repr__(self) -> str:
        return f"ResultRecord(id={self.id!r}, d={self.d!r})"


class Head(msgspec.Struct, frozen=True):
    """The fields that every version can read: the format's version, and the time of enqueueing."""

    v: int = 1
    et: int = 0

    @property
    def is_newer(self) -> bool:
        """Whether this version must not read the other fields."""
        return self.v > VERSION


_encoder = msgspec.json.Encoder()
_job_decoder = msgspec.json.Decoder(JobRecord)
_result_decoder = msgspec.json.Decoder(ResultRecord)
_head_decoder = msgspec.json.Decoder(Head)


def encode(record: JobRecord | ResultRecord) -> bytes:
    """Return the record as JSON, with the lowest version that can read it."""
    version = _find_version(record)
    if version > record.v:
        record = msgspec.structs.replace(record, v=version)
    return _encoder.encode(record)


def _find_version(record: JobRecord | ResultRecord) -> int:
    """Return the lowest version that can read a record."""
    if isinstance(record, ResultRecord):
        return 3 if record.b and (record.b.tool_calls or record.b.refusal) else 1
    job = record.job
    if job.parameters or job.ignore_unsupported:
        return 3
    if not isinstance(job.prompt, str) and not all(each.is_plain for each in job.prompt):
        return 3
    return 2 if job.options and job.options.max_completion_tokens is not None else 1


def decode_head(data: bytes) -> Head:
    """Read the fields that every version can read. Raises `msgspec.DecodeError`."""
    return _head_decoder.decode(data)


def decode_job(data: bytes) -> JobRecord:
    """Read a job record. Raises `msgspec.DecodeError`."""
    return _job_decoder.decode(data)


def decode_result(data: bytes) -> ResultRecord:
    """Read a result record. Raises `msgspec.DecodeError`."""
    return _result_decoder.decode(data)


_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


def read_job(data: bytes, keys: JobKeys) -> JobRecord:
    """Read the record of an unfinished job. Raises `CorruptRecord`, `NewerRecord`."""
    try:
        _refuse_newer(data, keys)
        return decode_job(data)
    except _UNREADABLE:  # hide the reason: it may quote the record
        raise CorruptRecord(keys.public_id, read_tenant(data)) from None


def read_result(data: bytes, keys: JobKeys) -> ResultRecord:
    """Read the record of a finished job. Raises `CorruptRecord`, `NewerRecord`."""
    try:
        _refuse_newer(data, keys)
        return decode_result(data)
    except _UNREADABLE:
        raise CorruptRecord(keys.public_id, read_tenant(data)) from None


HEADS_BYTES = (4 << 10, 192 << 10)
"""How many bytes to read for all fields but the text. The first size is usually enough. The second
is enough for 16 KiB of metadata, escaped as JSON, before the text."""


class CutShort(Exception):
    """The head does not contain all fields before the text. Read more of the record."""


def read_job_head(head: bytes, keys: JobKeys, limit_bytes: int | None) -> JobRecord:
    """Read a job's record without its prompt, from its first `limit_bytes` (None: from all of it).

    Raises `CutShort`, `CorruptRecord`, `NewerRecord`.
    """
    if limit_bytes is None or len(head) < limit_bytes:
        return read_job(head, keys)
    return _decode_head(head, b'"prompt":', b'"prompt":""}}}', _job_decoder, keys)


def read_prompt_head(head: bytes) -> str:
    """Return the beginning of the prompt from the first bytes of a job's record.

    Of several messages it is the user's last one in these bytes. Returns "" if the prompt is not in
    them, or the record cannot be read.
    """
    with suppress(*_UNREADABLE):
        return decode_job(head).job.question
    at = head.find(b'"prompt":')
    while at >= 0:
        with suppress(*_UNREADABLE):
            decode_job(head[:at] + b'"prompt":""}}}')
            return _read_cut_prompt(head[at + len(b'"prompt":') :])
        at = head.find(b'"prompt":', at + 1)
    return ""


def read_answer_head(head: bytes) -> str:
    """Return the beginning of the answer from the first bytes of a result's record, "" if none."""
    with suppress(*_UNREADABLE):
        answer = decode_result(head).r
        return answer if isinstance(answer, str) else ""
    at = head.find(b'"r":')
    while at >= 0:
        with suppress(*_UNREADABLE):
            decode_result(head[:at] + b'"r":""}')
            found = _CUT_STRING.match(head[at + len(b'"r":') :])
            return _decode_cut(found[1]) if found else ""
        at = head.find(b'"r":', at + 1)
    return ""


_STRING = rb'"((?:[^"\\]|\\.)*)'
_CUT_STRING = re.compile(_STRING, re.DOTALL)
# Of content in parts, the text of the first part that has one.
_CUT_MESSAGE = re.compile(
    rb'"role":"(\w+)","content":(?:\[(?:[^"]|"(?:[^"\\]|\\.)*")*?"text":)?' + _STRING, re.DOTALL
)


def _read_cut_prompt(data: bytes) -> str:
    if (whole := _CUT_STRING.match(data)) is not None:
        return _decode_cut(whole[1])
    # Quotes are escaped within a JSON string, so only messages match.
    found = _CUT_MESSAGE.findall(data)
    asked = [text for role, text in found if role == b"user"] or [text for _, text in found]
    return _decode_cut(asked[-1]) if asked else ""


def _decode_cut(text: bytes) -> str:
    """Decode the inside of a JSON string that may end in a character or an escape."""
    for end in range(len(text), max(-1, len(text) - _LONGEST_ESCAPE), -1):
        with suppress(*_UNREADABLE):
            return msgspec.json.decode(b'"%b"' % text[:end], type=str)
    return ""


_LONGEST_ESCAPE = len(r"\ud83d\ude00")


def read_result_head(head: bytes, keys: JobKeys, limit_bytes: int | None) -> ResultRecord:
    """Read a result without its answer, as `read_job_head` does."""
    if limit_bytes is None or len(head) < limit_bytes:
        return read_result(head, keys)
    return _decode_head(head, b'"r":', b'"r":""}', _result_decoder, keys)


def _decode_head(
    head: bytes, name: bytes, end: bytes, decoder: msgspec.json.Decoder[R], keys: JobKeys
) -> R:
    """Decode the fields of a record before its text, with an empty text instead of the rest.

    Quotes are escaped within a JSON string, so the bytes of `name` only occur where a field begins.
    A field of the same name elsewhere, such as in the metadata, is at another depth, and a record
    cut there is invalid JSON: we try the next one. Records of older versions have fields after the
    text, and raise `CutShort`.
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
    """Where records have the tenant: a job in `k`, a result in `d`, a batch in `tenant`."""

    k: Any = None
    d: Any = None
    tenant: Any = None


def read_tenant(data: bytes) -> str | None:
    """Return the tenant of a record whose other fields may be invalid; None if it is too."""
    try:
        found = msgspec.json.decode(data, type=_Owned)
    except _UNREADABLE:
        return None
    job = found.k.get("job") if isinstance(found.k, dict) else None
    tenants = [owned.get("tenant") for owned in (found.d, job) if isinstance(owned, dict)]
    return next((name for name in (*tenants, found.tenant) if isinstance(name, str)), None)


def serialize(data: dict[str, Any]) -> bytes:
    """arq's `job_serializer`: JSON, never pickle. Raises `TypeError` for other objects."""
    return _encoder.encode(data)


def deserialize(data: bytes) -> dict[str, Any]:
    """arq's `job_deserializer`, for its `Job.info()`, `Job.result()` and the like.

    A failure becomes `JobFailed`. A cancelled job becomes `asyncio.CancelledError`, which arq's
    `Job.abort()` expects. Raises `msgspec.DecodeError`.
    """
    fields: dict[str, Any] = msgspec.json.decode(data, type=dict[str, Any])
    if "r" not in fields:
        job = decode_job(data)
        return {"t": job.t or None, "f": job.f, "a": job.a, "k": {"job": job.job}, "et": job.et}
    result = decode_result(data)
    if isinstance(result.r, Failure):
        error = build_error(result, result.r)
        fields["r"] = asyncio.CancelledError() if isinstance(error, JobCancelled) else error
    return fields


def build_error(record: ResultRecord, failure: Failure) -> JobFailed | JobCancelled:
    """Return the error for a finished job that has no answer."""
    job_id = JobKeys.from_arq_id(record.id).public_id
    if failure.type == "JobCancelled":
        return JobCancelled(job_id)
    return JobFailed(job_id, failure.code, failure.message)
