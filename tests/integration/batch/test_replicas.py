"""`Batch.run` where writes count once a replica has them, and the replica is away for a while."""

from __future__ import annotations

import asyncio
import signal
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
from redis.asyncio import Redis

from darkq import Batch, Client, NotReplicated, Settings
from darkq.protocol.keys import BatchKeys
from darkq_local.local_darkai import LocalDarkAI
from support.daemon import free_ports
from support.servers import Server, binaries
from support.waiting import wait_until

pytestmark = pytest.mark.slow

ROWS = [f"row {number}" for number in range(40)]


class Pair(NamedTuple):
    """A master and its replica."""

    master: Server
    replica: Server

    def stop_replica(self) -> None:
        self._signal(signal.SIGSTOP)

    def let_replica_go_on(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self.replica.process is not None
        self.replica.process.send_signal(number)


@pytest.fixture
def pair() -> Iterator[Pair]:
    binary, port = binaries()["valkey"], str(free_ports(1)[0])
    with tempfile.TemporaryDirectory() as name:
        folders = Path(name) / "master", Path(name) / "replica"
        for folder in folders:
            folder.mkdir()
        master = Server(binary, folders[0], "--port", port, "--repl-diskless-sync-delay", "0")
        replica = Server(binary, folders[1], "--replicaof", "127.0.0.1", port)
        try:
            master.start()
            replica.start()
            yield Pair(master, replica)
        finally:
            for server in (replica, master):
                if server.process is not None:
                    server.kill()


async def test_a_run_waits_for_a_replica_and_yields_each_line_once(
    pair: Pair,
    tmp_path: Path,
    start_darkai: Callable[..., Awaitable[LocalDarkAI]],
    start_worker: Callable[[Settings], asyncio.Task[None]],
) -> None:
    """Red without `replicated`: `NotReplicated` out of the first call after the replica stopped."""
    darkai = await start_darkai(chunks=3)
    settings = Settings(
        _env_file=None, redis_url=pair.master.url, state_dir=tmp_path, redis_timeout_s=1,
        redis_wait_replicas=1, darkai_url=darkai.url,
    )  # fmt: skip
    redis = Redis.from_url(pair.master.url)
    found: list[int] = []

    async def in_step() -> bool:
        return bool(await redis.wait(1, 9))

    def has(count: int) -> bool:
        return len(found) >= count or running.done()

    async with Client(settings=settings) as client, client.batch(window=10) as batch:
        await wait_until("a replica in step", in_step)
        running = asyncio.create_task(_run(batch, found))
        for lines in (1, 15, len(ROWS)):  # the first lines, some ends, the end of the input
            pair.stop_replica()
            with pytest.raises(NotReplicated):
                await client.enqueue("another", idempotency_key=str(lines))
            if lines == 1:
                await wait_until("the first lines", lambda: _has_lines(redis, batch))
                start_worker(settings)
            pair.let_replica_go_on()
            await wait_until("ends", partial(has, lines), 30)
        await asyncio.wait_for(running, 30)
        assert sorted(found) == list(range(1, len(ROWS) + 1))
        assert (await batch.status()).state == "completed"
    await redis.aclose()


async def _run(batch: Batch, found: list[int]) -> None:
    async for finished in batch.run(ROWS):
        found.append(finished.number)  # noqa: PERF401  others look at it meanwhile


async def _has_lines(redis: Redis, batch: Batch) -> bool:
    return bool(await redis.exists(BatchKeys.parse(batch.id).lines))
