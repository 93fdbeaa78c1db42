"""`darkq upstreams`: which of them work now, measured by asking each for a word.

The question is a call like any other: it counts in the limits that the workers share, and where
these leave no room it is not asked. What workers serve that this process has no settings for is
listed too, unasked. Where no Redis is configured and none runs here, nothing is shared.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from darkq import ConfigurationError, Settings, UpstreamStatus
from darkq_cli.terminal import interrupts, messages, output
from darkq_cli.terminal.problems import Problem, require

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from darkq.operate.upstreams import Served
    from darkq_worker.limits.calls import Limits
    from darkq_worker.upstreams.base import Upstream


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What the probe of one upstream found; `works` is None where it was not asked."""

    works: bool | None
    latency_s: float
    reason: str
    status: UpstreamStatus

    def as_json(self) -> dict[str, Any]:
        measured = {"works": self.works, "latency_s": self.latency_s, "reason": self.reason}
        status: dict[str, Any] = msgspec.to_builtins(self.status)
        return {"name": status.pop("name"), **measured, **status}


def upstreams(*, timeout_s: float, as_json: bool) -> None:
    """Probe all upstreams at once and print what was found.

    Raises `Problem` when none works, and `RedisUnavailable`.
    """
    require("worker", "arq", "aiohttp")
    findings = interrupts.run(find(Settings.load(), timeout_s))
    if as_json:
        for finding in findings:
            output.write_json(finding.as_json())
    else:
        _print_table(findings)
    if not any(finding.works for finding in findings):
        asked = any(finding.works is False for finding in findings)
        raise Problem("no upstream works now" if asked else "no upstream may be asked now")


async def find(settings: Settings, timeout_s: float) -> list[Finding]:
    """Ask all upstreams at once for a word. Raises `ConfigurationError`, `RedisUnavailable`."""
    from darkq.redis.pool import speaking_darkq
    from darkq_worker.wiring import make_session, make_upstreams

    async with make_session() as session, _shared(settings) as (redis, limits), speaking_darkq():
        ours = make_upstreams(settings, session)
        answers = await asyncio.gather(*(_ask(each, limits, timeout_s) for each in ours))
        served = ours.describe()
        stands, others = await _stand(redis, served)
    findings = [
        Finding(works=works, latency_s=latency_s, reason=reason, status=status)
        for (works, latency_s, reason), status in zip(answers, stands, strict=True)
    ]
    unknown = "not asked: it is not configured here"
    return findings + [
        Finding(works=None, latency_s=0.0, reason=unknown, status=status) for status in others
    ]


async def _ask(
    upstream: Upstream, limits: Limits | None, timeout_s: float
) -> tuple[bool | None, float, str]:
    """Return whether it works, after how many seconds, and why not."""
    from darkq_worker.limits.calls import CallDeferred
    from darkq_worker.upstreams.base import UpstreamError

    began_s = time.monotonic()
    works: bool | None = True
    reason = ""
    try:
        if limits is None:
            await upstream.probe(timeout_s=timeout_s)
        else:
            await _ask_within(limits, upstream, timeout_s)
    except UpstreamError as error:
        works, reason = False, f"{error.code}: {error.message}"
    except CallDeferred:
        works, reason = None, "not asked: its limits leave no room now"
    return works, round(time.monotonic() - began_s, 3), reason


async def _ask_within(limits: Limits, upstream: Upstream, timeout_s: float) -> None:
    from darkq_worker.upstreams.base import UpstreamError

    async with limits.probe(upstream.name) as call:
        try:
            await upstream.probe(timeout_s=timeout_s)
        except UpstreamError as error:
            call.record_failure(error)
            raise
        await call.record_answer()


async def _stand(
    redis: Redis | None, served: Sequence[Served]
) -> tuple[list[UpstreamStatus], list[UpstreamStatus]]:
    """Return how those that are configured here stand, and others that workers serve."""
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
async def _shared(settings: Settings) -> AsyncIterator[tuple[Redis | None, Limits | None]]:
    """What the workers share; nothing where there is no Redis."""
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


def _print_table(findings: list[Finding]) -> None:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE, pad_edge=False)
    for heading in ("upstream", "works", "after", "workers", "calls", "models", "reason"):
        table.add_column(heading, overflow="fold")
    words = {True: "yes", False: "no", None: "?"}
    for finding in findings:
        status = finding.status
        table.add_row(
            messages.harmless(status.name),
            words[finding.works],
            f"{finding.latency_s:.2f} s",
            str(status.workers),
            _calls(status),
            messages.harmless(_models(status)),
            messages.harmless(finding.reason),
        )
    messages.stdout_console().print(table)


def _models(status: UpstreamStatus) -> str:
    others = [model for model in status.models if model != status.default_model]
    return ", ".join([f"{status.default_model} (default)", *others])


def _calls(status: UpstreamStatus) -> str:
    """How much of its limits is used, and its breaker."""
    words = [f"{window.used}/{window.calls} in {window.length_s:g} s" for window in status.windows]
    if status.concurrency:
        words.append(f"{status.in_progress}/{status.concurrency} at once")
    if status.breaker != "closed":
        words.append(status.breaker)
    if status.waiting:
        words.append(f"{status.waiting} wait")
    return ", ".join(words)
