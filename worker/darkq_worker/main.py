"""Wiring: from settings to a running worker."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
from arq.connections import ArqRedis
from arq.worker import func
from redis.asyncio import Redis

from darkq.connection import pool
from darkq.errors import ConfigurationError
from darkq.live import Live
from darkq.record import FUNCTION, deserialize, serialize
from darkq.settings import Settings
from darkq_worker.claims import Leases
from darkq_worker.eviction import refuse_eviction
from darkq_worker.gate import Rule
from darkq_worker.generate import generate
from darkq_worker.leased_worker import LeasedWorker
from darkq_worker.limits import Limits
from darkq_worker.routing import Upstreams
from darkq_worker.upstreams.darkai import DarkAIUpstream
from darkq_worker.writer import Writer


def make_worker_id() -> str:
    """Return a name for this process: its host and pid for people, the rest for uniqueness."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"


def make_upstreams(settings: Settings, session: aiohttp.ClientSession) -> Upstreams:
    """Make the upstreams that the settings name. The session stays the caller's."""
    proxy = settings.darkai_proxy
    darkai = DarkAIUpstream(
        session,
        url=settings.darkai_url,
        proxy=proxy.get_secret_value() if proxy else None,
        timeout_s=settings.darkai_timeout_s,
        idle_timeout_s=settings.darkai_idle_timeout_s,
    )
    return Upstreams([darkai])


def make_rules(settings: Settings) -> dict[str, Rule]:
    """Return what each limited upstream allows, by name."""
    return {"darkai": Rule(settings.find_darkai_windows(), settings.darkai_concurrency)}


def make_session() -> aiohttp.ClientSession:
    """Make the one HTTP session of a worker: no cookies, nothing from the environment.

    The connector has no limit: the worker's slots are the limit.
    """
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        auto_decompress=False,
    )


async def run_worker(settings: Settings, *, handle_signals: bool = True) -> None:
    """Run a worker until it is cancelled or a signal comes; then close everything.

    Waits for Redis if it is not there. Raises `ConfigurationError`.
    """
    if settings.worker_reserved_interactive >= settings.worker_jobs:
        raise ConfigurationError(
            "DARKQ_WORKER_RESERVED_INTERACTIVE",
            f"must be below DARKQ_WORKER_JOBS ({settings.worker_jobs}), or no bulk job ever runs",
        )
    async with AsyncExitStack() as stack:
        connections = pool(settings)
        redis = ArqRedis(connections, job_serializer=serialize, job_deserializer=deserialize)
        # No patience: a claim that waited out an outage in silence would find every lease lapsed.
        lease_connections = pool(settings, patience_s=0, connections=2)
        worker_id = make_worker_id()
        leases = Leases(
            Redis.from_pool(lease_connections),
            worker_id,
            lease_s=settings.worker_lease_s,
            job_ttl_s=settings.job_ttl_s,
        )
        writer = Writer(settings)
        live = Live(connections, patience_s=None)
        session = make_session()
        upstreams = make_upstreams(settings, session)
        limits = Limits(redis, [each.name for each in upstreams], make_rules(settings), settings)
        for close in (
            connections.aclose,
            lease_connections.aclose,
            redis.aclose,
            limits.aclose,
            writer.aclose,
            live.aclose,
            session.close,
        ):
            stack.push_async_callback(close)
        await refuse_eviction(redis)
        ctx: dict[str, Any] = {"settings": settings, "upstreams": upstreams}
        worker = LeasedWorker(
            [func(generate, name=FUNCTION)],
            settings=settings,
            worker_id=worker_id,
            redis=redis,
            leases=leases,
            writer=writer,
            live=live,
            limits=limits,
            ctx=ctx,
            handle_signals=handle_signals,
        )
        await worker.serve()


def main(settings: Settings | None = None) -> None:
    """Run a worker in this process, until SIGINT or SIGTERM.

    Raises `ConfigurationError`.
    """
    settings = settings or Settings.load()
    logging.basicConfig(
        level=settings.worker_log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    logging.getLogger("arq").setLevel(logging.WARNING)  # it would print arguments
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(run_worker(settings))


def _loop_factory() -> Any:
    try:
        import uvloop
    except ImportError:  # Windows
        return None
    return uvloop.new_event_loop
