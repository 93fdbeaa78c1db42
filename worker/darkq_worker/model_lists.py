"""Asking upstreams for their models, where none are configured: at the start, and now and then."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from darkq.telemetry.logging import LogEvent, describe_error
from darkq_worker.upstreams.base import Upstream, UpstreamError
from darkq_worker.upstreams.openai import OpenAIUpstream

logger = logging.getLogger("darkq.worker")

REFRESH_S = 300.0
_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 60.0


async def keep_listed(upstreams: Iterable[Upstream]) -> None:
    """Keep what upstreams serve up to date, until cancelled. One that is away is asked again."""
    async with asyncio.TaskGroup() as tasks:
        for upstream in upstreams:
            if isinstance(upstream, OpenAIUpstream) and upstream.lists_models:
                tasks.create_task(_keep(upstream), name=f"darkq-models-{upstream.name}")


async def _keep(upstream: OpenAIUpstream) -> None:
    pause_s = _FIRST_PAUSE_S
    while True:
        known = upstream.models
        try:
            await upstream.list_models()
        except Exception as error:  # nothing that a service says ends the worker
            facts = {"upstream": upstream.name, **_reason(error)}
            logger.warning(LogEvent("cannot list models", **facts))
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
            continue
        if upstream.models != known:
            count = len(upstream.models)
            default = upstream.default_model or "none"
            known_facts = {"upstream": upstream.name, "default": default}
            logger.info(LogEvent("models are known", models=count, **known_facts))
        pause_s = _FIRST_PAUSE_S
        await asyncio.sleep(REFRESH_S)


def _reason(error: Exception) -> dict[str, str]:
    if isinstance(error, UpstreamError):
        return {"code": error.code, "reason": error.message}
    return {"exception": describe_error(error)}
