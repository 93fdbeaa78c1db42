"""Making jobs due that were put off: their turn has come earlier than was told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redis.asyncio import Redis

from darkq import scripts
from darkq.keys import PRIORITIES, JobKeys, queue, wake
from darkq.scripts import Argument

FIELDS = 3


async def make_due(redis: Redis, called: Sequence[Any]) -> list[bytes]:
    """Move jobs back to their places and wake the workers; return those that are in no queue.

    Takes three fields per job, as `limits.lua` returns them.
    """
    gone: list[bytes] = []
    partitions: dict[int, list[Any]] = {}
    for n in range(0, len(called), FIELDS):
        arq_id, number, place = called[n : n + FIELDS]
        partition = _partition(arq_id)
        if partition is None or number not in range(len(PRIORITIES)):
            gone.append(arq_id)  # none of ours: anybody may have written it
        else:
            partitions.setdefault(partition, []).append((arq_id, number, place))
    for partition, jobs in partitions.items():
        args: list[Argument] = [wake(partition)]
        for job in jobs:
            args += job
        queues = [queue(partition, priority) for priority in PRIORITIES]
        gone += [jobs[n][0] for n in await scripts.make_due(redis, queues, args)]
    return gone


def _partition(arq_id: bytes) -> int | None:
    try:
        return JobKeys.from_arq_id(arq_id.decode()).partition
    except ValueError:
        return None
