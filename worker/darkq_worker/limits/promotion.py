"""Promotion of deferred jobs: they become due before the turn that they were given.

A turn may be too late: a call ended early, or an earlier job was cancelled. So each reply of
`limit_admit.lua` and `limit_report.lua` names the jobs that could call now. The worker that
receives the reply makes them due, in the background.

Each partition has a task of its own while it has jobs to promote. A partition that cannot be
reached delays neither the renewal of calls nor the jobs of other partitions: its jobs are reported
as `away`. They keep their rank, and ask again when they are due.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from darkq.protocol.keys import PRIORITIES, JobKeys
from darkq.redis import scripts
from darkq.redis.scripts import CallReport, CallWord, Turn

_MAX_PENDING = 500
_PATIENCE_S = 1.0


class Promoter:
    """Makes deferred jobs due, in the background.

    `report` sends to `limit_report.lua`, by arq id, that jobs are `gone` from their queues or
    `away`. Its reply names the next jobs to promote. It must not raise.
    """

    def __init__(
        self, redis: Redis, report: Callable[[Sequence[CallReport]], Coroutine[Any, Any, None]]
    ) -> None:
        self._redis = redis
        self._report = report
        self._pending: dict[int, dict[bytes, Turn]] = {}
        self._away: set[int] = set()
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._reports: set[asyncio.Task[None]] = set()

    def promote(self, turns: Sequence[Turn]) -> None:
        """Make the jobs due that a reply of Redis names."""
        foreign: list[bytes] = []
        away: list[bytes] = []
        for turn in turns:
            keys = JobKeys.from_member(turn.arq_id)
            if keys is None or turn.queue_number not in range(len(PRIORITIES)):
                foreign.append(turn.arq_id)  # not written by darkq
                continue
            if keys.partition in self._away:
                away.append(turn.arq_id)
            self._add(keys.partition, turn)
        # A full reply may hide jobs behind it: a report returns the next ones.
        if foreign or away or len(turns) >= scripts.MOST_CALLED:
            self._report_soon(_reports(foreign, "gone") + _reports(away, "away"))

    async def aclose(self) -> None:
        """Stop promoting jobs."""
        tasks = [*self._tasks.values(), *self._reports]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _add(self, partition: int, turn: Turn) -> None:
        pending = self._pending.setdefault(partition, {})
        if len(pending) < _MAX_PENDING:  # jobs beyond that become due at their turn
            pending[turn.arq_id] = turn
        if partition not in self._tasks:
            task = asyncio.create_task(self._run(partition), name="darkq-make-due")
            self._tasks[partition] = task

    async def _run(self, partition: int) -> None:
        try:
            # Jobs that are added during a call share the next one.
            while pending := self._pending.pop(partition, None):
                await self._make_due(partition, list(pending.values()))
        finally:
            del self._tasks[partition]

    async def _make_due(self, partition: int, turns: Sequence[Turn]) -> None:
        loop = asyncio.get_running_loop()
        # A timer beside the call, and not a timeout: the call goes on, and other jobs may pass.
        slow = loop.call_later(_PATIENCE_S, self._set_aside, partition, turns)
        try:
            gone = await scripts.make_due(self._redis, partition, turns)
        except (RedisError, OSError):
            if partition not in self._away:
                self._set_aside(partition, turns)
        else:
            self._away.discard(partition)
            if gone:
                await self._report(_reports(gone, "gone"))
        finally:
            slow.cancel()

    def _set_aside(self, partition: int, turns: Sequence[Turn]) -> None:
        """Report the jobs of a partition that does not respond as `away`: others may pass them."""
        self._away.add(partition)
        pending = self._pending.get(partition, {})
        self._report_soon(_reports([*(turn.arq_id for turn in turns), *pending], "away"))

    def _report_soon(self, reports: Sequence[CallReport]) -> None:
        task = asyncio.create_task(self._report(reports), name="darkq-set-aside")
        self._reports.add(task)
        task.add_done_callback(self._reports.discard)


def _reports(arq_ids: Sequence[bytes], word: CallWord) -> list[CallReport]:
    return [CallReport(arq_id, word) for arq_id in arq_ids]
