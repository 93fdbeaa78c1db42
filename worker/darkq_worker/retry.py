"""When a failed attempt is tried again."""

from __future__ import annotations

import random


def delay_s(tries_burnt: int, retry_after_s: float | None, *, base_s: float, max_s: float) -> float:
    """Return the wait before the next try, in seconds.

    What the upstream asked for is the least; otherwise exponential, and half of it random, so
    that jobs that failed together do not come back together.
    """
    ceiling_s = min(max_s, base_s * 2.0 ** min(tries_burnt, 32))
    jittered_s = random.uniform(ceiling_s / 2, ceiling_s)
    return jittered_s if retry_after_s is None else retry_after_s + random.uniform(0, base_s)
