"""Moves the waiting jobs of a queue to another Redis, each exactly once, through any failure.

    source   queue ── depart ──> moving ────────────────────── forget ──> deleted
                                   └─ read ─┐                    │
    target                                  └── arrive ──> queue ┘   with a note of the arrival

Each arrow is one script. A job in transit is in no queue, so no worker runs it at the source. The
note at the target outlives the job: a second arrival changes nothing, even if the job has ended and
was deleted there. After a crash between two arrows the caller starts again, and jobs in transit are
moved first.

Jobs may be in transit to one target only. For the time of a move, the source has a token, and the
target has a note of this token. A move to another target is refused.

Idempotency keys are copied before the jobs. A key does not contain the queue of its job, and a job
does not contain its key. So all keys are scanned, in bounded pages. At the target a key has no
effect before its job has arrived.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from typing import Any, NamedTuple

from redis.asyncio import Redis

from darkq.errors import CannotMove, JobNotFound, QueueFull
from darkq.jobs import cancel as cancellation
from darkq.jobs.job_lists import MAX_LISTED
from darkq.operate.move import pages
from darkq.protocol.job import Priority
from darkq.protocol.keys import JobKeys, PartitionKeys
from darkq.protocol.record import decode_job
from darkq.redis import scripts
from darkq.redis.servers import scan_pages
from darkq.settings.settings import Settings

_NEEDED = ("paused", "closed")
_CARRIED = ["tries", "lost", "cancel"]
_ELSEWHERE = "a move to another Redis has not ended: end it there, or give its jobs back"
_AT_ONCE = 20  # an event log with them, of megabytes at most


class _Load(NamedTuple):
    """Everything that is stored of a job in transit."""

    record: bytes | None
    ttl_ms: int
    attempt: bytes | None
    state: Sequence[bytes | None]
    place: float | None
    events: Sequence[tuple[bytes, dict[bytes, bytes]]]


class Transfer:
    """Moves a queue from a source to a target. Every method raises what redis-py raises."""

    def __init__(
        self, source: Redis, target: Redis, priority: Priority, settings: Settings
    ) -> None:
        self._source = source
        self._target = target
        self._priority: Priority = priority
        self._settings = settings
        self._note_ttl_s = settings.job_ttl_s * 2
        self._field = f"moving:{priority}"

    async def run(self, limit: int | None = None) -> AsyncGenerator[Counter[str], None]:
        """Move all jobs, or `limit` of them, and yield the counts of each page.

        `moved`, `keys` (idempotency keys), and jobs that stay: `running`, `line`, `expired`.
        Raises `CannotMove`, `QueueFull` of the target.
        """
        left = limit
        for partition in range(self._settings.partitions):
            await self._begin(partition)
        carrying = carry_idempotency_keys(self._source, self._target, self._priority)
        async with aclosing(carrying) as carried:
            async for keys in carried:
                yield Counter(keys=keys)
        for partition in range(self._settings.partitions):
            async with aclosing(self._carry_all(partition, left)) as tallies:
                async for tally in tallies:
                    left = None if left is None else left - tally["moved"]
                    yield tally
            await self._ask(self._source.hdel(PartitionKeys(partition).control, self._field))

    async def _begin(self, partition: int) -> None:
        """Check that the queue can be moved, and that jobs in transit go to the same target."""
        name = PartitionKeys(partition).control
        words = [f"{word}:{self._priority}" for word in _NEEDED]
        if None in await self._ask(self._source.hmget(name, words)):
            raise CannotMove(self._priority, "pause and close it first, in every partition")
        token = secrets.token_hex(16)
        # The note first: another process that finds the token relies on it.
        await self._note(partition, token)
        is_new = await self._ask(self._source.hsetnx(name, self._field, token))
        token = (await self._ask(self._source.hget(name, self._field))).decode()
        # The target's own field has our token only if both clients lead to the same Redis.
        here = await self._ask(self._target.hget(name, self._field))
        if here is not None and here.decode() == token:
            if is_new:
                await self._ask(self._source.hdel(name, self._field))
            raise CannotMove(self._priority, "the target is the same Redis")
        # An earlier move has not ended. Its target has a note of the token that it used.
        if not is_new and not await self._target.exists(JobKeys(partition, token).moved):
            raise CannotMove(self._priority, _ELSEWHERE)
        await self._note(partition, token)  # renews its time to live

    async def _note(self, partition: int, token: str) -> None:
        await self._target.set(
            JobKeys(partition, token).moved, "1", px=int(self._note_ttl_s * 1000)
        )

    async def _carry_all(
        self, partition: int, limit: int | None
    ) -> AsyncGenerator[Counter[str], None]:
        """Move the jobs that an earlier call left in transit, then those of the queue."""
        keys = PartitionKeys(partition)
        async with aclosing(pages(self._source, keys.moving(self._priority))) as found:
            async for page in found:
                yield await self._carry(page)
        async with aclosing(pages(self._source, keys.queue(self._priority))) as found:
            async for page in found:
                some = page if limit is None else page[:limit]
                if not some:
                    return
                departed, tally = await self._depart(some)
                tally += await self._carry(departed)
                limit = None if limit is None else limit - tally["moved"]
                yield tally

    async def _depart(self, jobs: Sequence[JobKeys]) -> tuple[list[JobKeys], Counter[str]]:
        """Remove jobs from the queue; return those in transit, and why the others stay."""
        verdicts = await scripts.transfer_depart(self._source, self._priority, jobs)
        if not verdicts:
            raise CannotMove(self._priority, "it was resumed or opened meanwhile")
        found = list(zip(jobs, verdicts, strict=True))
        stays = Counter[str](v for _, v in found if v not in ("departed", "gone"))
        return [keys for keys, v in found if v == "departed"], stays

    async def _carry(self, jobs: Sequence[JobKeys]) -> Counter[str]:
        """Move jobs that have departed. After a `QueueFull` the others stay in transit."""
        tally = Counter[str]()
        for start in range(0, len(jobs), _AT_ONCE):
            some = jobs[start : start + _AT_ONCE]
            loads = await self._read(some)
            verdicts = await asyncio.gather(*map(self._arrive, some, loads))
            arrived = [keys for keys, v in zip(some, verdicts, strict=True) if v != "full"]
            await self._forget(arrived)
            if len(arrived) < len(some):
                name = PartitionKeys(jobs[0].partition).queue(self._priority)
                raise QueueFull(name, self._settings.queue_max_jobs)
            tally["moved"] += sum(v in ("arrived", "known") for v in verdicts)
            tally["expired"] += verdicts.count("expired")
        return +tally  # drops zeros

    async def _read(self, jobs: Sequence[JobKeys]) -> list[_Load]:
        async with self._source.pipeline(transaction=False) as pipe:
            for keys in jobs:
                pipe.get(keys.job)
                pipe.pttl(keys.job)
                pipe.get(keys.retry)
                pipe.hmget(keys.state, _CARRIED)
                pipe.zscore(PartitionKeys(keys.partition).moving(self._priority), keys.arq_id)
                pipe.xrange(keys.events)
            replies = await pipe.execute()
        return [_Load(*replies[n : n + 6]) for n in range(0, len(replies), 6)]

    async def _arrive(self, keys: JobKeys, load: _Load) -> str:
        if load.record is None or load.place is None:
            return "expired"  # or completed by another process that moves the same queue
        try:
            tenant = decode_job(load.record).job.tenant
        except ValueError:  # of a newer version, or unreadable: it is moved unchanged
            tenant = None
        ttl_ms = load.ttl_ms if load.ttl_ms > 0 else int(self._settings.job_ttl_s * 1000)
        fields = zip(_CARRIED, load.state, strict=True)
        job = scripts.MovingJob(
            keys,
            tenant,
            load.record,
            ttl_ms,
            load.attempt,
            {name: value for name, value in fields if value is not None},
            load.place,
            [(entry_id, fields[b"e"]) for entry_id, fields in load.events],
        )
        return await scripts.transfer_arrive(
            self._target,
            self._priority,
            job,
            note_ttl_s=self._note_ttl_s,
            queue_max_jobs=self._settings.queue_max_jobs,
            max_listed=MAX_LISTED,
        )

    async def _forget(self, jobs: Sequence[JobKeys]) -> None:
        """Delete moved jobs at the source. Those cancelled in transit are cancelled at the target.

        The source keeps them until that is done: after a crash in between, the next call repeats
        it.
        """
        if not jobs:
            return
        verdicts = await scripts.transfer_forget(
            self._source, self._priority, jobs, cancels_passed_on=False
        )
        cancelled = [keys for keys, v in zip(jobs, verdicts, strict=True) if v == "cancel"]
        ttl_s = self._settings.result_ttl_s
        for keys in cancelled:
            with suppress(JobNotFound):  # it has ended at the target, and was deleted
                await cancellation.cancel(self._target, keys, result_ttl_s=ttl_s)
        if cancelled:
            await scripts.transfer_forget(
                self._source, self._priority, cancelled, cancels_passed_on=True
            )

    @staticmethod
    async def _ask(reply: Any) -> Any:
        """Await a reply: in redis-py's types it may be no coroutine."""
        return await reply


async def carry_idempotency_keys(
    source: Redis, target: Redis, priority: Priority
) -> AsyncGenerator[int, None]:
    """Copy the keys of a queue's jobs; yield the count of each page. Raises as redis-py does."""
    async with aclosing(scan_pages(source, "darkq:idempotency:*")) as found:
        async for page in found:
            yield await _carry(source, target, priority, page)


async def _carry(source: Redis, target: Redis, priority: Priority, names: Sequence[bytes]) -> int:
    async with source.pipeline(transaction=False) as pipe:
        for name in names:
            pipe.get(name)
            pipe.pttl(name)
        replies = await pipe.execute()
    noted = [
        (name, value, ttl_ms, keys)
        for name, value, ttl_ms in zip(names, replies[::2], replies[1::2], strict=True)
        if ttl_ms > 0 and (keys := JobKeys.from_member(value.partition(b" ")[2])) is not None
    ]
    async with source.pipeline(transaction=False) as pipe:
        for _, _, _, keys in noted:
            pipe.zscore(PartitionKeys(keys.partition).queue(priority), keys.arq_id)
            pipe.zscore(PartitionKeys(keys.partition).moving(priority), keys.arq_id)
        places = await pipe.execute() if noted else []
    waiting = [
        note
        for note, place, on_its_way in zip(noted, places[::2], places[1::2], strict=True)
        if place is not None or on_its_way is not None
    ]
    async with target.pipeline(transaction=False) as pipe:
        for name, value, ttl_ms, _ in waiting:
            pipe.set(name, value, px=ttl_ms, nx=True)
        copied: list[Any] = await pipe.execute() if waiting else []
    return sum(map(bool, copied))
