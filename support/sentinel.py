"""A real master, its replicas, and three real Sentinels that watch them, on loopback."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from support.daemon import START_TIMEOUT_S, Daemon, free_ports, mend
from support.waiting import wait_until

SERVICE = "darkq"
DOWN_AFTER_MS = 3000
"""Three ping periods of a Sentinel: after one, a busy machine's new master is called down."""


class Watched:
    """Servers, one of which is the master, and the Sentinels."""

    def __init__(self, servers: list[Daemon], sentinels: list[Daemon]) -> None:
        self.servers = servers
        self.sentinels = sentinels

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{each.port}" for each in self.sentinels)
        return f"redis+sentinel://{hosts}/{SERVICE}"

    async def master(self) -> Daemon:
        """Return the server that the first living Sentinel calls the master."""
        sentinel = next(each for each in self.sentinels if each.process is not None)
        _, port = await sentinel.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
        (master,) = [each for each in self.servers if each.port == int(port)]
        return master

    async def masters(self) -> list[Daemon]:
        """Return all that are written to: the one."""
        return [await self.master()]

    async def replica(self) -> Daemon:
        """Return a server that is not the master."""
        master = await self.master()
        return next(each for each in self.servers if each is not master)

    async def fail_over(self) -> Daemon:
        """Kill the master, and wait until another has its place; return the dead one."""
        dead = await self.master()
        dead.kill()
        await wait_until("another master", lambda: self.has_other_master(dead), timeout_s=30)
        return dead

    async def has_other_master(self, than: Daemon) -> bool:
        master = await self.master()
        return master is not than and await master.role() == b"master"

    async def replicated(self) -> bool:
        """Tell whether every other server is in step with the master."""
        master = await self.master()
        if await master.role() != b"master":
            return False
        return all([await each.is_in_step(master) for each in self.servers if each is not master])

    async def mend(self) -> None:
        """Let everybody run, be it dead or stopped, and wait until the replica is in step."""
        await mend((*self.servers, *self.sentinels))
        await self.settled()

    async def settled(self) -> None:
        """Wait until all Sentinels name one master, and every other server is in step with it."""
        await wait_until("the servers to agree", self._agreed, timeout_s=60)

    async def all_have_other_master(self, than: Daemon) -> bool:
        """Tell whether every Sentinel that runs names another, which says that it is master."""
        sentinels = [each for each in self.sentinels if each.process is not None]
        named = {
            int((await each.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE))[1])
            for each in sentinels
        }
        return than.port not in named and await self.has_other_master(than)

    async def _agreed(self) -> bool:
        """Tell whether there is one master, which all Sentinels name, and the others follow it."""
        named = {
            int((await each.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE))[1])
            for each in self.sentinels
        }
        return named == {(await self.master()).port} and await self.replicated()

    def end(self) -> None:
        for each in (*self.sentinels, *self.servers):
            each.end()


@asynccontextmanager
async def running_sentinels(
    binary: Path, *options: str, replicas: int = 1
) -> AsyncIterator[Watched]:
    """Run them in a directory of their own."""
    with tempfile.TemporaryDirectory(prefix="darkq-sentinel-") as name:
        directory = Path(name)
        ports = free_ports(4 + replicas)
        servers = [_server(binary, directory, port, ports[0], *options) for port in ports[:-3]]
        sentinels = [_sentinel(binary, directory, port, ports[0]) for port in ports[-3:]]
        watched = Watched(servers, sentinels)
        try:
            for each in (*servers, *sentinels):
                await each.start()
            await wait_until("a replica in step", watched.replicated, timeout_s=START_TIMEOUT_S)
            await wait_until("all to know all", lambda: _all_known(watched, replicas), timeout_s=30)
            yield watched
        finally:
            watched.end()


async def _all_known(watched: Watched, replicas: int) -> bool:
    """Tell whether each Sentinel knows the two others, and the replicas."""
    for sentinel in watched.sentinels:
        facts = await sentinel.ask("SENTINEL", "MASTER", SERVICE)
        known = dict(zip(facts[::2], facts[1::2], strict=True))
        if (known[b"num-other-sentinels"], known[b"num-slaves"]) != (b"2", b"%d" % replicas):
            return False
    return True


def _server(binary: Path, directory: Path, port: int, master: int, *options: str) -> Daemon:
    home = directory / str(port)
    home.mkdir()
    command = [
        str(binary),
        *("--port", str(port), "--bind", "127.0.0.1", "--dir", str(home), "--save", ""),
        *("--appendonly", "yes", "--appendfsync", "everysec", "--repl-diskless-sync-delay", "0"),
        *options,
    ]
    if port != master:
        command += ["--replicaof", "127.0.0.1", str(master)]
    return Daemon(directory, port, command)


def _sentinel(binary: Path, directory: Path, port: int, master: int) -> Daemon:
    config = directory / f"sentinel-{port}.conf"
    config.write_text(
        f"port {port}\nbind 127.0.0.1\ndir {directory}\n"
        f"sentinel monitor {SERVICE} 127.0.0.1 {master} 2\n"
        f"sentinel down-after-milliseconds {SERVICE} {DOWN_AFTER_MS}\n"
        f"sentinel failover-timeout {SERVICE} 10000\n"
    )
    return Daemon(directory, port, [str(binary), str(config), "--sentinel"])
