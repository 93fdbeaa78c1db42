"""What nobody tells a batch: how many of its jobs run, and what holds up the others."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from darkq import Batch, Client, UpstreamStatus
from darkq.batches.lines import ForAllLines
from darkq_cli import here, talk


class Standing(NamedTuple):
    """How many jobs run, how many wait, and why."""

    running: int
    waiting: int
    reason: str = ""


async def look(client: Client, batch: Batch, common: ForAllLines) -> Standing:
    """Ask Redis how a batch stands now.

    Who runs is known of all jobs of its priority together: of two bulk batches at once each may
    count the other's. Raises `BatchNotFound`, `RedisUnavailable`.
    """
    outstanding = (await batch.status()).outstanding
    queue = next(queue for queue in await client.queues() if queue.priority == common.priority)
    running = min(outstanding, queue.running)
    if not await client.workers():
        reason = f"no worker is running; to start one: {here.command()} up"
    else:
        serving = await client.upstreams()
        asked = [each for each in serving if common.upstream in (None, each.name)]
        retrying = min(outstanding - running, queue.deferred - sum(u.waiting for u in asked))
        reason = held_up(asked, retrying, now_ms=time.time() * 1000)
    return Standing(running, outstanding - running, reason)


def held_up(upstreams: Iterable[UpstreamStatus], retrying: int, *, now_ms: float) -> str:
    """Return what holds jobs up, in a few words; "" for nothing."""
    known = list(upstreams)
    words = [f"{retrying:,} retrying"] if retrying > 0 else []
    for upstream in known:
        found = ", ".join(_limits(upstream, now_ms))
        named = f"{talk.harmless(upstream.name)}: {found}" if len(known) > 1 else found
        words += [named] if found else []
    return ", ".join(words)


def _limits(upstream: UpstreamStatus, now_ms: float) -> Iterator[str]:
    if upstream.breaker == "half-open":
        yield "breaker half-open, one call tries"
    elif upstream.breaker != "closed":
        what = "breaker open" if upstream.breaker == "open" else "limited by the upstream"
        left_s = max(0.0, ((upstream.reopens_at_ms or 0) - now_ms) / 1000)
        yield f"{what} for {left_s:.0f} s more"
    for window in upstream.windows:
        if window.used >= window.calls:
            yield f"limit reached: {window.calls:,} calls in {window.length_s:g} s"
    if upstream.waiting:
        yield f"{upstream.waiting:,} put off"
