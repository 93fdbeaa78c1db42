"""Live workers, their leases, and drain requests.

A worker renews a health record and the list of upstreams that it serves, and is a member of a set.
Readers take the members of the set that have a health record, so no key space is scanned.

A drain request is a key beside the worker's health record, and a message on a channel of the same
name. If the message is lost, the worker reads the key with its next heartbeat, at most ten seconds
later.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import msgspec
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError

from darkq.errors import WorkerNotFound
from darkq.operate.queue_state import checked_note, decode_or, name_operator
from darkq.protocol.keys import PRIORITIES, WORKERS, JobKeys, PartitionKeys, WorkerKeys
from darkq.redis import scripts
from darkq.redis.pool import speaking_darkq
from darkq.redis.servers import read_clock_ms

_SET_TTL_S = 24 * 3600
_SERVES_TTL_S = 60


async def sign_in(redis: Redis, worker_id: str, serves: bytes = b"") -> None:
    """Add a worker to the set, and store what it serves. Both expire if this is not repeated."""
    async with redis.pipeline(transaction=True) as pipe:
        pipe.sadd(WORKERS, worker_id)
        pipe.expire(WORKERS, _SET_TTL_S)
        if serves:
            pipe.set(WorkerKeys(worker_id).upstreams, serves, ex=_SERVES_TTL_S)
        await pipe.execute()


async def sign_out(redis: Redis, worker_id: str) -> None:
    """Remove a worker that stops from the set, with its records and its drain request."""
    keys = WorkerKeys(worker_id)
    async with redis.pipeline(transaction=True) as pipe:
        pipe.srem(WORKERS, worker_id)
        pipe.delete(keys.health, keys.upstreams, keys.drain_request)
        await pipe.execute()


async def live_workers(redis: Redis) -> list[str]:
    """Return the ids of live workers, sorted. Removes the others from the set.

    A worker without a health record may only be disconnected, and return. So its other keys are
    not deleted, above all not a drain request, which has a time to live of its own.
    """
    members: Any = await redis.execute_command("SMEMBERS", WORKERS)
    ids = sorted(member.decode(errors="replace") for member in members)
    records = await redis.mget([WorkerKeys(id_).health for id_ in ids]) if ids else []
    alive = [id_ for id_, record in zip(ids, records, strict=True) if record is not None]
    if len(alive) < len(ids):
        with suppress(NoPermissionError):  # a read-only user leaves that to others
            await redis.execute_command("SREM", WORKERS, *set(ids).difference(alive))
    return alive


_MOST_LOOKED_AT = 1000
_MOST_SCORE_MS = 1 << 53


class WorkerLeases(msgspec.Struct, frozen=True, kw_only=True):
    """The number of jobs that a worker runs, and when the first lease ends, epoch ms (0: none).

    Of jobs that are not due, a thousand of each queue are examined, the next ones first. `drained`
    is the worker's drain request.
    """

    worker: str
    running: int
    first_ends_ms: int
    drained: Drain | None = None


async def read_leases(redis: Redis, workers: list[str], partitions: int) -> list[WorkerLeases]:
    """Return the leases of these workers. Raises what redis-py raises."""
    after = f"({await read_clock_ms(redis):.3f}"
    pipe = redis.pipeline(transaction=False)
    for partition in range(partitions):
        for priority in PRIORITIES:
            name = PartitionKeys(partition).queue(priority)
            pipe.zrangebyscore(name, after, _MOST_SCORE_MS, 0, _MOST_LOOKED_AT, withscores=True)
    not_due = [job for jobs in await pipe.execute() for job in jobs]
    ends: dict[str, list[int]] = {worker_id: [] for worker_id in workers}
    for worker_id, end_ms in await _held(redis, not_due):
        if worker_id in ends:
            ends[worker_id].append(end_ms)
    drains = dict(zip(workers, await read_drains(redis, workers), strict=True))
    return [
        WorkerLeases(
            worker=worker,
            running=len(held),
            first_ends_ms=min(held, default=0),
            drained=drains[worker],
        )
        for worker, held in ends.items()
    ]


async def _held(redis: Redis, not_due: list[tuple[bytes, float]]) -> list[tuple[str, int]]:
    """Return the worker and the end of each lease. The end is the score of the job in its queue.

    Deferred jobs have no lease.
    """
    pipe = redis.pipeline(transaction=False)
    ends = []
    for arq_id, end_ms in not_due:
        if (keys := JobKeys.from_member(arq_id)) is not None:
            pipe.get(keys.in_progress)
            ends.append(int(end_ms))
    tokens = await pipe.execute(raise_on_error=False) if ends else []
    return [
        (token.decode(errors="replace").rpartition(":")[0], end_ms)
        for token, end_ms in zip(tokens, ends, strict=True)
        if isinstance(token, bytes)  # and no error of a key of another type
    ]


_DRAIN_TTL_S = 30 * 24 * 3600


class Drain(msgspec.Struct, frozen=True, kw_only=True):
    """A drain request, with its author and time (epoch ms).

    The worker claims no more jobs. When its running jobs have ended, it exits, or with `stay`
    remains idle. If it is `patient`, it waits for them without a limit. Otherwise it waits for
    `DARKQ_WORKER_SHUTDOWN_GRACE_S`, and then returns the others to their queue.
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
        """Ask the worker to claim no more jobs, finish the running ones, and exit.

        With `stay` it waits for them without a limit, and then remains idle until `undrain`. The
        request is for this process: after a restart it is another worker. Idempotent. Raises
        `WorkerNotFound` if the worker is not alive, `InvalidJob` for an invalid `by`.
        """
        by = checked_note("by", name_operator() if by is None else by)
        async with speaking_darkq():
            since_ms = int(await read_clock_ms(self._redis))
            drain = Drain(since_ms=since_ms, by=by, patient=patient, stay=stay)
            if not await self._redis.exists(WorkerKeys(self.id).health):
                raise WorkerNotFound(self.id)
            data = msgspec.json.encode(drain)
            await self._redis.set(WorkerKeys(self.id).drain_request, data, ex=_DRAIN_TTL_S)
            await self._notify()
        return drain

    async def undrain(self) -> None:
        """Let a worker with `stay` claim again. A worker that is exiting still exits."""
        async with speaking_darkq():
            await self._redis.delete(WorkerKeys(self.id).drain_request)
            await self._notify()

    async def _notify(self) -> None:
        await scripts.publish(self._redis, WorkerKeys(self.id).drain_request, "orders")

    def __repr__(self) -> str:
        return f"WorkerHandle({self.id!r})"


async def read_drain(redis: Redis, worker_id: str) -> Drain | None:
    """Return the drain request of a worker. Raises what redis-py raises."""
    (drain,) = await read_drains(redis, [worker_id])
    return drain


async def read_drains(redis: Redis, worker_ids: list[str]) -> list[Drain | None]:
    """Return the drain requests of workers. Raises what redis-py raises."""
    names = [WorkerKeys(id_).drain_request for id_ in worker_ids]
    values = await redis.mget(names) if names else []
    return [decode_or(value, Drain, None) for value in values]
