"""`python -m faults.moving`: how long a partition is blocked while its slot is moved.

A partition is filled with jobs, and its slot goes to another master, key by key or in one piece,
while a producer enqueues jobs there. The output is the longest duration of one of its calls.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

from redis.crc import key_slot

from darkq import Client, RedisUnavailable, Settings
from support.cluster import Node, RealCluster, running_cluster
from support.servers import binaries

JOBS = (500, 25_000)  # two keys each
_SLOT = key_slot(b"0")
_PAUSE_S = 0.01


async def main() -> None:
    """Print a line per number of keys and kind of move."""
    logging.disable(logging.ERROR)
    print(f"{'keys':>8}  {'move':<12}{'takes s':>10}{'longest call s':>16}")
    for jobs in JOBS:
        async with running_cluster(binaries()["valkey"]) as cluster:
            settings = Settings(_env_file=None, redis_url=cluster.url, redis_patience_s=600)
            async with Client(settings=settings) as client:
                await client.enqueue_many(["prompt " * 100] * jobs)
                await _tell(cluster, client, "key by key", cluster.move)
                await _tell(cluster, client, "in one piece", cluster.move_whole)


async def _tell(
    cluster: RealCluster, client: Client, kind: str, move: Callable[[int, Node], Awaitable[None]]
) -> None:
    owner = await cluster.owner_of_slot(_SLOT)
    keys = await owner.ask("CLUSTER", "COUNTKEYSINSLOT", _SLOT)
    target = next(master for master in await cluster.masters() if master is not owner)
    longest_s = 0.0

    async def produce() -> None:
        nonlocal longest_s
        while True:
            began_s = time.monotonic()
            with suppress(RedisUnavailable):
                await client.enqueue("prompt")
            longest_s = max(longest_s, time.monotonic() - began_s)
            await asyncio.sleep(_PAUSE_S)

    producing = asyncio.create_task(produce())
    await asyncio.sleep(0.5)
    began_s = time.monotonic()
    await move(_SLOT, target)
    took_s = time.monotonic() - began_s
    await asyncio.sleep(1)  # a call that waits for the end of the move returns
    producing.cancel()
    print(f"{keys:>8,}  {kind:<12}{took_s:>10.2f}{longest_s:>16.2f}", flush=True)


if __name__ == "__main__":
    asyncio.run(main())
