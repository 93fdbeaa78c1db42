"""Real Redis Clusters for the tests: masters and replicas on loopback, one process each.

    masters ── slots in equal shares ── a replica each

Built with `CLUSTER` commands, so that nothing but a server's binary is needed.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from redis.crc import key_slot
from redis.exceptions import RedisError, ResponseError

from support.waiting import wait_until

SLOTS = 16384
NODE_TIMEOUT_MS = 1000
_START_S = 20.0


class Node:
    """A server of a cluster, which a test may kill, stop and start again."""

    def __init__(self, binary: Path, directory: Path, port: int, *options: str) -> None:
        self.port = port
        self.directory = directory
        self.redis = Redis(host="127.0.0.1", port=port, socket_timeout=5)
        self.process: subprocess.Popen[bytes] | None = None
        self._command = [
            str(binary),
            *("--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory)),
            *("--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf"),
            *("--cluster-node-timeout", str(NODE_TIMEOUT_MS), "--cluster-announce-ip", "127.0.0.1"),
            # A replica that has heard nothing for long is as good as the others here.
            *("--cluster-replica-validity-factor", "0", "--repl-diskless-sync-delay", "0"),
            *("--save", "", "--appendonly", "yes", "--appendfsync", "everysec"),
            *("--loglevel", "warning", *options),
        ]

    async def start(self) -> None:
        """Start it, and wait until it answers."""
        log = open(self.directory / "log", "ab")  # noqa: SIM115
        with log:
            self.process = subprocess.Popen(  # noqa: ASYNC220 - it returns at once
                self._command, stdout=log, stderr=log
            )
        await wait_until("a node to answer", self.answers, timeout_s=_START_S)

    async def answers(self) -> bool:
        try:
            return bool(await self.redis.ping())
        except (RedisError, OSError):
            return False

    async def ask(self, *command: Any) -> Any:
        return await self.redis.execute_command(*command)

    async def id(self) -> str:
        return str((await self.ask("CLUSTER MYID")).decode())

    async def info(self) -> dict[str, str]:
        reply = await self.ask("CLUSTER INFO")
        if isinstance(reply, dict):
            return reply
        return dict(line.split(":", 1) for line in reply.decode().split())

    async def is_master(self) -> bool:
        try:
            return bool((await self.ask("ROLE"))[0] == b"master")
        except (RedisError, OSError):
            return False

    def kill(self) -> None:
        """End it with SIGKILL."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)
        self.process = None

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    async def aclose(self) -> None:
        await self.redis.aclose()
        if self.process is not None:
            with suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGCONT)
            self.kill()


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
        for node in self.nodes:
            if node.process is not None and await self._has(node, key_slot(key.encode())):
                return node
        raise AssertionError("nobody has the slot")

    async def _has(self, node: Node, slot: int) -> bool:
        with suppress(RedisError, OSError):
            mine = await node.id()
            for start, end, (_, _, owner, *_), *_ in await node.ask("CLUSTER SLOTS"):
                if start <= slot <= end and owner.decode() == mine:
                    return await node.is_master()
        return False

    async def masters(self) -> list[Node]:
        return [node for node in self.nodes if node.process and await node.is_master()]

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
        """Tell whether every master has a replica in step."""
        for node in await self.masters():
            role = await node.ask("ROLE")
            if not role[2]:
                return False
        return True

    async def fail_over(self, key: str) -> Node:
        """Kill the master of a key, and wait until another has its place."""
        dead = await self.owner(key)
        dead.kill()

        async def replaced() -> bool:
            for node in self.nodes:
                if node.process and await self._has(node, key_slot(key.encode())):
                    return True
            return False

        await wait_until("a new master", replaced, timeout_s=30)
        return dead

    async def move_slot(self, slot: int, target: Node, *, pause_s: float = 0.0) -> None:
        """Move a slot key by key, as `redis-cli --cluster reshard` does; wait before its end."""
        (source,) = [node for node in self.nodes if node.process and await self._has(node, slot)]
        if source is target:
            return
        source_id, target_id = await source.id(), await target.id()
        await target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", source_id)
        await source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", target_id)
        await asyncio.sleep(pause_s)  # how long the move lasts, as long as there are keys
        while keys := await source.ask("CLUSTER", "GETKEYSINSLOT", slot, 20):
            await source.ask(
                "MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "REPLACE", "KEYS", *keys
            )
        for node in (target, source, *await self.masters()):
            with suppress(ResponseError):
                await node.ask("CLUSTER", "SETSLOT", slot, "NODE", target_id)

    async def aclose(self) -> None:
        for node in self.nodes:
            await node.aclose()


@asynccontextmanager
async def running_cluster(
    binary: Path, *options: str, masters: int = 3, replicas: int = 1
) -> AsyncIterator[RealCluster]:
    """Run a cluster in a directory of its own."""
    with tempfile.TemporaryDirectory(prefix="darkq-cluster-") as name:
        nodes = []
        for number, port in enumerate(_free_ports(masters * (1 + replicas))):
            directory = Path(name, str(number))
            directory.mkdir()
            nodes.append(Node(binary, directory, port, *options))
        cluster = RealCluster(nodes)
        try:
            await asyncio.gather(*(node.start() for node in nodes))
            await _build(cluster, masters)
            yield cluster
        finally:
            await cluster.aclose()


async def _build(cluster: RealCluster, masters: int) -> None:
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

    await wait_until("all nodes to know each other", all_know_all, timeout_s=_START_S)
    for number, node in enumerate(cluster.nodes[masters:]):
        master_id = await cluster.nodes[number % masters].id()
        await _replicate(node, master_id)
    await wait_until("the cluster to be whole", cluster.is_whole, timeout_s=_START_S)
    await wait_until("the replicas to be in step", cluster.replicated, timeout_s=_START_S)


async def _replicate(node: Node, master_id: str) -> None:
    async def accepted() -> bool:
        try:  # it may not know the other as a master yet
            return bool(await node.ask("CLUSTER", "REPLICATE", master_id))
        except ResponseError:
            return False

    await wait_until("a replica to follow", accepted, timeout_s=_START_S)


def _free_ports(count: int) -> list[int]:
    """Find ports that are free, and whose cluster bus's, 10,000 above, are too."""
    ports: list[int] = []
    candidate = 20_000 + os.getpid() % 20_000
    while len(ports) < count:
        candidate += 1
        if candidate > 55_000:
            candidate = 20_000
        if _is_free(candidate) and _is_free(candidate + 10_000):
            ports.append(candidate)
    return ports


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
