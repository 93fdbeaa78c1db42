"""One worker in an operator's hand: to let it finish what it runs, and take nothing more.

The word is a key beside the worker's health record, and a message on a channel of that name. If
that is lost, the worker reads the key with its next sign of life, ten seconds later at most.
"""

from __future__ import annotations

import msgspec
from redis.asyncio import Redis

from darkq import scripts
from darkq.connection import speaking_darkq
from darkq.errors import WorkerNotFound
from darkq.keys import worker, worker_orders
from darkq.queue_control import checked_note, whoever

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
            if not await self._redis.exists(worker(self.id)):
                raise WorkerNotFound(self.id)
            orders = worker_orders(self.id)
            await self._redis.set(orders, msgspec.json.encode(drain), ex=ORDERS_TTL_S)
            await self._tell()
        return drain

    async def undrain(self) -> None:
        """Let a worker claim again that stays. One that exits goes on doing so."""
        async with speaking_darkq():
            await self._redis.delete(worker_orders(self.id))
            await self._tell()

    async def _now(self) -> tuple[int, int]:
        async with speaking_darkq():
            seconds, micros = await self._redis.time()
        return seconds, micros

    async def _tell(self) -> None:
        channel = worker_orders(self.id)
        await scripts.publish(self._redis, [channel], [channel, "orders"])

    def __repr__(self) -> str:
        return f"WorkerHandle({self.id!r})"


async def read_order(redis: Redis, worker_id: str) -> Drain | None:
    """Return what a worker was told. Raises what redis-py raises."""
    return _read(await redis.get(worker_orders(worker_id)))


async def read_orders(redis: Redis, worker_ids: list[str]) -> list[Drain | None]:
    """Return what workers were told. Raises what redis-py raises."""
    values = await redis.mget([worker_orders(id_) for id_ in worker_ids]) if worker_ids else []
    return [_read(value) for value in values]


def _read(value: bytes | None) -> Drain | None:
    try:
        return None if value is None else msgspec.json.decode(value, type=Drain)
    except (msgspec.MsgspecError, UnicodeDecodeError):  # anybody's: better to go on
        return None
