"""Workers made of the real parts: leases, writer, attempt logs and settlements.

What is not here is what decides when to do something: that is the machine's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from darkq.protocol.record import decode_job
from darkq.settings.settings import Settings
from darkq_worker.attempts.attempt import Attempt
from darkq_worker.attempts.settle import settlement_of
from darkq_worker.leases import Claim, Leases
from integration.model.facts import MODEL, UPSTREAM, End, Release
from integration.model.faulty_redis import FaultyRedis
from integration.model.faulty_writer import Faults, FaultyWriter
from integration.model.job_model import Hold
from support.waiting import wait_until


class Worker:
    """A worker process: when it has crashed, another takes its place under a new name.

    A writer that is not connected asks where its logs stand before it sends anything.
    """

    def __init__(self, settings: Settings, redis: FaultyRedis) -> None:
        self._settings = settings
        self._redis = redis
        self.connection = Faults()
        self.writer = FaultyWriter(settings, self.connection)
        self._task = asyncio.create_task(self.writer.run())
        self.runs: list[Run] = []
        self.is_connected = False

    def begin(self, name: str) -> None:
        """Start as a process that knows of no job."""
        self.name = name
        for run in self.runs:
            self.writer.abandon(run.log)
        self.runs = []
        self.leases = Leases(
            self._redis,
            name,
            lease_s=self._settings.worker_lease_s,
            job_ttl_s=self._settings.job_ttl_s,
        )

    def __repr__(self) -> str:
        return self.name

    def drop(self, run: Run) -> None:
        """Write nothing further of a run, and end it without a word to Redis."""
        self.writer.abandon(run.log)
        self.runs.remove(run)

    async def flushed(self) -> None:
        """Wait until Redis has answered for all that was written and settled."""
        await wait_until(
            "the logs to be flushed", lambda: not any(run.log.has_work for run in self.runs)
        )
        await self.writer.drained()

    async def aclose(self) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task


class Run:
    """An attempt in a worker's hands, beside the model's hold of the job."""

    def __init__(self, worker: Worker, claim: Claim, hold: Hold, settings: Settings) -> None:
        self.worker, self.claim, self.hold = worker, claim, hold
        self.has_settled = False
        self._settings = settings
        self._attempt = Attempt(claim, settings)
        self._attempt.record = decode_job(claim.record) if claim.record else None
        self.heard_of_loss = False
        self.log = worker.writer.open(claim.keys, claim.attempt, claim.token, on_lost=self._on_lost)
        worker.runs.append(self)

    def __repr__(self) -> str:
        return repr(self.hold)

    def _on_lost(self) -> None:
        self.heard_of_loss = True

    @property
    def can_write(self) -> bool:
        return not self.has_settled and not self.log.lost

    def write(self, pieces: Sequence[str]) -> None:
        """Give text to the writer; nothing is sent before the loop runs on."""
        if pieces and not self.hold.started:
            self.log.start(model=MODEL, upstream=UPSTREAM, at_ms=1)
        for piece in pieces:
            self.log.add(piece)

    def settle(self, outcome: End | Release) -> asyncio.Future[bool]:
        """End the attempt with what was written and not sent."""
        self.has_settled = True
        settlement = settlement_of(outcome, self._attempt, self.log, self._settings)
        assert settlement is not None
        return self.worker.writer.settle(settlement)
