"""Requests the model lists of upstreams without configured models: at the start, then regularly."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from darkq.redis.backoff import backoff_s
from darkq.telemetry.logging import LogEvent, describe_error
from darkq_worker.upstreams.base import Upstream, UpstreamError
from darkq_worker.upstreams.openai import OpenAIUpstream

logger = logging.getLogger("darkq.worker")

REFRESH_S = 300.0
_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 60.0


async def refresh_models(upstreams: Iterable[Upstream]) -> None:
    """Keep the model lists of all upstreams up to date, until cancelled."""
    async with asyncio.TaskGroup() as tasks:
        for upstream in upstreams:
            if isinstance(upstream, OpenAIUpstream) and upstream.lists_models:
                tasks.create_task(_refresh(upstream), name=f"darkq-models-{upstream.name}")


async def _refresh(upstream: OpenAIUpstream) -> None:
    failures = 0
    while True:
        known = upstream.models
        try:
            await upstream.list_models()
        except Exception as error:  # no response of a service may end the worker
            logger.warning(LogEvent("model list failed", upstream=upstream.name, **_reason(error)))
            pause_s = backoff_s(failures, first_s=_FIRST_PAUSE_S, most_s=_LONGEST_PAUSE_S)
            failures += 1
            await asyncio.sleep(pause_s)
            continue
        if upstream.models != known:
            logger.info(
                LogEvent(
                    "model list updated",
                    upstream=upstream.name,
                    models=len(upstream.models),
                    default=upstream.default_model or "none",
                )
            )
        failures = 0
        await asyncio.sleep(REFRESH_S)


def _reason(error: Exception) -> dict[str, str]:
    if isinstance(error, UpstreamError):
        return {"code": error.code, "reason": error.message}
    return {"exception": describe_error(error)}
