"""Which upstreams the workers serve, and how each stands.

A worker announces what it serves beside its health record; the announcement expires without it.
It holds names and bounds: no address, and no key. How an upstream stands is read from what the
workers share of it; `limits.lua` says what each key holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, TypeAlias

import msgspec
from redis.asyncio import Redis

from darkq.operate.workers import live_workers
from darkq.protocol.keys import LimitKeys, WorkerKeys
from darkq.settings.parsing import Window
from darkq.telemetry.metrics import is_upstream_name

Breaker: TypeAlias = Literal["closed", "open", "half-open", "blocked"]

_MAX_UPSTREAMS = 1000


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker tells of one upstream. A concurrency of 0 is no bound."""

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
    """`used` of so many calls in so many seconds."""

    calls: int
    length_s: float
    used: int


class UpstreamStatus(msgspec.Struct, frozen=True, kw_only=True):
    """An upstream as the workers see it.

    `workers` is how many serve it. `breaker` is `open` while calls are put off, `half-open` while
    one tries, `blocked` after the upstream said that it has had enough; `reopens_at_ms` is when
    that ends, epoch ms. `in_progress` is counted where concurrency is bounded. `waiting` jobs
    have been put off.
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
    """Return what a worker leaves in Redis of what it serves."""
    return msgspec.json.encode(_Announcement(tuple(upstreams)))


async def list_upstreams(redis: Redis) -> list[UpstreamStatus]:
    """Return every upstream that a live worker serves, by name. Raises what redis-py raises."""
    workers = await live_workers(redis)
    records = await redis.mget([WorkerKeys(id_).upstreams for id_ in workers]) if workers else []
    offers: dict[str, list[Served]] = {}
    for record in records:
        for upstream in _read(record):
            offers.setdefault(upstream.name, []).append(upstream)
    merged = [_merge(offers[name]) for name in sorted(offers)[:_MAX_UPSTREAMS]]
    return [await stand(redis, upstream, workers=len(offers[upstream.name])) for upstream in merged]


async def stand(redis: Redis, upstream: Served, *, workers: int) -> UpstreamStatus:
    """Return how an upstream stands now. Raises what redis-py raises."""
    keys = LimitKeys.of_upstream(upstream.name)
    seconds, micros = await redis.time()
    now_ms = seconds * 1000 + micros / 1000
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
    """Return what can be told of an upstream without Redis."""
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


def _merge(offers: Sequence[Served]) -> Served:
    """One upstream as several workers serve it; where they differ, all their models."""
    models = dict.fromkeys(model for offer in offers for model in offer.models)
    first = next((offer for offer in offers if offer.models), offers[0])
    return msgspec.structs.replace(first, models=tuple(models))


def _read(record: Any) -> tuple[Served, ...]:
    """Read an announcement; anything else tells of nothing."""
    try:
        upstreams = msgspec.json.decode(record or b"", type=_Announcement).upstreams
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ()
    return tuple(upstream for upstream in upstreams if is_upstream_name(upstream.name))


def _ms(field: Any) -> float:
    try:
        return float(field or 0)
    except ValueError:  # anybody may have written it
        return 0.0
