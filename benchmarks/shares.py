"""The distribution of partitions on the masters of a cluster, by the checksum of their slots."""

from __future__ import annotations

import math
from bisect import bisect_left
from functools import lru_cache

from redis.crc import key_slot

from darkq.protocol.keys import PartitionKeys

SLOTS = 16384


def shares(partitions: int, masters: int) -> list[int]:
    """Return how many partitions each master has, slots being cut as `redis-cli` cuts them."""
    each = SLOTS / masters
    lasts = [math.floor(each * (number + 1) - 0.5) for number in range(masters)]
    counts = [0] * masters
    for slot in _slots(partitions):
        counts[bisect_left(lasts, slot)] += 1
    return counts


@lru_cache(maxsize=16)
def _slots(partitions: int) -> list[int]:
    return [key_slot(PartitionKeys(partition).wake.encode()) for partition in range(partitions)]
