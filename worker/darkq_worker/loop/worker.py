"""arq's Worker, with leases.

What stays arq's: its keys and records, its signals, its hooks' and cron's and health check's
place, its life from `main` to `close`. What is different, and why:

- One script claims jobs of several queues, most urgent first. Running jobs leave the range that
  claims look at: stock arq scans them on every poll, and starves behind 100 of them.
- A claim is a lease, renewed for all jobs in one call. A dead worker's jobs run elsewhere
  within the lease; stock arq waits for the job's timeout.
- Jobs are finished by a script that first asks whether they are still ours. Stock arq lets a
  worker that was away overwrite its successor's result.
- A pub/sub message wakes an idle worker; the poll is only the fallback.

    serve ── startup ── main: claim ⇄ sleep ── close: finish or hand back
               ├── writer (group commit)
               ├── heartbeat, for leases on jobs, leases on calls, and counts
               └── signs of life

What a worker hears of a partition: there are jobs, or one is to be cancelled.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from signal import Signals
from typing import Any, cast

from arq.connections import ArqRedis
from arq.worker import Worker
from redis.asyncio import Redis
from redis.exceptions import RedisError

from darkq.operate.workers import sign_in, sign_out
from darkq.protocol import keys as names
from darkq.protocol.record import deserialize, serialize
from darkq.redis.pool import brief
from darkq.redis.pubsub import Live
from darkq.settings.settings import Settings
from darkq.telemetry.logging import LogEvent
from darkq_worker.attempts.metrics import Counting
from darkq_worker.attempts.running import Running
from darkq_worker.leases import Claim, Leases
from darkq_worker.limits.call import Limits
from darkq_worker.loop.claiming import Claiming
from darkq_worker.loop.heartbeat import Heartbeat
from darkq_worker.loop.presence import Draining, SignsOfLife
from darkq_worker.writing.writer import Writer

logger = logging.getLogger("darkq.worker")

HEALTH_INTERVAL_S = 10
_CLOSE_PATIENCE_S = 5.0
_A_YEAR_S = 365 * 24 * 3600


class LeasedWorker(Worker):
    """A worker of all partitions, or some. Make it inside a running loop; run it with `serve()`."""

    def __init__(
        self,
        functions: Sequence[Any],
        *,
        settings: Settings,
        worker_id: str,
        redis: Redis,
        leases: Leases,
        writer: Writer,
        live: Live,
        limits: Limits,
        counting: Counting,
        serves: Callable[[], bytes],
        owner: Callable[[int], object],
        ctx: dict[str, Any],
        handle_signals: bool = True,
    ) -> None:
        super().__init__(
            functions,
            queue_name=names.PartitionKeys(0).queue("interactive"),
            redis_pool=cast(ArqRedis, redis),  # of which only what any client can do is used
            max_jobs=settings.worker_jobs,
            job_completion_wait=math.ceil(settings.worker_shutdown_grace_s),
            handle_signals=handle_signals,
            health_check_interval=HEALTH_INTERVAL_S,
            health_check_key=names.WorkerKeys(worker_id).health,
            job_serializer=serialize,
            job_deserializer=deserialize,
            ctx={**ctx, "limits": limits},
        )
        self._settings = settings
        self._worker_id = worker_id
        self._serves = serves
        self._writer = writer
        self._live = live
        self._running = Running(
            {name: function.coroutine for name, function in self.functions.items()},
            self.ctx,
            self.tasks,
            settings=settings,
            worker_id=worker_id,
            writer=writer,
            counting=counting,
            on_ended=self._slot_is_free,
        )
        attempts = self._running.attempts
        self._wake = asyncio.Event()
        lease_s = settings.worker_lease_s
        self._counting = counting
        self._heartbeat = Heartbeat(
            leases,
            limits,
            counting,
            attempts,
            lease_s=lease_s,
            on_failure=self._in_doubt,
        )
        self._draining = Draining(worker_id, leave=self._leave, wake=self._wake.set)
        self._signs = SignsOfLife(self.heart_beat, self._draining, redis)
        self._claiming = Claiming(
            leases,
            attempts,
            settings,
            may_claim=self._may_claim,
            start=self._running.start,
            renew=self._heartbeat.beat_in,
            owner=owner,
            wake=self._wake.set,
        )

    async def serve(self) -> None:
        """Run until a signal or a cancellation; then finish or hand back what runs.

        Raises what broke the writer or the heartbeat, which nothing should.
        """
        async with asyncio.TaskGroup() as tasks:
            background = [
                tasks.create_task(self._writer.run(), name="darkq-writer"),
                tasks.create_task(self._heartbeat.run(), name="darkq-heartbeat"),
            ]
            signs = tasks.create_task(self._signs.run(), name="darkq-signs-of-life")
            try:
                await self._until_stopped()
            finally:
                signs.cancel()  # or it would undo our signing out
                await self.close()
                for task in background:
                    task.cancel()

    async def _until_stopped(self) -> None:
        """Run arq's main task; a signal cancels that one, and not us."""
        try:
            await self.async_run()
        except asyncio.CancelledError:
            us = asyncio.current_task()
            if us is not None and us.cancelling():
                raise

    async def main(self) -> None:
        """Claim and sleep in turns. Survives any absence of Redis."""
        with ExitStack() as stack:
            for partition in self._settings.find_worker_partitions():
                look = partial(self._look_at, partition)
                sink = Wakeups(
                    on_jobs=look, on_cancel=self._running.cancel, on_gap=partial(self._missed, look)
                )
                stack.enter_context(self._live.listening(names.PartitionKeys(partition).wake, sink))
                mine = Wakeups(
                    on_jobs=partial(self._woken, partition),
                    on_cancel=self._running.cancel,
                    on_gap=look,
                )
                own = names.PartitionKeys(partition).wake_worker(self._worker_id)
                stack.enter_context(self._live.listening(own, mine))
            orders = names.WorkerKeys(self._worker_id).drain_request
            stack.enter_context(self._live.listening(orders, self._draining))
            await self._claiming.claim_due()  # asked twice, the first time: it learns the time
            self._say("worker ready", jobs_at_once=self.max_jobs)
            while True:
                await self._poll_iteration()

    async def _poll_iteration(self) -> None:
        """Claim what is due and there is room for; then sleep until there may be more."""
        self._wake.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(await self._claiming.claim_due()):
                await self._wake.wait()

    def _may_claim(self) -> bool:
        return self.allow_pick_jobs and not self._draining.is_idle

    def _slot_is_free(self, claim: Claim) -> None:
        self._claiming.ended(claim)
        self._wake.set()

    def _say(self, event: str, level: int = logging.INFO, **facts: object) -> None:
        logger.log(level, LogEvent(event, **facts, worker=self._worker_id))

    async def record_health(self) -> None:
        """Give a sign of life, now and then; see `darkq.workers`."""
        before = self._last_health_check
        try:
            await super().record_health()
            if self._last_health_check != before:
                await sign_in(self.pool, self._worker_id, self._serves())
                await self._draining.read(self.pool)
        except Exception:
            self._last_health_check = before  # arq notes it before it has been given
            raise

    # What the wake channels say

    def _in_doubt(self, partition: int) -> None:
        """Its leases could not be renewed: claim nothing of it before they are."""
        self._claiming.search(partition)

    def _look_at(self, partition: int) -> None:
        self._claiming.look_at(partition)
        self._wake.set()

    def _woken(self, partition: int) -> None:
        self._claiming.woken(partition)
        self._wake.set()

    def _missed(self, look: Callable[[], None]) -> None:
        """Messages were lost: look at the queues, and for jobs to cancel."""
        look()
        self._heartbeat.hurry()

    # The end

    def handle_sig_wait_for_completion(self, signum: Signals) -> None:
        """Stop claiming, and let jobs finish within the grace; a second signal ends that."""
        if self.allow_pick_jobs:
            self._say("stopping, jobs may finish", signal=signum.name, jobs=len(self.tasks))
            super().handle_sig_wait_for_completion(signum)
        else:
            self._say("told again, jobs are handed back", signal=signum.name, jobs=len(self.tasks))
            self.handle_sig(signum)

    def _leave(self, patient: bool) -> None:
        """Stop claiming, and end when what runs has ended, or the grace has; as after a signal."""
        if self.allow_pick_jobs:
            self._job_completion_wait = _A_YEAR_S if patient else self._job_completion_wait
            super().handle_sig_wait_for_completion(Signals.SIGTERM)

    async def _sleep_until_tasks_complete(self) -> None:
        """Wait within the grace; first for a claim on its way, or what it takes loses its lease."""
        await self._claiming.settled()
        await super()._sleep_until_tasks_complete()

    async def close(self) -> None:
        """Hand back what still runs. While Redis is away, leave it to the leases."""
        self.allow_pick_jobs = False
        await self._claiming.aclose(_CLOSE_PATIENCE_S)
        unfinished = list(self.tasks.values())
        for task in unfinished:
            task.cancel()
        if unfinished:
            await asyncio.wait(unfinished, timeout=_CLOSE_PATIENCE_S)
        try:
            async with asyncio.timeout(_CLOSE_PATIENCE_S):
                await self._writer.drained()
                await self._counting.report()
                await sign_out(self.pool, self._worker_id)
        except (TimeoutError, RedisError, OSError) as error:
            self._say("closed without Redis", logging.WARNING, error=brief(error))
        self._say("worker stopped")


_CANCEL = b"cancel "


class Wakeups:
    """The sink of a partition's wake channel."""

    def __init__(
        self,
        *,
        on_jobs: Callable[[], None],
        on_cancel: Callable[[bytes], None],
        on_gap: Callable[[], None],
    ) -> None:
        self._on_jobs = on_jobs
        self._on_cancel = on_cancel
        self._on_gap = on_gap

    def deliver(self, message: bytes) -> None:
        """Tell what a message says; an id in it is of anybody's, and may be no text."""
        if message.startswith(_CANCEL):
            self._on_cancel(message.removeprefix(_CANCEL))
        else:
            self._on_jobs()

    def gap(self) -> None:
        """Tell that messages were lost."""
        self._on_gap()
