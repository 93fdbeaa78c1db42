"""A queue's waiting jobs carried to another Redis, each once, whatever breaks on the way.

    source   queue ── depart ──> moving ─────────────────────── let go ──> nothing
                                   └─ read ─┐                     │
    target                                  └── arrive ──> queue ─┘  and a note that it came

Each arrow is one script. A job on its way is in no queue, so nobody runs it at the source. The
note outlives it at the target, so that a second arrival changes nothing, even when the job has
ended there and was forgotten. Whoever is killed between two arrows calls again, and what is on its
way is carried first.

What is on its way may be at one target only. The source keeps a token for as long as a move
lasts, and its target a note of that token: to another one nobody may move meanwhile.

Idempotency keys carried to another Redis, before the jobs that they stand for.

A key does not say in which queue its job waits, and no job knows its key: so all keys are looked
through, in bounded pages. At the target a key counts once its job is there.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any, NamedTuple

from redis.asyncio import Redis

from darkq.errors import CannotMove, JobNotFound, QueueFull
from darkq.jobs import cancel as cancellation
from darkq.jobs.tenant_jobs import MAX_LISTED
from darkq.operate.move import pages
from darkq.protocol.job import Priority
from darkq.protocol.keys import JobKeys, PartitionKeys
from darkq.protocol.record import decode_job
from darkq.redis import scripts
from darkq.redis.servers import scan
from darkq.settings.settings import Settings

_NEEDED = ("paused", "closed")
_CARRIED = ["tries", "lost", "cancel"]
_ELSEWHERE = "a move to another Redis has not ended: end it there, or give its jobs back"
_AT_ONCE = 20  # an event log with them, of megabytes at most


class _Load(NamedTuple):
    """All that is known of a job on its way."""

    record: bytes | None
    ttl_ms: int
    attempt: bytes | None
    state: Sequence[bytes | None]
    place: float | None
    events: Sequence[tuple[bytes, dict[bytes, bytes]]]


class Transfer:
    """Carries a queue from a source to a target. Every method raises what redis-py raises."""

    def __init__(
        self, source: Redis, target: Redis, priority: Priority, settings: Settings
    ) -> None:
        self._source = source
        self._target = target
        self._priority: Priority = priority
        self._settings = settings
        self._note_ttl_s = settings.job_ttl_s * 2

    async def run(self, limit: int | None = None) -> AsyncGenerator[Counter[str], None]:
        """Carry everything, or so many jobs, and yield what became of each page.

        `moved`, `keys` (idempotency keys), and what stays: `running`, `line`, `expired`. Raises
        `CannotMove`, `QueueFull` of the target.
        """
        left = limit
        for partition in range(self._settings.partitions):
            await self._begin(partition)
        async with aclosing(
            carry_idempotency_keys(self._source, self._target, self._priority)
        ) as carried:
            async for keys in carried:
                yield Counter(keys=keys)
        for partition in range(self._settings.partitions):
            async with aclosing(self._carry_all(partition, left)) as tallies:
                async for tally in tallies:
                    left = None if left is None else left - tally["moved"]
                    yield tally
            await self._ask(self._source.hdel(PartitionKeys(partition).control, self._field))

    @property
    def _field(self) -> str:
        return f"moving:{self._priority}"

    async def _begin(self, partition: int) -> None:
        """Make sure that it may be moved, and that what is on its way is on its way there."""
        name = PartitionKeys(partition).control
        words = [f"{word}:{self._priority}" for word in _NEEDED]
        if None in await self._ask(self._source.hmget(name, words)):
            raise CannotMove(self._priority, "pause and close it first, in every partition")
        token = secrets.token_hex(16)
        await self._note(partition, token)  # first: who finds the token may rely on the note
        is_new = await self._ask(self._source.hsetnx(name, self._field, token))
        token = (await self._ask(self._source.hget(name, self._field))).decode()
        here = await self._ask(self._target.hget(name, self._field))
        if here is not None and here.decode() == token:
            if is_new:
                await self._ask(self._source.hdel(name, self._field))
            raise CannotMove(self._priority, "the target is the same Redis")
        if not is_new and not await self._target.exists(JobKeys(partition, token).moved):
            raise CannotMove(self._priority, _ELSEWHERE)
        await self._note(partition, token)

    async def _note(self, partition: int, token: str) -> None:
        await self._target.set(
            JobKeys(partition, token).moved, "1", px=int(self._note_ttl_s * 1000)
        )

    async def _carry_all(
        self, partition: int, limit: int | None
    ) -> AsyncGenerator[Counter[str], None]:
        """Carry what was left on its way, then the queue."""
        on_their_way = PartitionKeys(partition).moving(self._priority)
        async with aclosing(pages(self._source, on_their_way)) as found:
            async for page in found:
                yield await self._carry(page)
        name = PartitionKeys(partition).queue(self._priority)
        async with aclosing(pages(self._source, name)) as found:
            async for page in found:
                some = page if limit is None else page[:limit]
                if not some:
                    return
                departed, tally = await self._depart(some)
                tally += await self._carry(departed)
                limit = None if limit is None else limit - tally["moved"]
                yield tally

    async def _depart(self, jobs: Sequence[JobKeys]) -> tuple[list[JobKeys], Counter[str]]:
        """Take jobs out of the queue; return those that are on their way, and why others stay."""
        verdicts = await scripts.transfer_depart(self._source, self._priority, jobs)
        if not verdicts:
            raise CannotMove(self._priority, "it was resumed or opened meanwhile")
        found = list(zip(jobs, verdicts, strict=True))
        stays = Counter[str](v for _, v in found if v not in ("departed", "gone"))
        return [keys for keys, v in found if v == "departed"], stays

    async def _carry(self, jobs: Sequence[JobKeys]) -> Counter[str]:
        """Carry jobs that have departed. Raises `QueueFull`: the rest stays on its way."""
        tally = Counter[str]()
        for start in range(0, len(jobs), _AT_ONCE):
            some = jobs[start : start + _AT_ONCE]
            loads = await self._read(some)
            verdicts = await asyncio.gather(*map(self._arrive, some, loads))
            arrived = [keys for keys, v in zip(some, verdicts, strict=True) if v != "full"]
            await self._let_go(arrived)
            if len(arrived) < len(some):
                name = PartitionKeys(jobs[0].partition).queue(self._priority)
                raise QueueFull(name, self._settings.queue_max_jobs)
            tally["moved"] += sum(v in ("arrived", "known") for v in verdicts)
            tally["expired"] += verdicts.count("expired")
        return +tally  # without zeros

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
            return "expired"  # or let go by another who moves it
        try:
            tenant = decode_job(load.record).job.tenant
        except ValueError:  # a newer version's, or none: it is carried as it is
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

    async def _let_go(self, jobs: Sequence[JobKeys]) -> None:
        """Forget jobs at the source; what was cancelled on its way is cancelled where it is now."""
        if not jobs:
            return
        verdicts = await scripts.transfer_forget(
            self._source, self._priority, jobs, cancels_passed_on=False
        )
        cancelled = [keys for keys, v in zip(jobs, verdicts, strict=True) if v == "cancel"]
        for keys in cancelled:
            try:
                await cancellation.cancel(
                    self._target, keys, result_ttl_s=self._settings.result_ttl_s
                )
            except JobNotFound:  # it has ended there, and was forgotten
                continue
        if cancelled:
            await scripts.transfer_forget(
                self._source, self._priority, cancelled, cancels_passed_on=True
            )

    @staticmethod
    async def _ask(reply: Any) -> Any:
        """redis-py's types say that a reply may be no coroutine."""
        return await reply


PATTERN = "darkq:idempotency:*"
_PAGE_KEYS = 500


async def carry_idempotency_keys(
    source: Redis, target: Redis, priority: Priority
) -> AsyncGenerator[int, None]:
    """Copy the keys of a queue's jobs; yield how many of each page. Raises what redis-py raises."""
    page: list[bytes] = []
    async for name in scan(source, PATTERN, count=_PAGE_KEYS):
        page.append(name)
        if len(page) == _PAGE_KEYS:
            yield await _carry(source, target, priority, page)
            page = []
    if page:
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
        if ttl_ms > 0 and (keys := _job_of(value)) is not None
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


def _job_of(value: bytes | None) -> JobKeys | None:
    try:
        return JobKeys.from_arq_id((value or b"").decode().partition(" ")[2])
    except ValueError:
        return None
