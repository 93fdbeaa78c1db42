"""Which workers are alive.

A worker keeps a health record that expires without it, what it serves beside it, and its id in
a set. Who asks reads the set and looks for the records, whatever else is in the database.

Which worker holds how many leases.

One worker in an operator's hand: to let it finish what it runs, and take nothing more.

The word is a key beside the worker's health record, and a message on a channel of that name. If
that is lost, the worker reads the key with its next sign of life, ten seconds later at most.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import msgspec
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError

from darkq.errors import WorkerNotFound
from darkq.operate.queue_state import checked_note, whoever
from darkq.protocol.keys import PRIORITIES, WORKERS, JobKeys, PartitionKeys, WorkerKeys
from darkq.redis import scripts
from darkq.redis.pool import speaking_darkq

_SET_TTL_S = 24 * 3600
_SERVES_TTL_S = 60


async def sign_in(redis: Redis, worker_id: str, serves: bytes = b"") -> None:
    """Put a worker into the set, and what it serves beside it; repeat it, or they expire."""
    async with redis.pipeline(transaction=True) as pipe:
        pipe.sadd(WORKERS, worker_id)
        pipe.expire(WORKERS, _SET_TTL_S)
        if serves:
            pipe.set(WorkerKeys(worker_id).upstreams, serves, ex=_SERVES_TTL_S)
        await pipe.execute()


async def sign_out(redis: Redis, worker_id: str) -> None:
    """Take a worker that ends out of the set, and its records away, its orders too."""
    async with redis.pipeline(transaction=True) as pipe:
        pipe.srem(WORKERS, worker_id)
        pipe.delete(
            WorkerKeys(worker_id).health,
            WorkerKeys(worker_id).upstreams,
            WorkerKeys(worker_id).drain_request,
        )
        await pipe.execute()


async def live_workers(redis: Redis) -> list[str]:
    """Return the ids of the workers that are alive, sorted. Forgets those that are not.

    One without a health record may have been cut off for a while, and comes back. So nothing else
    of it is touched: above all not its orders, which have a time to live of their own.
    """
    members: Any = await redis.execute_command("SMEMBERS", WORKERS)
    ids = sorted(member.decode(errors="replace") for member in members)
    records = await redis.mget([WorkerKeys(id_).health for id_ in ids]) if ids else []
    alive = [id_ for id_, record in zip(ids, records, strict=True) if record is not None]
    if len(alive) < len(ids):
        with suppress(NoPermissionError):  # whoever may only read leaves that to others
            await redis.execute_command("SREM", WORKERS, *set(ids).difference(alive))
    return alive


_MOST_LOOKED_AT = 1000
_FOR_EVER_MS = 1 << 53


class WorkerLeases(msgspec.Struct, frozen=True, kw_only=True):
    """How many jobs a worker runs, and when the first of their leases ends, epoch ms (0: none).

    Of jobs that are not due, a thousand of each queue are looked at, the next first. `drained` is
    what an operator has told the worker.
    """

    worker: str
    running: int
    first_ends_ms: int
    drained: Drain | None = None


async def read_leases(redis: Redis, workers: list[str], partitions: int) -> list[WorkerLeases]:
    """Return what these workers hold. Raises what redis-py raises."""
    seconds, micros = await redis.time()
    after = f"({seconds * 1000 + micros / 1000:.3f}"
    pipe = redis.pipeline(transaction=False)
    for partition in range(partitions):
        for priority in PRIORITIES:
            name = PartitionKeys(partition).queue(priority)
            pipe.zrangebyscore(name, after, _FOR_EVER_MS, 0, _MOST_LOOKED_AT, withscores=True)
    not_due = [job for jobs in await pipe.execute() for job in jobs]
    ends: dict[str, list[int]] = {worker_id: [] for worker_id in workers}
    for worker_id, end_ms in await _held(redis, not_due):
        if worker_id in ends:
            ends[worker_id].append(end_ms)
    told = dict(zip(workers, await read_orders(redis, workers), strict=True))
    return [
        WorkerLeases(
            worker=worker,
            running=len(held),
            first_ends_ms=min(held, default=0),
            drained=told[worker],
        )
        for worker, held in ends.items()
    ]


async def _held(redis: Redis, not_due: list[tuple[bytes, float]]) -> list[tuple[str, int]]:
    """Return the worker and the end of each lease: the place of its job in the queue.

    What is deferred has none.
    """
    pipe = redis.pipeline(transaction=False)
    ends = []
    for arq_id, end_ms in not_due:
        try:
            pipe.get(JobKeys.from_arq_id(arq_id.decode()).in_progress)
        except ValueError:  # anybody may have put it there; a claim will throw it out
            continue
        ends.append(int(end_ms))
    tokens = await pipe.execute(raise_on_error=False) if ends else []
    return [
        (token.decode(errors="replace").rpartition(":")[0], end_ms)
        for token, end_ms in zip(tokens, ends, strict=True)
        if isinstance(token, bytes)  # and no error of a key of another type
    ]


ORDERS_TTL_S = 30 * 24 * 3600


class Drain(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker was told, by whom, and when (epoch ms).

    It claims nothing more. It exits when it is done, or stays. `patient`: it gives what it runs as
    long as that takes, else `DARKQ_WORKER_SHUTDOWN_GRACE_S`, and hands back the rest.
    """

    v: int = 1
    since_ms: int
    by: str = ""
    patient: bool = False
    stay: bool = False


class WorkerHandle:
    """A worker by its id. Get one from `Client.worker`. Everything raises `RedisUnavailable`."""

    def __init__(self, worker_id: str, redis: Redis) -> None:
        self.id = worker_id
        self._redis = redis

    async def drain(
        self, *, patient: bool = False, stay: bool = False, by: str | None = None
    ) -> Drain:
        """Let the worker take no more jobs, finish what it runs, and exit, or stay idle.

        With `stay` it lets what runs take its time, and does not exit; `undrain` ends that. It is
        told once: a process that is started anew is another worker. May be repeated. Raises
        `WorkerNotFound` when it is not alive, `InvalidJob` for a `by` that can be none.
        """
        seconds, micros = await self._now()
        drain = Drain(
            since_ms=seconds * 1000 + micros // 1000,
            by=checked_note("by", whoever() if by is None else by),
            patient=patient,
            stay=stay,
        )
        async with speaking_darkq():
            if not await self._redis.exists(WorkerKeys(self.id).health):
                raise WorkerNotFound(self.id)
            orders = WorkerKeys(self.id).drain_request
            await self._redis.set(orders, msgspec.json.encode(drain), ex=ORDERS_TTL_S)
            await self._tell()
        return drain

    async def undrain(self) -> None:
        """Let a worker claim again that stays. One that exits goes on doing so."""
        async with speaking_darkq():
            await self._redis.delete(WorkerKeys(self.id).drain_request)
            await self._tell()

    async def _now(self) -> tuple[int, int]:
        async with speaking_darkq():
            seconds, micros = await self._redis.time()
        return seconds, micros

    async def _tell(self) -> None:
        await scripts.publish(self._redis, WorkerKeys(self.id).drain_request, "orders")

    def __repr__(self) -> str:
        return f"WorkerHandle({self.id!r})"


async def read_order(redis: Redis, worker_id: str) -> Drain | None:
    """Return what a worker was told. Raises what redis-py raises."""
    return _read(await redis.get(WorkerKeys(worker_id).drain_request))


async def read_orders(redis: Redis, worker_ids: list[str]) -> list[Drain | None]:
    """Return what workers were told. Raises what redis-py raises."""
    values = (
        await redis.mget([WorkerKeys(id_).drain_request for id_ in worker_ids])
        if worker_ids
        else []
    )
    return [_read(value) for value in values]


def _read(value: bytes | None) -> Drain | None:
    try:
        return None if value is None else msgspec.json.decode(value, type=Drain)
    except (msgspec.MsgspecError, UnicodeDecodeError):  # anybody's: better to go on
        return None
