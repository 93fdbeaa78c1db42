"""Scripts of a batch and of a batch over files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple, TypeAlias

from redis.asyncio import Redis

from darkq.protocol.keys import BatchKeys, PartitionKeys
from darkq.redis.scripts.script import Argument, Script, milliseconds

_batch_renew_lease = Script("batch_renew_lease", includes=["drop"])
_batch_close = Script("batch_close", durable=True)
_batch_acknowledge = Script("batch_acknowledge", durable=True)
_filebatch_advance = Script("filebatch_advance", durable=True)

LeaseOutcome: TypeAlias = Literal["ours", "taken", "gone"]
CloseOutcome: TypeAlias = Literal["closed", "gone", "too few"]
_CLOSED: dict[int, CloseOutcome] = {1: "closed", 0: "gone", -1: "too few"}


class LeaseReply(NamedTuple):
    """Whether the caller runs the batch now; if another process does, its token."""

    outcome: LeaseOutcome
    holder: str


class Acknowledged(NamedTuple):
    """How many `ends` are acknowledged; None if `holder` runs the batch, or if there is none."""

    ends: int | None
    holder: str | None = None


class PageEnd(NamedTuple):
    """An end to acknowledge: its stamp, whether its result had expired, whether to keep it."""

    stamp: str
    expired: bool
    keep: bool


async def batch_renew_lease(
    redis: Redis,
    keys: BatchKeys,
    token: str,
    *,
    lease_ms: int,
    ttl_ms: int,
    made_with: Mapping[str, str | int] | None = None,
) -> LeaseReply:
    """Take or renew a batch's lease; 0 ms give it up. `made_with` creates the batch if it is new.

    See `batch_renew_lease.lua`.
    """
    names = [keys.batch, keys.lines, keys.ends, keys.acknowledged, keys.runner]
    args: list[Argument] = [keys.arq_id, token, lease_ms, ttl_ms]
    for field, value in (made_with or {}).items():
        args += [field, value]
    outcome, holder = await _batch_renew_lease(
        redis, [*names, PartitionKeys(keys.partition).batches], args
    )
    return LeaseReply(outcome.decode(), holder.decode())


async def batch_close(
    redis: Redis,
    keys: BatchKeys,
    what: Literal["total", "cancel"],
    value: int,
    lost: Iterable[int] = (),
) -> CloseOutcome:
    """Close a batch to new lines.

    `value` is how many lines must be there ("total"), or the time in epoch ms ("cancel"). `lost`
    are lines whose jobs may be lost. See `batch_close.lua`.
    """
    args: list[Argument] = [keys.live, what, value]
    for line in lost:
        args += [line, keys.job(line).arq_id]
    return _CLOSED[await _batch_close(redis, [keys.batch, keys.lines], args)]


async def batch_acknowledge(
    redis: Redis,
    keys: BatchKeys,
    token: str,
    ends: Sequence[PageEnd],
    *,
    first: int,
    lease_ms: int,
    ttl_ms: int,
    kept_ends: int,
    part: str = "",
    part_ttl_s: float = 0,
) -> Acknowledged:
    """Acknowledge a page of ends, of which `first` is the number of the first one.

    See `batch_acknowledge.lua`.
    """
    names = [keys.batch, keys.lines, keys.ends, keys.acknowledged, keys.runner, keys.parts]
    args: list[Argument] = [keys.arq_id, token, lease_ms, ttl_ms, kept_ends, keys.live]
    args += [part, milliseconds(part_ttl_s), first]
    for end in ends:
        args += [end.stamp, "1" if end.expired else "keep" if end.keep else ""]
    reply: int | bytes = await _batch_acknowledge(redis, names, args)
    if isinstance(reply, int):
        return Acknowledged(reply)
    return Acknowledged(None, None if reply == b"gone" else reply.decode())


async def filebatch_advance(
    redis: Redis,
    keys: BatchKeys,
    *,
    token: str,
    before: str,
    record: bytes,
    ttl_s: float,
    outputs: Iterable[str] = (),
) -> str:
    """Replace the record of a batch over files, if its state is `before` and the caller runs it.

    Return "", "gone", or the token of another runner. See `filebatch_advance.lua`.
    """
    args: list[Argument] = [token, before, record, milliseconds(ttl_s), *outputs]
    reply: bytes = await _filebatch_advance(redis, [keys.files, keys.runner, keys.outputs], args)
    return reply.decode()
