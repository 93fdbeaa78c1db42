"""Batches over files: requested by one process, run by any worker.

One record holds the request and its progress. Its creator writes it once. Then only the worker with
the batch's lease writes it, by a script that compares the token and the state. A cancel is not in
the record: it belongs to the batch itself (`Batch.cancel`).

Files that crashed runners have left in the store are deleted an hour after the end. Until then the
parts stay too: if Redis loses its latest writes, the end among them, they are needed again.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Literal, NamedTuple, TypeAlias

import msgspec
from redis.asyncio import Redis

from darkq.errors import BatchNotFound, BatchTaken, CorruptRecord, NewerRecord
from darkq.openai.body import Endpoint
from darkq.protocol.job import check_metadata
from darkq.protocol.keys import (
    FILE_BATCHES_ENDED,
    FILE_BATCHES_OPEN,
    BatchKeys,
    tenant_file_batches,
)
from darkq.protocol.record import decode_head, read_tenant
from darkq.redis import scripts
from darkq.redis.pool import is_wrong_type, speaking_darkq

FileBatchState: TypeAlias = Literal[
    "validating", "in_progress", "finalizing", "completed", "failed", "expired", "cancelled"
]

TTL_S = 30 * 86400
MOST_LISTED = 10_000
"""Per tenant. Older batches are not listed, but can be read by their ids."""
LEFTOVERS_KEPT_S = 3600.0
MOST_ENDED = 100
MOST_AT_ONCE = 200


class LineError(msgspec.Struct, frozen=True, kw_only=True):
    """Why an input cannot be run."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


class FileBatch(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The request and its progress. Times are epoch seconds.

    `completed` and `failed` are set at the end; until then the batch itself has these counts.
    `refused` lines are part of the total and have no job: their requests cannot be fulfilled.
    `output_ttl_s` is for how long its output and error files are kept, instead of the default.
    """

    v: int = 1
    id: str
    tenant: str | None
    input_file_id: str
    endpoint: Endpoint
    metadata: dict[str, str] = {}
    models: tuple[str, ...] = ()
    max_prompt_bytes: int | None = None
    state: FileBatchState = "validating"
    created_at: int
    expires_at: int
    in_progress_at: int | None = None
    finalizing_at: int | None = None
    cancelling_at: int | None = None
    ended_at: int | None = None
    total: int = 0
    refused: int = 0
    completed: int = 0
    failed: int = 0
    output_file_id: str | None = None
    error_file_id: str | None = None
    output_ttl_s: int | None = None
    errors: tuple[LineError, ...] = ()

    def __repr__(self) -> str:
        return f"FileBatch(id={self.id!r}, state={self.state!r})"


class FileBatchPage(NamedTuple):
    """Some of a tenant's batches, and whether others follow."""

    records: list[FileBatch]
    has_more: bool


_decoder = msgspec.json.Decoder(FileBatch)


class FileBatches:
    """The records in a Redis. Every method raises `RedisUnavailable`."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def create(self, record: FileBatch) -> None:
        """Store a new record, which a worker finds soon. An existing one stays unchanged.

        Raises `InvalidJob` for its metadata.
        """
        check_metadata(record.metadata)
        key, ours = BatchKeys.parse(record.id).files, tenant_file_batches(record.tenant)
        async with speaking_darkq():
            await self._redis.set(key, msgspec.json.encode(record), ex=TTL_S, nx=True)
            async with self._redis.pipeline(transaction=True) as pipe:
                pipe.zadd(ours, {record.id: time.time()}, nx=True)
                pipe.zremrangebyrank(ours, 0, -MOST_LISTED - 1)
                pipe.expire(ours, TTL_S)
                pipe.zadd(FILE_BATCHES_OPEN, {record.id: time.time()}, nx=True)
                pipe.expire(FILE_BATCHES_OPEN, TTL_S)
                await pipe.execute()

    async def turn(
        self, record: FileBatch, *, before: FileBatchState, runner: str, begins: Iterable[str] = ()
    ) -> None:
        """Write the progress of a batch, if its state is `before` and no other process runs it.

        `runner` is the token of the batch's lease. `begins` are the ids of files that the caller
        is about to assemble; `begun` returns them. Raises `BatchTaken`, `BatchNotFound`.
        """
        async with speaking_darkq():
            outcome = await scripts.filebatch_advance(
                self._redis,
                BatchKeys.parse(record.id),
                token=runner,
                before=before,
                record=msgspec.json.encode(record),
                ttl_s=TTL_S,
                outputs=begins,
            )
        if outcome == "gone":
            raise BatchNotFound(record.id)
        if outcome:
            raise BatchTaken(record.id, outcome)

    async def parts(self, batch_id: str) -> list[str]:
        """Return the names of the acknowledged parts, in the order of their first ends."""
        return await self._members(BatchKeys.parse(batch_id).parts)

    async def get(self, batch_id: str) -> FileBatch:
        """Return a record. Raises `BatchNotFound`, `CorruptRecord`, `NewerRecord`."""
        (data,) = await self._stored([batch_id])
        if data is None:
            raise BatchNotFound(batch_id)
        return _read(data, batch_id)

    async def page(
        self,
        tenant: str | None,
        *,
        limit: int,
        after: str | None = None,
        oldest_first: bool = False,
    ) -> FileBatchPage:
        """Return up to `limit` of a tenant's batches, the newest first, that follow `after`.

        Reads only the records that it returns, and leaves out unreadable ones. Raises
        `BatchNotFound` if `after` is not in the list.
        """
        ours = tenant_file_batches(tenant)
        async with speaking_darkq():
            await self._drop_expired(ours)
            ids = await self._ids(ours, after, limit + 1, oldest_first=oldest_first)
        return FileBatchPage(await self._records(ids[:limit]), len(ids) > limit)

    async def _drop_expired(self, ours: str) -> None:
        """Remove the oldest ids whose records have expired, a bounded number of them."""
        oldest_s = time.time() - TTL_S
        ids = await self._redis.zrangebyscore(ours, "-inf", oldest_s, start=0, num=MOST_ENDED)
        if ids:
            await self._redis.zrem(ours, *ids)

    async def _ids(
        self, ours: str, after: str | None, count: int, *, oldest_first: bool
    ) -> list[str]:
        """Return ids of a list. By score and not by rank: ranks shift when an id is added."""
        first, last = ("-inf", "+inf") if oldest_first else ("+inf", "-inf")
        if after is not None and (first := await self._redis.zscore(ours, after)) is None:
            raise BatchNotFound(after)
        read = self._redis.zrangebyscore if oldest_first else self._redis.zrevrangebyscore
        found = await read(ours, first, last, start=0, num=count + 1)
        ids = [batch_id.decode(errors="replace") for batch_id in found]
        if after in ids:
            ids = ids[ids.index(after) + 1 :]
        return ids[:count]

    async def open(self) -> list[str]:
        """Return the ids of the batches that are not finished, the oldest first."""
        return await self._members(FILE_BATCHES_OPEN)

    async def reads(self, tenant: str | None, file_id: str) -> str | None:
        """Return the id of an unfinished batch whose input is this file of the tenant."""
        ids = await self.open()
        for start in range(0, len(ids), MOST_AT_ONCE):
            for record in await self._records(ids[start : start + MOST_AT_ONCE]):
                is_open = record.ended_at is None and record.tenant == tenant
                if is_open and record.input_file_id == file_id:
                    return record.id
        return None

    async def _records(self, ids: Sequence[str]) -> list[FileBatch]:
        """Read records. An unreadable one is left out, and must not hide the others."""
        records = []
        ids = [batch_id for batch_id in ids if _can_be_batch(batch_id)]
        for batch_id, data in zip(ids, await self._stored(ids), strict=True):
            with suppress(CorruptRecord):
                if data is not None:
                    records.append(_read(data, batch_id))
        return records

    async def _stored(self, ids: Sequence[str]) -> list[bytes | None]:
        """Return the stored records; b"", which is no record, for a key of another type."""
        async with speaking_darkq(), self._redis.pipeline(transaction=False) as pipe:
            for batch_id in ids:  # of any partitions
                pipe.get(BatchKeys.parse(batch_id).files)
            found = await pipe.execute(raise_on_error=False)
            for reply in found:
                if isinstance(reply, Exception) and not is_wrong_type(reply):
                    raise reply
        return [b"" if isinstance(reply, Exception) else reply for reply in found]

    async def close(self, batch_id: str) -> None:
        """Mark a batch as finished; its leftovers are deleted later."""
        due_s = time.time() + LEFTOVERS_KEPT_S
        await self._move(batch_id, FILE_BATCHES_OPEN, FILE_BATCHES_ENDED, due_s)

    async def reopen(self, batch_id: str) -> None:
        """Undo `close`, because Redis has lost the end of the batch."""
        await self._move(batch_id, FILE_BATCHES_ENDED, FILE_BATCHES_OPEN, time.time())

    async def _move(self, batch_id: str, source: str, target: str, score: float) -> None:
        async with speaking_darkq(), self._redis.pipeline(transaction=True) as pipe:
            pipe.zadd(target, {batch_id: score})
            pipe.expire(target, TTL_S)
            pipe.zrem(source, batch_id)
            await pipe.execute()

    async def ended(self) -> list[str]:
        """Return the ids of batches whose leftovers are due for deletion."""
        async with speaking_darkq():
            ids = await self._redis.zrangebyscore(
                FILE_BATCHES_ENDED, "-inf", time.time(), start=0, num=MOST_ENDED
            )
        return [batch_id.decode(errors="replace") for batch_id in ids]

    async def begun(self, batch_id: str) -> list[str]:
        """Return the ids of the files that runners have begun to assemble."""
        return await self._members(BatchKeys.parse(batch_id).outputs)

    async def _members(self, key: str) -> list[str]:
        async with speaking_darkq():
            members = await self._redis.zrange(key, 0, -1)
        return [member.decode(errors="replace") for member in members]

    async def drop(self, batch_id: str) -> None:
        """Delete an id without a record from the lists."""
        async with speaking_darkq():
            await self._redis.zrem(FILE_BATCHES_OPEN, batch_id)
            await self._redis.zrem(FILE_BATCHES_ENDED, batch_id)

    async def fail_lost(self, batch_id: str) -> None:
        """Fail a batch of which Redis has only the record left. Raises `BatchTaken`."""
        try:
            record = await self.get(batch_id)
            if record.ended_at is None:
                message = "Redis has lost the batch, or it was not run for too long"
                errors = (LineError(code="batch_lost", message=message),)
                ended = msgspec.structs.replace(
                    record, state="failed", errors=errors, ended_at=int(time.time())
                )
                await self.turn(ended, before=record.state, runner="")
            await self.close(batch_id)
        except BatchNotFound:
            await self.drop(batch_id)

    async def forget_leftovers(self, batch_id: str) -> None:
        """Note that the leftovers of a batch are deleted."""
        keys = BatchKeys.parse(batch_id)
        async with speaking_darkq():
            await self._redis.delete(keys.parts, keys.outputs)
            await self._redis.zrem(FILE_BATCHES_ENDED, batch_id)


def _read(data: bytes, batch_id: str) -> FileBatch:
    """Read a record. Raises `CorruptRecord`, `NewerRecord`."""
    try:
        if decode_head(data).is_newer:
            raise NewerRecord(batch_id, read_tenant(data))
        return _decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise CorruptRecord(batch_id, read_tenant(data)) from None


def _can_be_batch(batch_id: str) -> bool:
    try:
        BatchKeys.parse(batch_id)
    except BatchNotFound:
        return False
    return True
