"""A batch whose input and output are files: asked for by one process, run by any worker.

What is asked for, and how far it has come, is one record. Its creator writes it once; then only
the worker that holds the batch's lease does. Cancelling is not in it: that is said to the batch
itself (`Batch.cancel`), and its runner hears of it.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Literal, NamedTuple, TypeAlias

import msgspec
from redis.asyncio import Redis

from darkq.connection import speaking_darkq
from darkq.errors import BatchNotFound, CorruptRecord, NewerRecord
from darkq.job import checked_metadata
from darkq.keys import FILE_BATCHES_OPEN, BatchKeys, file_batches_of
from darkq.openai_body import Endpoint
from darkq.record import decode_head, tenant_of

FileBatchState: TypeAlias = Literal[
    "validating", "in_progress", "finalizing", "completed", "failed", "expired", "cancelled"
]

TTL_S = 30 * 86400
MOST_LISTED = 10_000
"""Of a tenant; older ones are known by their ids alone."""


class LineError(msgspec.Struct, frozen=True, kw_only=True):
    """What is wrong with an input that cannot be run."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


class FileBatch(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was asked for, and how far it has come. Times are epoch seconds.

    `completed` and `failed` are counted when it ends; until then the batch itself knows them.
    `output_ttl_s` is how long its output and error files are kept, if it is not as usual.
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
    ended_at: int | None = None
    total: int = 0
    completed: int = 0
    failed: int = 0
    output_file_id: str | None = None
    error_file_id: str | None = None
    output_ttl_s: int | None = None
    errors: tuple[LineError, ...] = ()

    def __repr__(self) -> str:
        return f"FileBatch(id={self.id!r}, state={self.state!r})"


class FileBatchPage(NamedTuple):
    """Some of a tenant's batches; `has_more` tells whether others follow."""

    records: list[FileBatch]
    has_more: bool


_decoder = msgspec.json.Decoder(FileBatch)


class FileBatches:
    """The records of a Redis. Every method raises `RedisUnavailable`."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def create(self, record: FileBatch) -> None:
        """Store a new one; a worker finds it soon. Raises `InvalidJob` for its metadata."""
        checked_metadata(record.metadata)
        key, ours = BatchKeys.parse(record.id).files, file_batches_of(_digest(record.tenant))
        async with speaking_darkq():
            await self._redis.set(key, msgspec.json.encode(record), ex=TTL_S)
            await self._redis.zadd(ours, {record.id: time.time()})
            await self._redis.zremrangebyrank(ours, 0, -MOST_LISTED - 1)
            await self._redis.expire(ours, TTL_S)
            await self._redis.zadd(FILE_BATCHES_OPEN, {record.id: time.time()})
            await self._redis.expire(FILE_BATCHES_OPEN, TTL_S)

    async def update(self, record: FileBatch) -> None:
        """Write how far a batch has come."""
        async with speaking_darkq():
            key = BatchKeys.parse(record.id).files
            await self._redis.set(key, msgspec.json.encode(record), ex=TTL_S)

    async def get(self, batch_id: str) -> FileBatch:
        """Return a record. Raises `BatchNotFound`, `CorruptRecord`, `NewerRecord`."""
        key = BatchKeys.parse(batch_id).files
        async with speaking_darkq():
            data: bytes | None = await self._redis.get(key)
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
        """Return a tenant's batches, the newest first: `limit` of them, those that follow `after`.

        No more records are read than are returned; one that cannot be read is left out. Raises
        `BatchNotFound` when `after` is not in the list.
        """
        ours = file_batches_of(_digest(tenant))
        async with speaking_darkq():
            await self._redis.zremrangebyscore(ours, "-inf", time.time() - TTL_S)
            ids = await self._ids(ours, after, limit + 1, oldest_first=oldest_first)
            async with self._redis.pipeline(transaction=False) as pipe:  # of any partitions
                for batch_id in ids[:limit]:
                    pipe.get(BatchKeys.parse(batch_id).files)
                found: Sequence[bytes | None] = await pipe.execute()
        records = []
        for batch_id, data in zip(ids, found, strict=False):
            with suppress(CorruptRecord):  # one of them must not hide the others
                if data is not None:
                    records.append(_read(data, batch_id))
        return FileBatchPage(records, len(ids) > limit)

    async def _ids(
        self, ours: str, after: str | None, count: int, *, oldest_first: bool
    ) -> list[str]:
        """Return ids of a list. By score and not by place: places shift when one is added."""
        score: float | None = None
        if after is not None and (score := await self._redis.zscore(ours, after)) is None:
            raise BatchNotFound(after)
        if oldest_first:
            start = "-inf" if score is None else score
            found = await self._redis.zrangebyscore(ours, start, "+inf", start=0, num=count + 1)
        else:
            start = "+inf" if score is None else score
            found = await self._redis.zrevrangebyscore(ours, start, "-inf", start=0, num=count + 1)
        ids = [batch_id.decode() for batch_id in found]
        if after in ids:
            ids = ids[ids.index(after) + 1 :]
        return ids[:count]

    async def open(self) -> list[str]:
        """Return the ids of those for which something is left to do, the oldest first."""
        async with speaking_darkq():
            ids = await self._redis.zrange(FILE_BATCHES_OPEN, 0, -1)
        return [batch_id.decode() for batch_id in ids]

    async def close(self, batch_id: str) -> None:
        """Say that there is nothing left to do for a batch."""
        async with speaking_darkq():
            await self._redis.zrem(FILE_BATCHES_OPEN, batch_id)


def _read(data: bytes, batch_id: str) -> FileBatch:
    """Read a record. Raises `CorruptRecord`, `NewerRecord`."""
    try:
        if decode_head(data).is_newer:
            raise NewerRecord(batch_id, tenant_of(data))
        return _decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise CorruptRecord(batch_id, tenant_of(data)) from None


def _digest(tenant: str | None) -> str:
    return "open" if tenant is None else hashlib.sha256(tenant.encode()).hexdigest()[:32]
