"""One attempt: ask the upstream, and write what it says into the attempt's log."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, cast

from darkq.protocol.job import Job
from darkq.settings.settings import Settings
from darkq.telemetry.metrics import FIRST_CHUNK, Tally
from darkq_worker.attempts.routing import Upstreams
from darkq_worker.attempts.tracing import AttemptSpan
from darkq_worker.leases import Claim
from darkq_worker.limits.call import Call, Limits
from darkq_worker.limits.gate import NotNow
from darkq_worker.upstreams.base import (
    EmptyAnswer,
    End,
    NotReady,
    Rejected,
    Request,
    TimedOut,
    Truncated,
    UpstreamError,
    check_options,
)
from darkq_worker.upstreams.traced import CallSpan
from darkq_worker.writing.attempt_log import AttemptLog, Budget

NOT_READY_PAUSE_S = 2.0


class AnswerTooLong(Rejected):
    code = "answer_too_long"


async def generate(ctx: dict[str, Any], job: Job) -> End:
    """Stream a job's answer into its log; the function that arq's records name.

    Raises `NotNow` before anything is written, and `UpstreamError`. Returns only when the
    upstream said that the answer is complete. Cancelled, the connection to the upstream is
    closed before this returns.
    """
    settings, upstreams = cast(Settings, ctx["settings"]), cast(Upstreams, ctx["upstreams"])
    log, budget = cast(AttemptLog, ctx["log"]), cast(Budget, ctx["budget"])
    limits, claim = cast(Limits, ctx["limits"]), cast(Claim, ctx["claim"])
    tally, span = cast(Tally, ctx["tally"]), cast(AttemptSpan, ctx["span"])
    try:
        upstream, model = upstreams.choose(job.upstream, job.model)
    except NotReady:
        raise NotNow(delay_s=NOT_READY_PAUSE_S) from None
    check_options(upstream, job.options)
    request = Request(prompt=job.prompt, model=model, proxy=job.proxy, options=job.options)
    timeout_s = job.timeout_s or settings.job_timeout_s
    deadline = asyncio.timeout(timeout_s)
    async with limits.call(upstream.name, claim, own_proxy=job.proxy is not None) as call:
        at_ms, traceparent = int(time.time() * 1000), span.traceparent
        log.start(model=model, upstream=upstream.name, at_ms=at_ms, traceparent=traceparent)
        with span.call(upstream.name, request) as traced:
            try:
                async with deadline:
                    stream = upstream.stream(request)
                    most = settings.max_result_chars
                    return await _copy(stream, log, budget, call, tally, traced, max_chars=most)
            except UpstreamError as error:
                call.failed(error)
                raise
            except TimeoutError:
                if not deadline.expired():
                    raise
                raise TimedOut(f"no complete answer within {timeout_s:g} s") from None


async def _copy(
    stream: AsyncGenerator[str | End, None],
    log: AttemptLog,
    budget: Budget,
    call: Call,
    tally: Tally,
    traced: CallSpan,
    *,
    max_chars: int,
) -> End:
    """Copy a stream into the log, as fast as the log's budget allows."""
    chars, began_s = 0, time.perf_counter()
    async with aclosing(stream) as items:
        async for item in items:
            if isinstance(item, str):
                log.add(item)
                if not chars:
                    tally.observe(FIRST_CHUNK, time.perf_counter() - began_s, log.upstream)
                    traced.first_chunk()
                    await call.answered()
                chars += len(item)
                if chars > max_chars:
                    raise AnswerTooLong(f"more than {max_chars:,} characters")
                if budget.exhausted:
                    await budget.room()
            elif not chars:
                raise EmptyAnswer("the upstream said that the answer is complete, and sent none")
            else:
                traced.ended(item)
                return item
    raise Truncated("the stream ended before the upstream said that the answer is complete")
