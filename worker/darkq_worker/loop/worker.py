"""arq's Worker, with leases.

Kept from arq: its keys and records, its signals, its hooks, cron and health check, its life cycle
from `main` to `close`. Different, and why:

- One script claims jobs of several queues, most urgent first. Running jobs leave the range that
  claims read. Stock arq reads them on every poll, and claims nothing behind 100 of them.
- A claim is a lease, and one call renews the leases of all jobs. The jobs of a dead worker run
  elsewhere within one lease; stock arq waits for the timeout of the job.
- A script settles a job only if it still belongs to this worker. A stock arq worker that was
  suspended overwrites the result of its successor.
- A pub/sub message wakes an idle worker; the poll is only the fallback.

    serve ── startup ── main: claim ⇄ sleep ── close: finish or hand back
               ├── writer (group commit)
               ├── heartbeat: leases of jobs, leases of calls, metrics
               └── health check

The path of an attempt from its claim to its settlement is ten files. Start reading at `main`.

    loop/claiming          when to claim, and how much
    leases                 the claim itself
    attempts/running       a task per attempt; its outcome
    attempts/generate      the choice of an upstream; its answer, copied into the event log
    limits/calls           admission of the call
    upstreams/base         what an upstream guarantees
    pieces                 parts of an answer, and how they merge
    writing/attempt_log    text as numbered events, and the flush that carries them
    writing/writer         flushes to Redis
    attempts/settlement    what is stored at the end
"""

from __future__ import annotations

import asyncio
import logging
import math
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from signal import Signals
from typing import Any, cast

from arq.connections import ArqRedis
from arq.worker import Worker, func
from redis.asyncio import Redis
from redis.exceptions import RedisError

from darkq.operate.upstreams import announcement
from darkq.operate.workers import sign_in, sign_out
from darkq.protocol import keys as names
from darkq.protocol.record import FUNCTION, deserialize, serialize
from darkq.redis.pool import brief
from darkq.redis.pubsub import Live
from darkq.redis.servers import Servers
from darkq.telemetry.logging import LogEvent
from darkq_worker.attempts.generate import WorkerParts, generate
from darkq_worker.attempts.running import RunningAttempts
from darkq_worker.leases import Leases
from darkq_worker.loop.claiming import Claiming
from darkq_worker.loop.heartbeat import Heartbeat
from darkq_worker.loop.presence import Draining, repeat_health_check

logger = logging.getLogger("darkq.worker")

HEALTH_INTERVAL_S = 10
_CLOSE_PATIENCE_S = 5.0
_A_YEAR_S = 365 * 24 * 3600
_CANCEL = b"cancel "


class LeasedWorker(Worker):
    """A worker of all partitions, or some. Make it inside a running loop; run it with `serve()`."""

    def __init__(
        self,
        *,
        parts: WorkerParts,
        servers: Servers,
        redis: Redis,
        leases: Leases,
        live: Live,
        handle_signals: bool = True,
    ) -> None:
        settings, worker_id = parts.settings, parts.worker_id
        super().__init__(
            # arq insists on functions, and never calls them here: `RunningAttempts` does.
            [func(cast(Any, generate), name=FUNCTION)],
            queue_name=names.PartitionKeys(0).queue("interactive"),
            redis_pool=cast(ArqRedis, redis),  # of which only what any client can do is used
            max_jobs=settings.worker_jobs,
            job_completion_wait=math.ceil(settings.worker_shutdown_grace_s),
            handle_signals=handle_signals,
            health_check_interval=HEALTH_INTERVAL_S,
            health_check_key=names.WorkerKeys(worker_id).health,
            job_serializer=serialize,
            job_deserializer=deserialize,
        )
        self._settings = settings
        self._worker_id = worker_id
        self._parts = parts
        self._live = live
        self._wake_up = asyncio.Event()
        self._running = RunningAttempts(
            self.tasks,
            parts,
            on_ended=lambda claim: self._claiming.free_slot(claim),  # noqa: PLW0108  made below
        )
        self._heartbeat = Heartbeat(
            leases,
            parts.limits,
            parts.metrics,
            self._running.attempts,
            lease_s=settings.worker_lease_s,
            on_failure=lambda partition: self._claiming.search(partition),  # noqa: PLW0108
        )
        self._draining = Draining(worker_id, leave=self._leave, wake_up=self._wake_up)
        self._claiming = Claiming(
            leases,
            self._running,
            self._heartbeat,
            servers,
            settings,
            wake_up=self._wake_up,
            may_claim=lambda: self.allow_pick_jobs and not self._draining.is_idle,
        )

    async def serve(self) -> None:
        """Run until a signal or a cancellation; then finish or hand back running jobs.

        Raises the error of the writer or the heartbeat, which only a bug can cause.
        """
        async with asyncio.TaskGroup() as tasks:
            background = [
                tasks.create_task(self._parts.writer.run(), name="darkq-writer"),
                tasks.create_task(self._heartbeat.run(), name="darkq-heartbeat"),
            ]
            checking = repeat_health_check(self.heart_beat, self._draining, self.pool)
            health_check = tasks.create_task(checking, name="darkq-health-check")
            try:
                await self._run_until_stopped()
            finally:
                health_check.cancel()  # it would undo `sign_out`
                await self.close()
                for task in background:
                    task.cancel()

    async def _run_until_stopped(self) -> None:
        """Run arq's main task. A signal cancels only that task, a cancellation this one too."""
        try:
            await self.async_run()
        except asyncio.CancelledError:
            this = asyncio.current_task()
            if this is not None and this.cancelling():
                raise

    async def main(self) -> None:
        """Claim and sleep in turns. Continues through any outage of Redis."""
        with ExitStack() as stack:
            for partition in self._settings.find_worker_partitions():
                keys = names.PartitionKeys(partition)
                for channel in (keys.wake, keys.wake_worker(self._worker_id)):
                    is_own = channel != keys.wake
                    sink = Wakeups(
                        partition, is_own, self._claiming, self._running, self._heartbeat
                    )
                    stack.enter_context(self._live.listening(channel, sink))
            orders = names.WorkerKeys(self._worker_id).drain_request
            stack.enter_context(self._live.listening(orders, self._draining))
            await self._claiming.claim_due()  # the first claim also reads the clock of Redis
            ready = LogEvent("worker ready", jobs_at_once=self.max_jobs, worker=self._worker_id)
            logger.info(ready)
            while True:
                await self._poll_iteration()

    async def _poll_iteration(self) -> None:
        """Claim due jobs, as many as there is room for; then sleep until there may be more."""
        self._wake_up.clear()  # before the claim: a wake-up during it must not be lost
        with suppress(TimeoutError):
            async with asyncio.timeout(await self._claiming.claim_due()):
                await self._wake_up.wait()

    async def record_health(self) -> None:
        """Write the health record, every `HEALTH_INTERVAL_S`; see `darkq.operate.workers`."""
        before = self._last_health_check
        try:
            await super().record_health()
            if self._last_health_check != before:
                announced = announcement(self._parts.upstreams.describe())
                await sign_in(self.pool, self._worker_id, announced)
                await self._draining.read(self.pool)
        except Exception:
            # arq notes the time before it writes. After a failure the next call must try again.
            self._last_health_check = before
            raise

    # Shutdown

    def handle_sig_wait_for_completion(self, signum: Signals) -> None:
        """Stop claiming, and let jobs finish within the grace; a second signal hands them back."""
        fields = {"signal": signum.name, "jobs": len(self.tasks), "worker": self._worker_id}
        if self.allow_pick_jobs:
            logger.info(LogEvent("shutdown requested", **fields))
            super().handle_sig_wait_for_completion(signum)
        else:
            logger.info(LogEvent("shutdown forced", **fields))
            self.handle_sig(signum)

    def _leave(self, patient: bool) -> None:
        """Shut down as after a signal; a patient one waits for running jobs without a limit."""
        if self.allow_pick_jobs:
            self._job_completion_wait = _A_YEAR_S if patient else self._job_completion_wait
            super().handle_sig_wait_for_completion(Signals.SIGTERM)

    async def _sleep_until_tasks_complete(self) -> None:
        """Wait within the grace; first for a claim under way, whose jobs run here too."""
        await self._claiming.wait_for_claim()
        await super()._sleep_until_tasks_complete()

    async def close(self) -> None:
        """Hand back the jobs that still run. While Redis is unavailable, their leases expire."""
        self.allow_pick_jobs = False
        await self._claiming.aclose(_CLOSE_PATIENCE_S)
        unfinished = list(self.tasks.values())
        for task in unfinished:
            task.cancel()
        if unfinished:
            await asyncio.wait(unfinished, timeout=_CLOSE_PATIENCE_S)
        try:
            async with asyncio.timeout(_CLOSE_PATIENCE_S):
                await self._parts.writer.wait_drained()
                await self._parts.metrics.send()
                await sign_out(self.pool, self._worker_id)
        except (TimeoutError, RedisError, OSError) as error:
            fields = {"error": brief(error), "worker": self._worker_id}
            logger.warning(LogEvent("Redis unavailable during shutdown", **fields))
        logger.info(LogEvent("worker stopped", worker=self._worker_id))


@dataclass(frozen=True, eq=False)
class Wakeups:
    """The sink of a wake channel of a partition: the common one, or the worker's own."""

    partition: int
    is_own: bool
    claiming: Claiming
    running: RunningAttempts
    heartbeat: Heartbeat

    def deliver(self, message: bytes) -> None:
        """Claim, or stop a cancelled job. Its id is not trusted: it may be of any bytes."""
        if message.startswith(_CANCEL):
            self.running.cancel(message.removeprefix(_CANCEL))
        elif self.is_own:
            self.claiming.wake(self.partition)
        else:
            self.claiming.look_at(self.partition)

    def gap(self) -> None:
        """Messages may have been lost: look for due jobs, and for cancelled ones."""
        self.claiming.look_at(self.partition)
        if not self.is_own:
            self.heartbeat.hurry()
