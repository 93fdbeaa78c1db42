"""The upstreams that workers serve, and the status of each.

A worker announces the upstreams that it serves beside its health record, and renews both. An
announcement has names and limits, and neither addresses nor keys. The status of an upstream is read
from the keys that its workers share; `limits.lua` describes each of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, TypeAlias

import msgspec
from redis.asyncio import Redis

from darkq.operate.queue_state import decode_or
from darkq.operate.workers import live_workers
from darkq.protocol.keys import LimitKeys, WorkerKeys
from darkq.redis.servers import read_clock_ms
from darkq.settings.parsing import Window
from darkq.telemetry.metrics import is_upstream_name

Breaker: TypeAlias = Literal["closed", "open", "half-open", "blocked"]

_MAX_UPSTREAMS = 1000


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker announces of one upstream. A concurrency of 0 means no limit."""

    name: str
    kind: str
    default_model: str
    models: tuple[str, ...]
    options: tuple[str, ...] = ()
    windows: tuple[Window, ...] = ()
    concurrency: int = 0


class _Announcement(msgspec.Struct, frozen=True):
    upstreams: tuple[Served, ...]
    v: Literal[1] = 1


class WindowUse(msgspec.Struct, frozen=True, kw_only=True):
    """A limit window, and how many of its calls are used."""

    calls: int
    length_s: float
    used: int


class UpstreamStatus(msgspec.Struct, frozen=True, kw_only=True):
    """An upstream as the workers see it.

    `workers` is the number of workers that serve it. `breaker` is `open` while calls are deferred,
    `half-open` during a trial call, `blocked` after the upstream asked for a pause.
    `reopens_at_ms` is the end of that, epoch ms. `in_progress` calls are counted if concurrency is
    limited. `waiting` jobs are deferred.
    """

    name: str
    kind: str
    default_model: str
    models: tuple[str, ...]
    options: tuple[str, ...]
    workers: int
    breaker: Breaker = "closed"
    reopens_at_ms: int | None = None
    windows: tuple[WindowUse, ...] = ()
    concurrency: int = 0
    in_progress: int = 0
    waiting: int = 0


def announcement(upstreams: Iterable[Served]) -> bytes:
    """Encode the upstreams that a worker serves."""
    return msgspec.json.encode(_Announcement(tuple(upstreams)))


async def list_upstreams(redis: Redis) -> list[UpstreamStatus]:
    """Return every upstream that a live worker serves, by name. Raises what redis-py raises."""
    workers = await live_workers(redis)
    records = await redis.mget([WorkerKeys(id_).upstreams for id_ in workers]) if workers else []
    offers: dict[str, list[Served]] = {}
    for record in records:
        for upstream in decode_or(record, _Announcement, _Announcement(())).upstreams:
            if is_upstream_name(upstream.name):
                offers.setdefault(upstream.name, []).append(upstream)
    found = []
    for _, served in sorted(offers.items())[:_MAX_UPSTREAMS]:
        models = dict.fromkeys(model for each in served for model in each.models)
        first = next((each for each in served if each.models), served[0])
        merged = msgspec.structs.replace(first, models=tuple(models))
        found.append(await stand(redis, merged, workers=len(served)))
    return found


async def stand(redis: Redis, upstream: Served, *, workers: int) -> UpstreamStatus:
    """Return the current status of an upstream. Raises what redis-py raises."""
    keys = LimitKeys.of_upstream(upstream.name)
    now_ms = await read_clock_ms(redis)
    pipe = redis.pipeline(transaction=False)
    pipe.hmget(keys.breaker, ["open_until", "blocked_until"])
    pipe.zcount(keys.places, f"({now_ms:.3f}", "+inf")
    pipe.zcount(keys.waiting, "-inf", "+inf")
    for window in upstream.windows:
        pipe.zcount(keys.grants, f"({now_ms - window.length_s * 1000:.3f}", "+inf")
    (open_until, blocked_until), in_progress, waiting, *used = await pipe.execute()
    breaker, reopens_at_ms = _breaker(now_ms, _ms(open_until), _ms(blocked_until))
    windows = [
        WindowUse(calls=window.calls, length_s=window.length_s, used=count)
        for window, count in zip(upstream.windows, used, strict=True)
    ]
    return msgspec.structs.replace(
        unknown_stand(upstream),
        workers=workers,
        breaker=breaker,
        reopens_at_ms=reopens_at_ms,
        windows=tuple(windows),
        in_progress=in_progress,
        waiting=waiting,
    )


def unknown_stand(upstream: Served) -> UpstreamStatus:
    """Return the status of an upstream as far as it is known without Redis."""
    return UpstreamStatus(
        name=upstream.name,
        kind=upstream.kind,
        default_model=upstream.default_model,
        models=upstream.models,
        options=upstream.options,
        workers=0,
        concurrency=upstream.concurrency,
    )


def _breaker(now_ms: float, open_until: float, blocked_until: float) -> tuple[Breaker, int | None]:
    if now_ms < blocked_until:
        return "blocked", int(max(open_until, blocked_until))
    if open_until:
        return ("open", int(open_until)) if now_ms < open_until else ("half-open", None)
    return "closed", None


def _ms(field: Any) -> float:
    try:
        return float(field or 0)
    except ValueError:  # not written by darkq
        return 0.0
