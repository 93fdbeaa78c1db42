"""Making jobs due that were put off: their turn has come earlier than was told.

Each partition has a task of its own while there is something to make due in it. So a partition
that cannot be reached delays neither the renewal of calls nor the jobs of other partitions: its
jobs are set aside, where they keep their rank, and come back to ask when they are due.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

from redis.asyncio import Redis
from redis.exceptions import RedisError

from darkq.protocol.keys import PRIORITIES, JobKeys, queue, wake
from darkq.redis import scripts
from darkq.redis.scripts import Argument

_FIELDS = 3
_MAX_CALLED = 100  # as in limits.lua
_MAX_PENDING = 500
_PATIENCE_S = 1.0


class Turn(NamedTuple):
    """A job to be made due, as `limits.lua` returns it."""

    arq_id: bytes
    queue_number: int
    place: bytes


class Turns:
    """Makes jobs due in the background.

    `tell` reports to the upstream's limits, by arq id, that jobs are `gone` from their queues or
    `away`; it learns which jobs to call next. It must not raise.
    """

    def __init__(self, redis: Redis, tell: Callable[[Sequence[Argument]], Awaitable[None]]) -> None:
        self._redis = redis
        self._tell = tell
        self._pending: dict[int, dict[bytes, Turn]] = {}
        self._away: set[int] = set()
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._asides: set[asyncio.Task[None]] = set()

    def call(self, called: Sequence[Any]) -> None:
        """Take three fields per job, as `limits.lua` returns them."""
        foreign: list[bytes] = []
        away: list[bytes] = []
        for n in range(0, len(called), _FIELDS):
            turn = Turn(*called[n : n + _FIELDS])
            partition = _partition(turn.arq_id)
            if partition is None or turn.queue_number not in range(len(PRIORITIES)):
                foreign.append(turn.arq_id)  # anybody may have written it
                continue
            if partition in self._away:
                away.append(turn.arq_id)
            self._add(partition, turn)
        if foreign or away or len(called) >= _MAX_CALLED * _FIELDS:
            self._tell_soon(_words(foreign, "gone") + _words(away, "away"))

    async def aclose(self) -> None:
        """Make nothing due any more."""
        tasks = [*self._tasks.values(), *self._asides]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _add(self, partition: int, turn: Turn) -> None:
        pending = self._pending.setdefault(partition, {})
        if len(pending) < _MAX_PENDING:  # the others have their turn
            pending[turn.arq_id] = turn
        if partition not in self._tasks:
            task = asyncio.create_task(self._run(partition), name="darkq-make-due")
            self._tasks[partition] = task

    async def _run(self, partition: int) -> None:
        try:
            while pending := self._pending.pop(partition, None):
                await self._make_due(partition, list(pending.values()))
        finally:
            del self._tasks[partition]

    async def _make_due(self, partition: int, turns: Sequence[Turn]) -> None:
        loop = asyncio.get_running_loop()
        slow = loop.call_later(_PATIENCE_S, self._set_aside, partition, turns)
        try:
            gone = await make_due(self._redis, partition, turns)
        except (RedisError, OSError):
            if partition not in self._away:
                self._set_aside(partition, turns)
        else:
            self._away.discard(partition)
            if gone:
                await self._tell(_words(gone, "gone"))
        finally:
            slow.cancel()

    def _set_aside(self, partition: int, turns: Sequence[Turn]) -> None:
        """Let other jobs pass those of a partition that does not answer."""
        self._away.add(partition)
        pending = self._pending.get(partition, {})
        self._tell_soon(_words([*(turn.arq_id for turn in turns), *pending], "away"))

    def _tell_soon(self, args: Sequence[Argument]) -> None:
        async def tell() -> None:
            await self._tell(args)

        task = asyncio.create_task(tell(), name="darkq-set-aside")
        self._asides.add(task)
        task.add_done_callback(self._asides.discard)


def _words(arq_ids: Sequence[bytes], word: str) -> list[Argument]:
    return [field for arq_id in arq_ids for field in (arq_id, word, "")]


async def make_due(redis: Redis, partition: int, turns: Sequence[Turn]) -> list[bytes]:
    """Move jobs back to their places and wake workers; return those that are in no queue."""
    args: list[Argument] = [wake(partition)]
    for turn in turns:
        args += turn
    queues = [queue(partition, priority) for priority in PRIORITIES]
    return [turns[n].arq_id for n in await scripts.make_due(redis, queues, args)]


def _partition(arq_id: bytes) -> int | None:
    try:
        return JobKeys.from_arq_id(arq_id.decode()).partition
    except ValueError:
        return None
