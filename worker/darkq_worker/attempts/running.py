"""What a worker runs: each attempt in a task of its own, from its claim to its settlement."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from darkq.settings.settings import Settings
from darkq.telemetry.logging import LogEvent, describe_error
from darkq_worker.attempts.attempt import Attempt, Function
from darkq_worker.attempts.log_line import report
from darkq_worker.attempts.metrics import Counting
from darkq_worker.attempts.outcome import HandBack, Lost, Outcome
from darkq_worker.attempts.settle import settlement_of
from darkq_worker.attempts.tracing import AttemptSpan, attempt_span
from darkq_worker.leases import Claim
from darkq_worker.writing.attempt_log import AttemptLog
from darkq_worker.writing.writer import Writer

logger = logging.getLogger("darkq.worker")


class Running:
    """The attempts of one worker. `tasks` are arq's, which waits for them at the end.

    `on_ended` hears of each claim whose slot is free again.
    """

    def __init__(
        self,
        functions: Mapping[str, Function],
        ctx: dict[str, Any],
        tasks: dict[str, asyncio.Task[Any]],
        *,
        settings: Settings,
        worker_id: str,
        writer: Writer,
        counting: Counting,
        on_ended: Callable[[Claim], None],
    ) -> None:
        self.attempts: set[Attempt] = set()
        self._functions = functions
        self._ctx = ctx
        self._tasks = tasks
        self._settings = settings
        self._worker_id = worker_id
        self._writer = writer
        self._counting = counting
        self._on_ended = on_ended

    def start(self, claims: Sequence[Claim]) -> None:
        """Run what has been claimed.

        A server that forgot that it gave us a job may give it again, with the same number and
        token: it is the attempt that runs here, or whose end is on its way.
        """
        self._counting.claimed(claims)
        for claim in claims:
            attempt = Attempt(claim, self._settings)
            if attempt.name in self._tasks:
                continue
            task = asyncio.get_running_loop().create_task(self._run(attempt), name=attempt.name)
            attempt.begin(task)
            self.attempts.add(attempt)
            self._tasks[attempt.name] = task
            task.add_done_callback(partial(self._ended, attempt))

    def cancel(self, arq_id: bytes) -> None:
        """Stop a job, if it runs here."""
        for attempt in self.attempts:
            if attempt.claim.keys.arq_id.encode() == arq_id:
                attempt.stop("cancelled")

    def _ended(self, attempt: Attempt, task: asyncio.Task[None]) -> None:
        self.attempts.discard(attempt)
        del self._tasks[attempt.name]
        self._on_ended(attempt.claim)
        if not attempt.has_begun:  # a task that is cancelled before its first step never runs
            self._hand_back(attempt)
        error = None if task.cancelled() else task.exception()
        if error is not None:  # its lease will run out, and the job is claimed again
            job_id, found = attempt.claim.keys.public_id, describe_error(error)
            line = LogEvent("attempt broken", job=job_id, exception=found, worker=self._worker_id)
            logger.error(line)

    def _hand_back(self, attempt: Attempt) -> None:
        claim, writer = attempt.claim, self._writer
        log = writer.open(claim.keys, claim.attempt, claim.token, on_lost=lambda: None)
        settlement = settlement_of(HandBack(), attempt, log, self._settings)
        if settlement is not None:
            writer.settle(settlement)

    async def _run(self, attempt: Attempt) -> None:
        """Run an attempt and settle it. A cancellation ends the run, never the settlement."""
        attempt.has_begun = True
        claim, writer = attempt.claim, self._writer
        log = writer.open(
            claim.keys, claim.attempt, claim.token, on_lost=lambda: attempt.stop("lost")
        )
        of_this = {"claim": claim, "log": log, "budget": writer.budget, "tally": writer.tally}
        with attempt_span(claim) as span:
            outcome = await attempt.run(self._functions, {**self._ctx, **of_this, "span": span})
            settlement = settlement_of(outcome, attempt, log, self._settings)
            tell = partial(self._tell, attempt, log, span)
            if settlement is None:
                writer.abandon(log)
                tell(outcome)
            else:
                settled = writer.settle(settlement)
                settled.add_done_callback(partial(self._counting.settled, outcome, log.upstream))
                settled.add_done_callback(lambda ours: tell(outcome if ours.result() else Lost()))
                await asyncio.shield(settled)

    def _tell(self, attempt: Attempt, log: AttemptLog, span: AttemptSpan, outcome: Outcome) -> None:
        """Say how an attempt has ended, which Redis knows: nobody may wait for that any more."""
        report(outcome, attempt, log, self._worker_id)
        span.ended(outcome, log)
