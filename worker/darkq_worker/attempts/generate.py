"""The work of one attempt: choose an upstream, call it, copy its answer into the event log."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from types import MappingProxyType

from darkq.operate.upstreams import Served
from darkq.protocol.job import Job
from darkq.settings.settings import Settings
from darkq.telemetry.metrics import FIRST_CHUNK
from darkq_worker.attempts.telemetry import AttemptSpan, WorkerMetrics
from darkq_worker.leases import Claim
from darkq_worker.limits.calls import Call, CallDeferred, Limits, Rule
from darkq_worker.pieces import AnyPiece
from darkq_worker.upstreams.base import (
    EmptyAnswer,
    End,
    NotReady,
    ProtocolViolation,
    Rejected,
    Request,
    TimedOut,
    Truncated,
    UnknownModel,
    Unserved,
    Upstream,
    UpstreamError,
    check_request,
    drop_unsupported,
)
from darkq_worker.upstreams.openai import OpenAIUpstream
from darkq_worker.upstreams.traced import CallSpan
from darkq_worker.writing.attempt_log import AttemptLog
from darkq_worker.writing.writer import Writer

NOT_READY_PAUSE_S = 2.0


class AnswerTooLong(Rejected):
    code = "answer_too_long"


class UnknownUpstream(Unserved):
    code = "unknown_upstream"
    kind = "upstream"


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerParts:
    """What all attempts of a worker work with."""

    settings: Settings
    worker_id: str
    upstreams: Upstreams
    limits: Limits
    writer: Writer
    metrics: WorkerMetrics


@dataclass(frozen=True, slots=True)
class AttemptContext:
    """What one attempt works with."""

    claim: Claim
    log: AttemptLog
    span: AttemptSpan
    parts: WorkerParts


async def generate(context: AttemptContext, job: Job) -> End:
    """Stream the answer of a job into its event log.

    Raises `CallDeferred` before anything is written, and `UpstreamError`. Returns only if the
    upstream reported that the answer is complete. If this is cancelled, the connection to the
    upstream is closed first.
    """
    parts = context.parts
    try:
        upstream, model = parts.upstreams.choose(job.upstream, job.model)
    except NotReady:
        raise CallDeferred(delay_s=NOT_READY_PAUSE_S) from None
    request = Request(
        prompt=job.prompt,
        model=model,
        proxy=job.proxy,
        options=job.options,
        parameters=job.parameters,
    )
    if job.ignore_unsupported:
        request, context.log.ignored = drop_unsupported(upstream, request)
    check_request(upstream, request)
    timeout_s = job.timeout_s or parts.settings.job_timeout_s
    deadline = asyncio.timeout(timeout_s)
    own_proxy = job.proxy is not None
    async with parts.limits.call(upstream.name, context.claim, own_proxy=own_proxy) as call:
        context.log.start(
            model=model,
            upstream=upstream.name,
            at_ms=int(time.time() * 1000),
            traceparent=context.span.traceparent,
        )
        with context.span.call(upstream.name, request) as span:
            try:
                async with deadline:
                    return await _copy(upstream.stream(request), context, call, span)
            except UpstreamError as error:
                call.record_failure(error)
                raise
            except TimeoutError:
                if not deadline.expired():  # raised by a bug below, not by this deadline
                    raise
                raise TimedOut(f"no complete answer within {timeout_s:g} s") from None


async def _copy(
    stream: AsyncGenerator[AnyPiece | End, None],
    context: AttemptContext,
    call: Call,
    span: CallSpan,
) -> End:
    """Copy a stream into the log, as fast as the budget allows."""
    log, writer = context.log, context.parts.writer
    budget, max_chars = writer.budget, context.parts.settings.max_result_chars
    chars, began_s = 0, time.perf_counter()
    async with aclosing(stream) as items:
        async for item in items:
            if not isinstance(item, End):
                log.add(item)
                if not chars:
                    first_chunk_s = time.perf_counter() - began_s
                    writer.tally.observe(FIRST_CHUNK, first_chunk_s, log.upstream)
                    span.first_chunk()
                    await call.record_answer()
                chars += len(item)
                if chars > max_chars:
                    raise AnswerTooLong(f"more than {max_chars:,} characters")
                if budget.exhausted:  # checked first: `room()` would cost a call per chunk
                    await budget.room()
            elif not chars:
                raise EmptyAnswer("the upstream said that the answer is complete, and sent none")
            else:
                span.record_end(item)
                return item
    raise Truncated("the stream ended before the upstream said that the answer is complete")


class Upstreams:
    """The upstreams of a worker, and their limits by name; the first upstream is the default."""

    def __init__(
        self, upstreams: Sequence[Upstream], rules: Mapping[str, Rule] = MappingProxyType({})
    ) -> None:
        self.rules = rules
        self._by_name = {upstream.name: upstream for upstream in upstreams}
        self._default = upstreams[0]

    def choose(self, name: str | None, model: str | None) -> tuple[Upstream, str]:
        """Return the upstream of a job, and the canonical name of its model.

        A name selects that upstream, and so does a worker with only one upstream: these may be
        called with a model that they do not list. Otherwise the first upstream is chosen that
        knows the model by exactly this name or alias, then the first that knows it by a longer
        name; without a model, the default.

        Raises `UnknownUpstream`, `UnknownModel`, the error of an upstream that cannot list its
        models, and `NotReady` while an upstream that may know the model has no list yet.
        """
        if name is not None or not model or len(self._by_name) == 1:
            only = self._default if name is None else self._by_name.get(name)
            if only is None:
                raise UnknownUpstream(name or "", list(self._by_name))
            if isinstance(only, OpenAIUpstream):  # the service judges unlisted models
                return only, only.resolve_unlisted(model)
            return only, only.resolve_model(model)
        unsure: UpstreamError | None = None
        similar: tuple[Upstream, str] | None = None
        for upstream in self:
            try:
                found = upstream.resolve_model(model)
            except (UnknownModel, ProtocolViolation):
                continue
            except UpstreamError as error:
                unsure = error if unsure is None or isinstance(error, NotReady) else unsure
                continue
            if not isinstance(upstream, OpenAIUpstream) or upstream.knows(model):
                return upstream, found
            similar = similar or (upstream, found)
        if similar is not None:
            return similar
        raise unsure or UnknownModel(model, [name for each in self for name in each.models])

    def describe(self) -> list[Served]:
        """Return the description of each upstream for operators, with its limits."""
        return [
            Served(
                name=upstream.name,
                kind=upstream.kind,
                default_model=upstream.default_model,
                models=tuple(upstream.models),
                options=tuple(sorted(upstream.options)),
                **self.rules.get(upstream.name, Rule())._asdict(),
            )
            for upstream in self
        ]

    def __iter__(self) -> Iterator[Upstream]:
        return iter(self._by_name.values())
