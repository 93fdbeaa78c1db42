"""Probes: a short call to each upstream, to find out which of them work now.

A probe counts in the limits that the workers share. An upstream whose limits leave no room is not
called, nor is one that only workers have settings for. Without a Redis, there are no shared
limits.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, nullcontext
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import msgspec

from darkq import ConfigurationError, DarkqError, Settings, UpstreamStatus
from darkq.settings.upstreams import DARKAI
from darkq_cli.doctor.checks import CheckResult, ok, problem, skipped
from darkq_cli.terminal import program

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from darkq.operate.upstreams import Served
    from darkq_worker.limits.calls import Limits
    from darkq_worker.upstreams.base import Upstream

CHECK = "upstream"
CHECK_TIMEOUT_S = 15.0

Outcome: TypeAlias = tuple[bool | None, str, float]
"""Whether an upstream works, the reason if not, and the seconds until that was known."""


class Probe(NamedTuple):
    """The outcome of one probe. `works` is None if the upstream was not called."""

    status: UpstreamStatus
    works: bool | None
    reason: str
    latency_s: float

    def as_json(self) -> dict[str, Any]:
        measured = {"works": self.works, "latency_s": self.latency_s, "reason": self.reason}
        status: dict[str, Any] = msgspec.to_builtins(self.status)
        return {"name": status.pop("name"), **measured, **status}


async def probe_upstreams(settings: Settings, timeout_s: float) -> list[Probe]:
    """Probe all upstreams concurrently. Raises `ConfigurationError`, `RedisUnavailable`."""
    from darkq.redis.pool import speaking_darkq
    from darkq_worker.wiring import make_session, make_upstreams

    async with (
        make_session() as session,
        _open_limits(settings) as (redis, limits),
        speaking_darkq(),
    ):
        ours = make_upstreams(settings, session)
        outcomes = await asyncio.gather(*(_probe(each, limits, timeout_s) for each in ours))
        statuses, others = await _read_statuses(redis, ours.describe())
    outcomes += [(None, "not called: it is not configured here", 0.0)] * len(others)
    return [
        Probe(status, *outcome)
        for outcome, status in zip(outcomes, [*statuses, *others], strict=True)
    ]


async def _probe(upstream: Upstream, limits: Limits | None, timeout_s: float) -> Outcome:
    from darkq_worker.limits.calls import CallDeferred
    from darkq_worker.upstreams.base import UpstreamError

    began_s = time.monotonic()
    works: bool | None = True
    reason = ""
    try:
        async with limits.probe(upstream.name) if limits else nullcontext() as call:
            try:
                await upstream.probe(timeout_s=timeout_s)
            except UpstreamError as error:
                if call is not None:
                    call.record_failure(error)
                raise
            if call is not None:
                await call.record_answer()
    except UpstreamError as error:
        works, reason = False, f"{error.code}: {error.message}"
    except CallDeferred:
        works, reason = None, "not called: its limits leave no room now"
    return works, reason, round(time.monotonic() - began_s, 3)


async def _read_statuses(
    redis: Redis | None, served: Sequence[Served]
) -> tuple[list[UpstreamStatus], list[UpstreamStatus]]:
    """Return the statuses of our upstreams, and of others that workers serve."""
    from darkq.operate.upstreams import list_upstreams, stand, unknown_stand

    if redis is None:
        return [unknown_stand(each) for each in served], []
    known = {status.name: status for status in await list_upstreams(redis)}
    ours = [
        known.pop(each.name) if each.name in known else await stand(redis, each, workers=0)
        for each in served
    ]
    return ours, list(known.values())


@asynccontextmanager
async def _open_limits(settings: Settings) -> AsyncIterator[tuple[Redis | None, Limits | None]]:
    """Open Redis and the limits that it holds; yield Nones if there is no Redis."""
    from darkq.redis.servers import servers_of
    from darkq_worker.limits.calls import Limits
    from darkq_worker.wiring import make_rules

    try:
        servers = servers_of(settings)
    except ConfigurationError:
        yield None, None
        return
    rules = make_rules(settings)
    redis = servers.client()
    limits = Limits(redis, list(rules), rules, settings)
    try:
        yield redis, limits
    finally:
        await limits.aclose()
        await redis.aclose()


async def check_upstreams(settings: Settings) -> AsyncIterator[CheckResult]:
    """Probe the upstreams, and yield one check result for each."""
    if find_spec("aiohttp") is None or find_spec("arq") is None:
        not_installed = skipped("arq or aiohttp is not installed", "pip install 'darkq[worker]'")
        yield not_installed.label(CHECK)
        return
    try:
        for probe in await probe_upstreams(settings, CHECK_TIMEOUT_S):
            yield _to_result(probe).label(CHECK, probe.status.name)
    except DarkqError as error:
        yield skipped(f"not called: {error}").label(CHECK)


def _to_result(probe: Probe) -> CheckResult:
    if probe.works is None:
        return skipped(probe.reason)
    if probe.works:
        return ok(f"answers, after {probe.latency_s:.2f} s")
    name = probe.status.name
    setting = f"DARKQ_UPSTREAMS__{name.upper()}__URL" if name != DARKAI else "DARKQ_DARKAI_URL"
    retry = f"to call it again: {program.command()} upstreams"
    return problem(probe.reason, f"Check that the service runs and {setting} is right; {retry}")
