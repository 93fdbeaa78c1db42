"""Masters that die, freeze and change places while jobs run; slots that move under them."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from redis.crc import key_slot

from darkq import Client, JobHandle, NotReplicated, RedisUnavailable, Settings
from darkq.event import AnyEvent, Chunk, Completed
from darkq_local.local_darkai import LocalDarkAI
from support.cluster import Node, RealCluster
from support.waiting import wait_until

from .conftest import PARTITIONS

pytestmark = pytest.mark.slow

StartDarkAI = Callable[..., Awaitable[LocalDarkAI]]
StartWorker = Callable[[Settings], asyncio.Task[None]]
MakeSettings = Callable[..., Settings]


class Reader:
    """Reads a job from its beginning, and checks what it reads."""

    def __init__(self, job: JobHandle) -> None:
        self.job = job
        self.events: list[AnyEvent] = []
        self.task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for event in self.job.events():
            self.events.append(event)

    @property
    def chunks(self) -> int:
        return sum(isinstance(event, Chunk) for event in self.events)

    async def check(self, timeout_s: float = 45.0) -> None:
        """Each event once and in order, and the text of the last attempt is the result's."""
        async with asyncio.timeout(timeout_s):
            await self.task
        cursors = [event.cursor for event in self.events]
        assert cursors == sorted(set(cursors))
        last = self.events[-1]
        assert isinstance(last, Completed)
        text = "".join(
            event.text
            for event in self.events
            if isinstance(event, Chunk) and event.cursor.attempt == last.cursor.attempt
        )
        assert (await self.job.result(timeout_s=10)).text == text


class World:
    """Jobs under way in all partitions, with a reader each."""

    def __init__(self, settings: Settings, client: Client) -> None:
        self.settings = settings
        self.client = client
        self.readers: list[Reader] = []

    async def enqueue(self, count: int) -> None:
        for _ in range(count):
            self.readers.append(Reader(await self.client.enqueue("survive")))

    async def under_way(self) -> None:
        await wait_until(
            "all to have begun", lambda: all(reader.chunks > 1 for reader in self.readers), 30
        )

    async def check(self) -> None:
        for reader in self.readers:
            await reader.check()


@pytest.fixture
async def world(
    own_cluster: RealCluster,
    settings_of: MakeSettings,
    start_darkai: StartDarkAI,
    start_worker: StartWorker,
) -> AsyncIterator[World]:
    darkai = await start_darkai(chunks=150, chunks_per_s=30)
    settings = settings_of(
        own_cluster,
        darkai_url=darkai.url,
        worker_lease_s=3,
        redis_timeout_s=2,
        redis_patience_s=30,
    )
    for _ in range(2):
        start_worker(settings)
    async with Client(settings=settings) as client:
        yield World(settings, client)


async def test_a_master_is_killed(own_cluster: RealCluster, world: World) -> None:
    """Its replica takes its place; who was reading reads on, and who enqueues waits."""
    await world.enqueue(3 * PARTITIONS)
    await world.under_way()
    for reader in world.readers[:3]:
        await wait_until("the replicas to be in step", own_cluster.replicated)
        dead = await own_cluster.owner(reader.job.id.split("-")[0])
        enqueueing = asyncio.create_task(world.enqueue(PARTITIONS))
        dead.kill()
        await enqueueing
        await wait_until("the cluster to be whole", own_cluster.is_whole, timeout_s=30)
        await dead.start()
        await own_cluster.settled()
    await world.check()


async def test_a_frozen_master_keeps_no_other_partition_waiting(
    own_cluster: RealCluster, world: World
) -> None:
    """No byte tells that it is gone. Red when partitions are claimed or renewed in turn.

    The others have their jobs run while it is away.
    """
    await world.enqueue(2 * PARTITIONS)
    await world.under_way()
    frozen = await own_cluster.owner("{3}")
    away = {n for n in range(PARTITIONS) if await frozen.has(key_slot(f"{n}".encode()))}
    frozen.signal(signal.SIGSTOP)
    try:
        others: list[Reader] = []
        while len(others) < 4:
            keys = [n for n in range(PARTITIONS) if n not in away]
            job = await _enqueue_in(world.client, set(keys))
            others.append(Reader(job))
        async with asyncio.timeout(10):
            for reader in others:
                await wait_until("its beginning", lambda r=reader: r.chunks > 0)  # type: ignore[misc]
    finally:
        frozen.signal(signal.SIGCONT)
    world.readers += others
    await world.check()


async def _enqueue_in(client: Client, partitions: set[int]) -> JobHandle:
    """Enqueue a job in one of these partitions, by a key that falls there."""
    from darkq.protocol.keys import choose_partition

    n = 0
    while True:
        n += 1
        key = f"{id(partitions)}-{n}"
        if choose_partition(key, PARTITIONS) in partitions:
            return await client.enqueue("survive", idempotency_key=key)


async def test_masters_and_replicas_change_places(own_cluster: RealCluster, world: World) -> None:
    """As an operator asks them to, before a host is taken down: nobody is restarted."""
    await world.enqueue(2 * PARTITIONS)
    await world.under_way()
    for node in own_cluster.nodes:
        if await node.role() == b"slave":
            await node.ask("CLUSTER", "FAILOVER")
            await wait_until("it to be master", lambda n=node: _is_master(n), 30)  # type: ignore[misc]
    await world.check()
    attempts = {reader.events[-1].cursor.attempt for reader in world.readers}
    assert attempts == {1}, "nothing was lost, so nothing was run again"


async def _is_master(node: Node) -> bool:
    return await node.role() == b"master"


async def test_slots_move_under_load(own_cluster: RealCluster, world: World) -> None:
    """Key by key, each way; claims, flushes and readers follow."""
    await world.enqueue(2 * PARTITIONS)
    await world.under_way()
    masters = await own_cluster.masters()
    for turn in range(2):
        for partition in range(PARTITIONS):
            target = masters[(partition + turn) % len(masters)]
            slot = key_slot(f"{partition}".encode())
            if not await target.has(slot):
                await own_cluster.move(slot, target)
    await world.enqueue(PARTITIONS)
    await world.check()
    attempts = {reader.events[-1].cursor.attempt for reader in world.readers}
    assert attempts == {1}, "nobody lost a lease"


async def test_what_replicas_have_not_is_not_acknowledged(
    own_cluster: RealCluster, settings_of: MakeSettings
) -> None:
    settings = settings_of(own_cluster, redis_wait_replicas=1, redis_timeout_s=1, partitions=1)
    async with Client(settings=settings) as client:
        assert (await (await client.enqueue("prompt")).status()).state == "queued"
        master = await own_cluster.owner("{0}")
        replica = await own_cluster.replica_of(master)
        replica.signal(signal.SIGSTOP)
        try:
            with pytest.raises(NotReplicated, match="0 of the 1 replicas"):
                await client.enqueue("prompt", idempotency_key="key")
            # It is there, so nothing is written; and yet it is on no replica.
            async with Client(settings=settings) as another:
                with pytest.raises(NotReplicated, match="0 of the 1 replicas"):
                    await another.enqueue("prompt", idempotency_key="key")
        finally:
            replica.signal(signal.SIGCONT)
        await wait_until("the replica to be in step", own_cluster.replicated, timeout_s=30)
        assert await client.enqueue("prompt")


async def test_a_master_whose_replicas_have_left_is_not_written_to(
    own_cluster: RealCluster, settings_of: MakeSettings
) -> None:
    """Where it minds (`min-replicas-to-write`). Red without NOREPLICAS among the words."""
    master = await own_cluster.owner("{0}")
    replica = await own_cluster.replica_of(master)
    await master.ask("CONFIG", "SET", "min-replicas-to-write", 1)
    settings = settings_of(own_cluster, partitions=1)
    impatient = settings.model_copy(update={"redis_patience_s": 0.1})
    async with Client(settings=settings) as client, Client(settings=impatient) as hasty:
        assert await client.enqueue("prompt")
        replica.kill()
        with pytest.raises(RedisUnavailable):
            await hasty.enqueue("prompt")
        waiting = asyncio.create_task(client.enqueue("prompt"))
        await replica.start()
        assert await waiting
