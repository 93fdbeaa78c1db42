"""What a finished job leaves behind, as people see it."""

from __future__ import annotations

import msgspec

from darkq.event import Usage
from darkq.keys import JobKeys
from darkq.record import Failure, ResultRecord, error_of


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


def result_of(record: ResultRecord) -> Result:
    """Return the answer of a finished job. Raises `JobFailed` or `JobCancelled`."""
    if isinstance(record.r, Failure):
        raise error_of(record, record.r)
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
