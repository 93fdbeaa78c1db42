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
               └── heartbeat
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

from darkq import keys as names
from darkq.connection import brief
from darkq.live import Live
from darkq.record import deserialize, serialize
from darkq.settings import Settings
from darkq.workers import sign_in, sign_out
from darkq_worker.attempt import Attempt, where
from darkq_worker.claiming import Claiming
from darkq_worker.claims import Claim, Leases
from darkq_worker.counting import Counting
from darkq_worker.ending import settlement_of
from darkq_worker.heartbeat import Heartbeat
from darkq_worker.limits import Limits
from darkq_worker.outcome import Lost
from darkq_worker.wakeups import Wakeups
from darkq_worker.writer import Writer

logger = logging.getLogger("darkq.worker")

HEALTH_INTERVAL_S = 10
_SIGN_INTERVAL_S = 1.0
_CLOSE_PATIENCE_S = 5.0


class LeasedWorker(Worker):
    """A worker of all partitions. Make it inside a running event loop; run it with `serve()`."""

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
            queue_name=names.queue(0, "interactive"),
            redis_pool=cast(ArqRedis, redis),  # of which only what any client can do is used
            max_jobs=settings.worker_jobs,
            job_completion_wait=math.ceil(settings.worker_shutdown_grace_s),
            handle_signals=handle_signals,
            health_check_interval=HEALTH_INTERVAL_S,
            health_check_key=names.worker(worker_id),
            job_serializer=serialize,
            job_deserializer=deserialize,
            ctx={**ctx, "limits": limits},
        )
        self._settings = settings
        self._worker_id = worker_id
        self._serves = serves
        self._writer = writer
        self._live = live
        self._coroutines = {name: f.coroutine for name, f in self.functions.items()}
        self._attempts: set[Attempt] = set()
        self._wake = asyncio.Event()
        lease_s = settings.worker_lease_s
        self._counting = counting
        self._heartbeat = Heartbeat(leases, limits, counting, self._attempts, lease_s=lease_s)
        self._claiming = Claiming(
            leases,
            self._attempts,
            settings,
            may_claim=lambda: self.allow_pick_jobs,
            start=self._start_all,
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
            health = tasks.create_task(self._give_signs_of_life(), name="darkq-health")
            try:
                await self._until_stopped()
            finally:
                health.cancel()  # or it would undo our signing out
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
                    on_jobs=look, on_cancel=self._cancel, on_gap=partial(self._missed, look)
                )
                stack.enter_context(self._live.listening(names.wake(partition), sink))
            logger.info("worker ready: %d jobs at once", self.max_jobs)
            while True:
                await self._poll_iteration()

    async def _poll_iteration(self) -> None:
        """Claim what is due and there is room for; then sleep until there may be more."""
        self._wake.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(await self._claiming.claim_due()):
                await self._wake.wait()

    async def _give_signs_of_life(self) -> None:
        """Say now and then that we are alive."""
        failed = False
        while True:
            try:
                await self.heart_beat()
                failed = False
            except (RedisError, OSError) as error:
                if not failed:
                    logger.warning("no sign of life, will keep trying: %s", brief(error))
                failed = True
            await asyncio.sleep(_SIGN_INTERVAL_S)

    def _start_all(self, claims: Sequence[Claim]) -> None:
        self._counting.claimed(claims)
        for claim in claims:
            self._start(claim)

    def _start(self, claim: Claim) -> None:
        attempt = Attempt(claim, self._settings)
        if attempt.name in self.tasks:
            # A server that forgot that it gave us this job has given it again, with the same number
            # and token: it is the attempt that runs here, or whose end is on its way.
            return
        task = self.loop.create_task(self._run_attempt(attempt), name=attempt.name)
        attempt.begin(task)
        self._attempts.add(attempt)
        self.tasks[attempt.name] = task
        task.add_done_callback(lambda _: self._ended(attempt, task))

    def _ended(self, attempt: Attempt, task: asyncio.Task[None]) -> None:
        self._attempts.discard(attempt)
        del self.tasks[attempt.name]
        self._claiming.ended(attempt.claim)
        self._wake.set()
        error = None if task.cancelled() else task.exception()
        if error is not None:  # its lease will run out, and the job is claimed again
            logger.error("job %s: %s", attempt.claim.keys.public_id, where(error))

    async def _run_attempt(self, attempt: Attempt) -> None:
        """Run an attempt and settle it. A cancellation ends the run, never the settlement."""
        claim = attempt.claim
        log = self._writer.open(
            claim.keys, claim.attempt, claim.token, on_lost=lambda: attempt.stop("lost")
        )
        writer = self._writer
        of_this = {"claim": claim, "log": log, "budget": writer.budget, "tally": writer.tally}
        ctx = {**self.ctx, **of_this}
        outcome = await attempt.run(self._coroutines, ctx)
        settlement = settlement_of(outcome, attempt, log, self._settings)
        if settlement is None:
            self._writer.abandon(log)
        else:
            settled = self._writer.settle(settlement)
            settled.add_done_callback(partial(self._counting.settled, outcome, log.upstream))
            if not await asyncio.shield(settled):
                outcome = Lost()
        attempt.report(outcome, log)

    async def record_health(self) -> None:
        """Give a sign of life, now and then; see `darkq.workers`."""
        before = self._last_health_check
        await super().record_health()
        if self._last_health_check != before:
            await sign_in(self.pool, self._worker_id, self._serves())

    # What the wake channels say

    def _look_at(self, partition: int) -> None:
        self._claiming.look_at(partition)
        self._wake.set()

    def _cancel(self, arq_id: bytes) -> None:
        for attempt in self._attempts:
            if attempt.claim.keys.arq_id.encode() == arq_id:
                attempt.stop("cancelled")

    def _missed(self, look: Callable[[], None]) -> None:
        """Messages were lost: look at the queues, and for jobs to cancel."""
        look()
        self._heartbeat.hurry()

    # The end

    def handle_sig_wait_for_completion(self, signum: Signals) -> None:
        """Stop claiming, and let jobs finish within the grace; a second signal ends that."""
        if self.allow_pick_jobs:
            logger.info("%s: waiting for %d jobs to finish", signum.name, len(self.tasks))
            super().handle_sig_wait_for_completion(signum)
        else:
            logger.info("%s again: handing back %d jobs", signum.name, len(self.tasks))
            self.handle_sig(signum)

    async def _sleep_until_tasks_complete(self) -> None:
        """Wait within the grace; first for a claim on its way, or what it takes loses its lease."""
        await self._claiming.settled()
        await super()._sleep_until_tasks_complete()

    async def close(self) -> None:
        """Hand back what still runs. While Redis is away, leave it to the leases."""
        self.allow_pick_jobs = False
        await self._claiming.aclose()
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
            logger.warning("closed without Redis: %s", brief(error))
        logger.info("worker stopped")
