"""Wiring: from settings to a running worker."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import secrets
import socket
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
from arq.worker import func
from pydantic import SecretStr

from darkq.client import Client
from darkq.errors import ConfigurationError
from darkq.operate.upstreams import announcement
from darkq.protocol.keys import PartitionKeys
from darkq.protocol.record import FUNCTION
from darkq.redis.pubsub import Live
from darkq.redis.servers import servers_of
from darkq.serving.files import Files
from darkq.settings.settings import Settings
from darkq.settings.upstreams import DARKAI
from darkq.telemetry import logging as logs
from darkq.telemetry.export import export_traces
from darkq_worker.attempts.generate import generate
from darkq_worker.attempts.metrics import Counting
from darkq_worker.attempts.routing import Upstreams
from darkq_worker.files.runner import FileBatchRunners
from darkq_worker.leases import Leases
from darkq_worker.limits.call import Limits
from darkq_worker.limits.gate import Rule
from darkq_worker.loop.worker import LeasedWorker
from darkq_worker.model_lists import keep_listed
from darkq_worker.redis_checks import refuse_unfit
from darkq_worker.upstreams.base import Upstream
from darkq_worker.upstreams.darkai import DarkAIUpstream
from darkq_worker.upstreams.http import make_session as make_session
from darkq_worker.upstreams.openai import OpenAIUpstream
from darkq_worker.writing.writer import Writer


def make_worker_id() -> str:
    """Return a name for this process: its host and pid for people, the rest for uniqueness."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"


def make_upstreams(settings: Settings, session: aiohttp.ClientSession) -> Upstreams:
    """Make the upstreams that the settings name. The session stays the caller's.

    Raises `ConfigurationError`.
    """
    upstreams: dict[str, Upstream] = {}
    if settings.uses_darkai:
        upstreams[DARKAI] = DarkAIUpstream(
            session,
            url=settings.darkai_url,
            proxy=_plain(settings.darkai_proxy),
            timeout_s=settings.darkai_timeout_s,
            idle_timeout_s=settings.darkai_idle_timeout_s,
            sends_trace=settings.darkai_sends_trace,
        )
    for name, each in sorted(settings.upstreams.items()):
        models = each.find_models()
        upstreams[name] = OpenAIUpstream(
            session,
            name=name,
            url=each.url,
            api_key=_plain(each.api_key),
            models=models.names,
            aliases=models.aliases,
            proxy=_plain(each.proxy),
            timeout_s=each.timeout_s,
            idle_timeout_s=each.idle_timeout_s,
            keeps_connections=each.keeps_connections,
            sends_trace=each.sends_trace,
        )
    if not upstreams:
        raise ConfigurationError("DARKQ_DARKAI_URL", "is none, and there is no other upstream")
    default = settings.default_upstream or next(iter(upstreams))
    if default not in upstreams:
        known = ", ".join(upstreams)
        raise ConfigurationError("DARKQ_DEFAULT_UPSTREAM", f"must be one of: {known}")
    return Upstreams([upstreams.pop(default), *upstreams.values()])


def make_rules(settings: Settings) -> dict[str, Rule]:
    """Return what each upstream allows, by name."""
    darkai = Rule(settings.find_darkai_windows(), settings.darkai_concurrency)
    others = {
        name: Rule(each.find_windows(), each.concurrency)
        for name, each in settings.upstreams.items()
    }
    return {DARKAI: darkai, **others}


def _plain(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() if secret else None


async def run_worker(settings: Settings, *, handle_signals: bool = True) -> None:
    """Run a worker until it is cancelled or a signal comes; then close everything.

    Waits for Redis if it is not there. Raises `ConfigurationError`.
    """
    if settings.worker_reserved_interactive >= settings.worker_jobs:
        raise ConfigurationError(
            "DARKQ_WORKER_RESERVED_INTERACTIVE",
            f"must be below DARKQ_WORKER_JOBS ({settings.worker_jobs}), or no bulk job ever runs",
        )
    if settings.worker_lease_s <= settings.redis_timeout_s:
        raise ConfigurationError(
            "DARKQ_WORKER_LEASE_S",
            f"is {settings.worker_lease_s:g} and must be above DARKQ_REDIS_TIMEOUT_S "
            f"({settings.redis_timeout_s:g}): one call without an answer would cost all leases; "
            f"set DARKQ_REDIS_TIMEOUT_S={settings.worker_lease_s * 2 / 3:g}",
        )
    files = Files(settings)
    files.check()
    async with AsyncExitStack() as stack:
        servers = servers_of(settings)
        redis = servers.client()
        # No patience: a claim that waited out an outage in silence would find every lease lapsed.
        lease_redis = servers.client(patience_s=0, connections=2)
        worker_id = make_worker_id()
        leases = Leases(
            lease_redis,
            worker_id,
            lease_s=settings.worker_lease_s,
            job_ttl_s=settings.job_ttl_s,
            max_lost_leases=settings.worker_max_lost_leases,
            timeout_s=settings.redis_timeout_s,
        )
        writer = Writer(servers, settings)
        counting = Counting(lease_redis, worker_id, writer.tally, writer.budget)
        live = Live(servers, patience_s=None)
        session = make_session()
        upstreams = make_upstreams(settings, session)
        rules = make_rules(settings)
        limits = Limits(redis, [each.name for each in upstreams], rules, settings)
        for close in (
            lease_redis.aclose,
            redis.aclose,
            limits.aclose,
            live.aclose,
            session.close,
        ):
            stack.push_async_callback(close)
        await refuse_unfit(redis)
        client = await stack.enter_async_context(Client(settings=settings))
        runners = FileBatchRunners(client, files, settings)
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
            counting=counting,
            serves=lambda: announcement(upstreams.served(rules)),
            owner=lambda partition: servers.owner(PartitionKeys(partition).wake),
            ctx=ctx,
            handle_signals=handle_signals,
        )
        async with asyncio.TaskGroup() as tasks:
            beside = (
                tasks.create_task(keep_listed(upstreams), name="darkq-models"),
                tasks.create_task(runners.run(), name="darkq-file-batches"),
            )
            try:
                await worker.serve()
            finally:
                for task in beside:
                    task.cancel()


def main(settings: Settings | None = None) -> None:
    """Run a worker in this process, until SIGINT or SIGTERM.

    Raises `ConfigurationError`.
    """
    settings = settings or Settings.load()
    logs.configure_logging(settings.log_format, settings.worker_log_level)
    logging.getLogger("arq").setLevel(logging.WARNING)  # it would print arguments
    _collect_garbage_seldom()
    with export_traces("darkq-worker"), asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(run_worker(settings))


def _collect_garbage_seldom() -> None:
    """Leave what is loaded alone: looking through it took a seventh of a short job's time."""
    gc.freeze()
    gc.set_threshold(5_000, 20, 20)


def _loop_factory() -> Any:
    try:
        import uvloop
    except ImportError:  # Windows
        return None
    return uvloop.new_event_loop
