"""Starts a worker."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import secrets
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack

from darkq.client import Client
from darkq.errors import ConfigurationError
from darkq.redis.pubsub import Live
from darkq.redis.servers import servers_of
from darkq.serving.files import Files
from darkq.settings.settings import Settings
from darkq.telemetry import logging as logs
from darkq.telemetry.export import run_process
from darkq_worker.attempts.generate import WorkerParts
from darkq_worker.attempts.telemetry import WorkerMetrics
from darkq_worker.files.runner import FileBatchRunners
from darkq_worker.leases import Leases
from darkq_worker.limits.calls import Limits
from darkq_worker.loop.worker import LeasedWorker
from darkq_worker.redis_checks import check_redis
from darkq_worker.upstreams.openai import refresh_models
from darkq_worker.wiring import make_session, make_upstreams
from darkq_worker.writing.writer import Writer


async def run_worker(
    settings: Settings,
    *,
    handle_signals: bool = True,
    started: Callable[[], None] = lambda: None,
) -> None:
    """Run a worker until a cancellation or a signal; then close everything.

    `started` is called when Redis has answered, and the settings have been found to be valid.
    Waits while Redis is unavailable. Raises `ConfigurationError`.
    """
    _check(settings)
    files = Files(settings)
    files.check()
    async with AsyncExitStack() as stack:
        servers = servers_of(settings)
        redis = servers.client()
        # No patience: after a silent wait through an outage, a claim would find every lease
        # expired, and would take the jobs of workers that are alive.
        lease_redis = servers.client(patience_s=0, connections=2)
        # Host and pid for people, the rest for uniqueness.
        worker_id = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        leases = Leases(
            lease_redis,
            worker_id,
            lease_s=settings.worker_lease_s,
            job_ttl_s=settings.job_ttl_s,
            max_lost_leases=settings.worker_max_lost_leases,
            timeout_s=settings.redis_timeout_s,
        )
        writer = Writer(servers, settings)
        live = Live(servers, patience_s=None)
        session = make_session()
        upstreams = make_upstreams(settings, session)
        limits = Limits(redis, [each.name for each in upstreams], upstreams.rules, settings)
        for part in (lease_redis, redis, limits, live):
            stack.push_async_callback(part.aclose)
        stack.push_async_callback(session.close)
        await check_redis(redis)
        client = await stack.enter_async_context(Client(settings=settings))
        runners = FileBatchRunners(client, files, settings)
        parts = WorkerParts(
            settings=settings,
            worker_id=worker_id,
            upstreams=upstreams,
            limits=limits,
            writer=writer,
            metrics=WorkerMetrics(lease_redis, worker_id, writer.tally, writer.budget),
        )
        worker = LeasedWorker(
            parts=parts,
            servers=servers,
            redis=redis,
            leases=leases,
            live=live,
            handle_signals=handle_signals,
        )
        started()
        async with asyncio.TaskGroup() as tasks:
            background = (
                tasks.create_task(refresh_models(upstreams), name="darkq-models"),
                tasks.create_task(runners.run(), name="darkq-file-batches"),
            )
            try:
                await worker.serve()
            finally:
                for task in background:
                    task.cancel()


def _check(settings: Settings) -> None:
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


def main(settings: Settings | None = None, *, started: Callable[[], None] = lambda: None) -> None:
    """Run a worker in this process, until SIGINT or SIGTERM. `started` is that of `run_worker`.

    Raises `ConfigurationError`.
    """
    settings = settings or Settings.load()
    logs.configure_logging(settings.log_format, settings.worker_log_level)
    logging.getLogger("arq").setLevel(logging.WARNING)  # it would log the arguments of jobs
    gc.freeze()  # scanning what is loaded took a seventh of the time of a short job
    gc.set_threshold(5_000, 20, 20)
    run_process("darkq-worker", run_worker(settings, started=started))
