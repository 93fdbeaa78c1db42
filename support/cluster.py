"""Real Redis Clusters for the tests: masters and replicas on loopback, one process each.

    masters ── slots in equal shares ── a replica each

Built with `CLUSTER` commands, so that nothing but a server's binary is needed.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from redis.crc import key_slot
from redis.exceptions import RedisError, ResponseError

from support.daemon import START_TIMEOUT_S, Daemon, free_ports, mend
from support.waiting import wait_until

SLOTS = 16384
NODE_TIMEOUT_MS = 1000


class Node(Daemon):
    """A server of a cluster."""

    def __init__(self, binary: Path, directory: Path, port: int, *options: str) -> None:
        super().__init__(
            directory,
            port,
            [
                str(binary),
                *("--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory)),
                *("--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf"),
                *("--cluster-node-timeout", str(NODE_TIMEOUT_MS)),
                *("--cluster-announce-ip", "127.0.0.1"),
                # A replica that has heard nothing for long is as good as the others here.
                *("--cluster-replica-validity-factor", "0", "--repl-diskless-sync-delay", "0"),
                *("--save", "", "--appendonly", "yes", "--appendfsync", "everysec"),
                *("--loglevel", "notice", *options),
            ],
        )

    async def id(self) -> str:
        return str((await self.ask("CLUSTER", "MYID")).decode())

    async def info(self) -> dict[str, str]:
        reply = await self.ask("CLUSTER", "INFO")
        return dict(line.split(":", 1) for line in reply.decode().split())

    async def has(self, slot: int) -> bool:
        """Tell whether it says that it is a master which has a slot."""
        if await self.role() != b"master":
            return False
        with suppress(RedisError, OSError):
            mine = (await self.id()).encode()
            for start, end, (_, _, owner, *_), *_ in await self.ask("CLUSTER", "SLOTS"):
                if start <= slot <= end and owner == mine:
                    return True
        return False


class RealCluster:
    """Masters and replicas; which is which changes with a failover."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.nodes = list(nodes)

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in self.nodes[:3])
        return f"redis+cluster://{hosts}"

    async def owner(self, key: str) -> Node:
        """Return the node that says that it has a key's slot, now."""
        return await self.owner_of_slot(key_slot(key.encode()))

    async def owner_of_slot(self, slot: int) -> Node:
        for node in self.nodes:
            if await node.has(slot):
                return node
        raise AssertionError("nobody has the slot")

    async def masters(self) -> list[Node]:
        return [node for node in self.nodes if await node.role() == b"master"]

    async def is_whole(self) -> bool:
        """Tell whether every running node thinks that all slots are served."""
        try:
            infos = [await node.info() for node in self.nodes if node.process is not None]
        except (RedisError, OSError):
            return False
        return all(
            info["cluster_state"] == "ok" and info["cluster_slots_ok"] == str(SLOTS)
            for info in infos
        )

    async def replicated(self) -> bool:
        """Tell whether every master has a replica in step, if there are replicas at all."""
        masters = await self.masters()
        if len(masters) == len(self.nodes):
            return True
        replicas = [node for node in self.nodes if node not in masters]
        return all([await self._has_replica_in_step(master, replicas) for master in masters])

    async def _has_replica_in_step(self, master: Node, replicas: list[Node]) -> bool:
        return any([await replica.is_in_step(master) for replica in replicas])

    async def settled(self) -> None:
        """Wait until all slots are served, and each master has a replica in step."""
        await wait_until("the cluster to be whole", self.is_whole, timeout_s=30)
        await wait_until("the replicas to be in step", self.replicated, timeout_s=30)

    async def fail_over(self, key: str) -> Node:
        """Kill the master of a key, and wait until another has its place; return the dead one."""
        slot = key_slot(key.encode())
        dead = await self.owner(key)
        dead.kill()

        async def replaced() -> bool:
            return any([await node.has(slot) for node in self.nodes if node is not dead])

        await wait_until("a new master", replaced, timeout_s=30)
        return dead

    async def begin_move(self, slot: int, target: Node) -> Node:
        """Announce the move of a slot, as `redis-cli --cluster reshard` does; return its source."""
        source = await self.owner_of_slot(slot)
        await target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", await source.id())
        await source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", await target.id())
        return source

    async def end_move(self, slot: int, source: Node, target: Node) -> None:
        """Move a slot's keys, a few at a time, and then the slot."""
        while keys := await source.ask("CLUSTER", "GETKEYSINSLOT", slot, 20):
            await source.ask(
                "MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "REPLACE", "KEYS", *keys
            )
        target_id = await target.id()
        for node in (target, source, *await self.masters()):
            with suppress(ResponseError):  # who has become a replica in the meantime
                await node.ask("CLUSTER", "SETSLOT", slot, "NODE", target_id)

    async def move(self, slot: int, target: Node) -> None:
        """Move a slot key by key."""
        source = await self.begin_move(slot, target)
        await self.end_move(slot, source, target)

    async def replica_of(self, master: Node) -> Node:
        """Return a replica of a master. Fails when it has none that runs."""
        for node in self.nodes:
            if await node.role() == b"slave" and (await node.ask("ROLE"))[2] == master.port:
                return node
        raise AssertionError("it has no replica")

    async def move_whole(self, slot: int, target: Node) -> None:
        """Move a slot in one piece: Valkey from 9 on copies it, and hands it over at once."""
        source = await self.owner_of_slot(slot)
        await source.ask(
            *("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", await target.id())
        )
        await wait_until("the slot to have moved", lambda: target.has(slot), timeout_s=30)

    async def mend(self) -> None:
        """Let every node run, be it dead or stopped, and wait until all is in step."""
        await mend(self.nodes)
        await self.settled()

    def end(self) -> None:
        for node in self.nodes:
            node.end()


@asynccontextmanager
async def running_cluster(
    binary: Path, *options: str, masters: int = 3, replicas: int = 1
) -> AsyncIterator[RealCluster]:
    """Run a cluster in a directory of its own."""
    with tempfile.TemporaryDirectory(prefix="darkq-cluster-") as name:
        cluster = prepared_cluster(binary, Path(name), *options, masters=masters, replicas=replicas)
        try:
            await build(cluster, masters)
            yield cluster
        finally:
            cluster.end()


def prepared_cluster(
    binary: Path, directory: Path, *options: str, masters: int, replicas: int
) -> RealCluster:
    """Name the nodes of a cluster; nothing runs yet."""
    nodes = []
    for number, port in enumerate(free_ports(masters * (1 + replicas))):
        home = directory / str(number)
        home.mkdir()
        nodes.append(Node(binary, home, port, *options))
    return RealCluster(nodes)


async def build(cluster: RealCluster, masters: int) -> None:
    """Start all nodes, and make a cluster of them."""
    await asyncio.gather(*(node.start() for node in cluster.nodes))
    first, *others = cluster.nodes
    share = -(-SLOTS // masters)
    for number, node in enumerate(cluster.nodes):
        await node.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        if number < masters:
            slots = range(number * share, min(SLOTS, (number + 1) * share))
            await node.ask("CLUSTER", "ADDSLOTS", *slots)
    for node in others:
        await node.ask("CLUSTER", "MEET", "127.0.0.1", first.port)

    async def all_know_all() -> bool:
        infos = [await node.info() for node in cluster.nodes]
        return all(info["cluster_known_nodes"] == str(len(cluster.nodes)) for info in infos)

    await wait_until("all nodes to know each other", all_know_all, timeout_s=START_TIMEOUT_S)
    for number, node in enumerate(cluster.nodes[masters:]):
        await _follow(node, await cluster.nodes[number % masters].id())
    await cluster.settled()


async def _follow(node: Node, master_id: str) -> None:
    async def accepted() -> bool:
        try:  # it may not know the other as a master yet
            return bool(await node.ask("CLUSTER", "REPLICATE", master_id))
        except ResponseError:
            return False

    await wait_until("a replica to follow", accepted, timeout_s=START_TIMEOUT_S)
