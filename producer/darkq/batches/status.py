"""The status of a batch, and the list of batches."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import msgspec
from redis.asyncio import Redis

from darkq.errors import BatchNotFound, CorruptRecord
from darkq.protocol.keys import BatchKeys, PartitionKeys
from darkq.redis.pool import is_wrong_type

BatchState: TypeAlias = Literal["open", "cancelling", "cancelled", "completed"]

_COUNTS = ("added", "completed", "failed", "cancelled", "acknowledged")
_PAGE_BATCHES = 100


class BatchStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The state and the counts of a batch. Times are epoch milliseconds.

    `total` is None until the input is closed. Of the `added` lines, `completed`, `failed` and
    `cancelled` ones have ended; the others wait or run. `acknowledged` ends have been taken.
    `last_line` is the highest number added. `runner` is the token of the process that runs it,
    `<host>:<pid>:<random>`. `cancelled_ms` is the time of the first cancel. `expected` is how many
    lines the batch was created for; None if that was unknown.
    """

    batch_id: str
    state: BatchState
    name: str | None
    metadata: dict[str, str]
    created_ms: int
    window: int
    total: int | None
    added: int
    completed: int
    failed: int
    cancelled: int
    acknowledged: int
    last_line: int
    runner: str | None
    cancelled_ms: int | None = None
    expected: int | None = None

    @property
    def ended(self) -> int:
        """The number of lines that have ended."""
        return self.completed + self.failed + self.cancelled

    @property
    def outstanding(self) -> int:
        """The number of lines that wait or run."""
        return self.added - self.ended


async def read_batch(redis: Redis, keys: BatchKeys) -> BatchStatus:
    """Return the status of a batch. Raises `BatchNotFound`, `CorruptRecord`."""
    (found,) = await _read(redis, [keys])
    if found is None:
        raise BatchNotFound(keys.public_id)
    if isinstance(found, CorruptRecord):
        raise found
    return found


async def list_batches(
    redis: Redis, partitions: Iterable[int]
) -> AsyncGenerator[BatchStatus, None]:
    """Yield the batches, within a partition the most recently used first."""
    for partition in partitions:
        start = 0
        while True:
            page = await redis.zrevrange(
                PartitionKeys(partition).batches, start, start + _PAGE_BATCHES - 1
            )
            known = [keys for member in page if (keys := BatchKeys.from_member(member)) is not None]
            for status in await _read(redis, known):
                if isinstance(status, BatchStatus):
                    yield status
            start += _PAGE_BATCHES
            if len(page) < _PAGE_BATCHES:
                break


async def _read(
    redis: Redis, known: Sequence[BatchKeys]
) -> list[BatchStatus | CorruptRecord | None]:
    """Return the status of batches. An unreadable one must not hide the others."""
    async with redis.pipeline(transaction=False) as pipe:
        for keys in known:
            pipe.hgetall(keys.batch)
            pipe.get(keys.runner)
        replies = await pipe.execute(raise_on_error=False)
    return [
        _readable(keys, fields, runner)
        for keys, fields, runner in zip(known, replies[::2], replies[1::2], strict=True)
    ]


def _readable(keys: BatchKeys, fields: Any, runner: Any) -> BatchStatus | CorruptRecord | None:
    for reply in (fields, runner):
        if isinstance(reply, Exception):
            if not is_wrong_type(reply):
                raise reply
            return CorruptRecord(keys.public_id)
    try:
        return _status(keys, fields, runner) if fields else None
    except (KeyError, ValueError, msgspec.MsgspecError):
        return CorruptRecord(keys.public_id)


def _status(keys: BatchKeys, fields: Mapping[bytes, bytes], runner: bytes | None) -> BatchStatus:
    optional = {
        name: int(value) if (value := fields.get(name.encode())) is not None else None
        for name in ("total", "expected", "cancel")
    }
    status = BatchStatus(
        batch_id=keys.public_id,
        state="open",
        name=fields[b"name"].decode() or None,
        metadata=msgspec.json.decode(fields[b"metadata"], type=dict[str, str]),
        created_ms=int(fields[b"created_ms"]),
        window=int(fields[b"window"]),
        total=optional["total"],
        last_line=int(fields.get(b"last", 0)),
        runner=runner.decode() if runner else None,
        cancelled_ms=None if optional["cancel"] == 1 else optional["cancel"],  # 1: darkq 0.1
        expected=optional["expected"],
        **{name: int(fields.get(name.encode(), 0)) for name in _COUNTS},
    )
    return msgspec.structs.replace(status, state=_state(status, cancel=b"cancel" in fields))


def _state(status: BatchStatus, *, cancel: bool) -> BatchState:
    """A batch becomes cancelled or completed when the last of its jobs has ended."""
    if status.total is not None and status.ended >= status.total:
        return "cancelled" if cancel and status.cancelled else "completed"
    if cancel:
        return "cancelling" if status.outstanding else "cancelled"
    return "open"
