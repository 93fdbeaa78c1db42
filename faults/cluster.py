"""A Redis Cluster of three masters and three replicas that are killed, frozen and moved.

A replica has what its master acknowledged within a moment, and a master that dies still sends what
it has written to its connection. So to lose something it takes a replica that lags: one that is
stopped, behind more than all buffers of the kernel hold.
"""

from __future__ import annotations

import asyncio
import signal
from functools import partial
from random import Random

from redis.crc import key_slot

from darkq import Client
from faults.check import Tally
from faults.stage import Setup, Stage
from faults.suite import Fault
from faults.throughout import PARTITIONS, WORKER, Blows, play
from support.cluster import Node
from support.waiting import wait_until

_LAG_BYTES = 48 << 20  # more than the kernel keeps of a connection
_LAGGING_S = 2.0
_FAILOVER_S = 30.0

_NO_WAIT = Setup(kind="cluster", worker=WORKER)
_WAIT = Setup(kind="cluster", worker={**WORKER, "redis_wait_replicas": 1})


def _slot(partition: int) -> int:
    return key_slot(f"{partition}".encode())


async def _theirs(*nodes: Node) -> list[int]:
    """The partitions that are on some nodes now."""
    slots = {partition: _slot(partition) for partition in range(PARTITIONS)}
    return [p for p, slot in slots.items() if any([await node.has(slot) for node in nodes])]


async def _a_master(stage: Stage, rng: Random) -> Node:
    """A master that has partitions."""
    return await stage.cluster.owner_of_slot(_slot(rng.randrange(PARTITIONS)))


async def _replaced(stage: Stage, lost: Node, partitions: list[int]) -> None:
    """Wait until other masters have the partitions of a lost one."""
    others = [node for node in stage.cluster.nodes if node is not lost]
    for partition in partitions:

        async def found(slot: int = _slot(partition)) -> bool:
            return any([await node.has(slot) for node in others])

        await wait_until("another master", found, _FAILOVER_S)


async def _fall(stage: Stage, rng: Random, blows: Blows) -> None:
    """Kill a master, wait for its replica to take over, and start it again."""
    master = await _a_master(stage, rng)
    partitions = await _theirs(master)
    master.kill()
    blows.note(partitions)
    await _replaced(stage, master, partitions)
    await stage.cluster.mend()


async def killed(times: int, promised: bool, stage: Stage, rng: Random) -> Tally:
    """SIGKILL of a master; its replica takes over; it comes back as a replica. Once, or again."""

    async def strike(blows: Blows) -> None:
        for _ in range(times):
            await _fall(stage, rng, blows)

    return await play(stage, rng, strike, promised=promised)


async def frozen(promised: bool, stage: Stage, rng: Random) -> Tally:
    """SIGSTOP of a master until its replica has taken over; SIGCONT: it believes to be master."""

    async def strike(blows: Blows) -> None:
        master = await _a_master(stage, rng)
        partitions = await _theirs(master)
        master.signal(signal.SIGSTOP)
        blows.note(partitions)
        await _replaced(stage, master, partitions)
        await asyncio.sleep(rng.uniform(0, 1))
        await stage.cluster.mend()

    return await play(stage, rng, strike, promised=promised)


async def lagging(promised: bool, stage: Stage, rng: Random) -> Tally:
    """A replica is stopped and lags, its master is killed, the replica goes on and takes over.

    Without waiting for replicas something must be lost, else this proves nothing. With it, red
    when a call that is repeated writes nothing that `WAIT` could wait for (`WaitRule.commands`).
    """

    async def strike(blows: Blows) -> None:
        homes = {master: await _theirs(master) for master in await stage.cluster.masters()}
        master, partitions = max(homes.items(), key=lambda home: len(home[1]))
        replica = await stage.cluster.replica_of(master)
        replica.signal(signal.SIGSTOP)
        filler = f"darkq:{{{partitions[0]}}}:filler"
        await master.ask("SET", filler, bytes(_LAG_BYTES), "PX", 20_000)
        await asyncio.sleep(_LAGGING_S)  # jobs are acknowledged, or are not
        master.kill()
        blows.note(partitions)
        replica.signal(signal.SIGCONT)
        await _replaced(stage, master, partitions)
        await stage.cluster.mend()

    tally = await play(stage, rng, strike, promised=promised)
    tally.require(promised or tally.forgotten > 0, "a replica that lags does not have everything")
    return tally


async def replica_killed(promised: bool, stage: Stage, rng: Random) -> Tally:
    """SIGKILL of a replica, and a restart: calls that wait for replicas wait for this one."""

    async def strike(_: Blows) -> None:
        replica = await stage.cluster.replica_of(await _a_master(stage, rng))
        replica.kill()
        await asyncio.sleep(rng.uniform(0.5, 2))
        await stage.cluster.mend()

    return await play(stage, rng, strike, promised=promised)


async def asked(stage: Stage, rng: Random) -> Tally:
    """CLUSTER FAILOVER of every shard: masters and replicas change places in order."""

    async def strike(blows: Blows) -> None:
        for master in await stage.cluster.masters():
            partitions = await _theirs(master)
            replica = await stage.cluster.replica_of(master)
            await replica.ask("CLUSTER", "FAILOVER")
            blows.note(partitions)
            await _replaced(stage, master, partitions)
        await stage.cluster.settled()

    return await play(stage, rng, strike)


async def moved(whole: bool, stage: Stage, rng: Random) -> Tally:
    """The partitions' slots go to another master and back, key by key, or each in one piece."""
    move = stage.cluster.move_whole if whole else stage.cluster.move

    async def strike(blows: Blows) -> None:
        homes = {p: await stage.cluster.owner_of_slot(_slot(p)) for p in range(PARTITIONS)}
        masters = await stage.cluster.masters()
        for partition, home in homes.items():
            target = rng.choice([master for master in masters if master is not home])
            for node in (target, home):
                blows.note([partition])
                await move(_slot(partition), node)

    return await play(stage, rng, strike)


async def all_killed(stage: Stage, rng: Random) -> Tally:
    """SIGKILL of all six, and a restart, with the append-only file synced every second.

    Red when two calls forget a node that has left, at once (`ClusterRedis._forget_but`).
    """

    async def strike(blows: Blows) -> None:
        for node in stage.cluster.nodes:
            node.kill()
        blows.note()
        await asyncio.sleep(rng.uniform(0, 1))
        await stage.cluster.mend()

    return await play(stage, rng, strike)


async def with_a_worker(promised: bool, stage: Stage, rng: Random) -> Tally:
    """SIGKILL of a worker while a master is down: its jobs run elsewhere, once that is replaced."""

    async def strike(blows: Blows) -> None:
        master = await _a_master(stage, rng)
        partitions = await _theirs(master)
        master.kill()
        blows.note(partitions)
        await asyncio.sleep(rng.uniform(0, 1))
        rng.choice(stage.workers).send(signal.SIGKILL)
        await _replaced(stage, master, partitions)
        await stage.cluster.mend()

    return await play(stage, rng, strike, promised=promised, crew=3)


async def stale(stage: Stage, rng: Random) -> Tally:
    """A client that asked long ago who has what: since then every shard has changed its master.

    Red when `MOVED` is an error like any other (`read_redirection`).
    """
    async with Client(settings=stage.settings()) as client:
        await client.queues()  # so it knows who has what

        async def strike(blows: Blows) -> None:
            gone = rng.choice(stage.cluster.nodes[:3])
            gone.kill()  # one whom its URL names
            blows.note([])
            await asyncio.sleep(rng.uniform(0, 1))
            await stage.cluster.mend()

        for master in await stage.cluster.masters():
            partitions = await _theirs(master)
            replica = await stage.cluster.replica_of(master)
            await replica.ask("CLUSTER", "FAILOVER")
            await _replaced(stage, master, partitions)
        await stage.cluster.settled()
        return await play(stage, rng, strike, promised=False, client=client)


FAULTS = [
    Fault("cluster: master SIGKILL", partial(killed, 1, False), 4, _NO_WAIT),
    Fault(
        "cluster: two masters SIGKILL, in turn", partial(killed, 2, False), 2, _NO_WAIT, slow=True
    ),
    Fault(
        "cluster: master SIGSTOP past failover, SIGCONT",
        partial(frozen, False),
        3,
        _NO_WAIT,
        slow=True,
    ),
    Fault("cluster: a lagging replica takes over", partial(lagging, False), 3, _NO_WAIT),
    Fault("cluster: replica SIGKILL", partial(replica_killed, True), 2, _NO_WAIT, slow=True),
    Fault("cluster: FAILOVER of every shard", asked, 3, _NO_WAIT),
    Fault("cluster: all six SIGKILL (fsync everysec)", all_killed, 3, _NO_WAIT, slow=True),
    Fault(
        "cluster: master and worker SIGKILL", partial(with_a_worker, False), 2, _NO_WAIT, slow=True
    ),
    Fault("cluster: a client that knows the old masters", stale, 2, _NO_WAIT, slow=True),
    Fault("cluster: slots moved key by key, and back", partial(moved, False), 2, _NO_WAIT, 300),
    Fault("cluster: slots moved in one piece, and back", partial(moved, True), 2, _NO_WAIT, 300),
    Fault("cluster, WAIT 1: master SIGKILL", partial(killed, 1, True), 4, _WAIT, slow=True),
    Fault(
        "cluster, WAIT 1: two masters SIGKILL, in turn",
        partial(killed, 2, True),
        2,
        _WAIT,
        slow=True,
    ),
    Fault("cluster, WAIT 1: master SIGSTOP, SIGCONT", partial(frozen, True), 3, _WAIT, slow=True),
    Fault(
        "cluster, WAIT 1: a lagging replica takes over", partial(lagging, True), 3, _WAIT, slow=True
    ),
    Fault("cluster, WAIT 1: replica SIGKILL", partial(replica_killed, True), 2, _WAIT, slow=True),
    Fault(
        "cluster, WAIT 1: master and worker SIGKILL",
        partial(with_a_worker, True),
        2,
        _WAIT,
        slow=True,
    ),
]
