"""The answer of a finished job, as users get it. No I/O."""

from __future__ import annotations

from typing import Any

import msgspec

from darkq.event import Usage
from darkq.protocol.keys import JobKeys
from darkq.protocol.output import Output, parse_output
from darkq.protocol.record import (
    BeyondText,
    Failure,
    FunctionCall,
    KeptRequest,
    ResultRecord,
    build_error,
)


class Result(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, dict=True):
    """The answer. Times are epoch milliseconds; `chunks` counts those that the upstream sent.

    `request` is there if it was kept with the answer (`Job.keeps_request`). `ignored` names the
    options and parameters that the upstream does not support (`Job.ignore_unsupported`). `outline`
    has the kinds of its pieces in the order in which they began, if that is not the usual one.
    """

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
    reasoning: str = ""
    tool_calls: tuple[FunctionCall, ...] = ()
    refusal: str = ""
    logprobs: dict[str, Any] | None = None
    annotations: list[Any] | None = None
    outline: tuple[tuple[str, int], ...] = ()
    request: KeptRequest | None = None
    ignored: tuple[str, ...] = ()

    def with_output(self, output: Output | None) -> Result:
        """Return the answer with the type of `parsed`."""
        result = msgspec.structs.replace(self)
        vars(result)["output"] = output  # no field: it has no JSON
        return result

    @property
    def parsed(self) -> Any:
        """The text as a value of the job's `output`; None without one.

        Raises `ValueError` if the text is none, for example because it reached its token limit.
        """
        output = vars(self).get("output")
        return None if output is None else parse_output(output, self.text)

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"Result(job_id={self.job_id!r}, chars={len(self.text)}, model={self.model!r})"


def build_result(record: ResultRecord) -> Result:
    """Return the answer of a finished job. Raises `JobFailed` or `JobCancelled`."""
    if isinstance(record.r, Failure):
        raise build_error(record, record.r)
    beyond = record.b or BeyondText()
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
        reasoning=beyond.reasoning,
        tool_calls=beyond.tool_calls,
        refusal=beyond.refusal,
        logprobs=beyond.logprobs,
        annotations=beyond.annotations,
        outline=beyond.outline,
        request=record.p or None,
        ignored=record.d.ignored,
    )
