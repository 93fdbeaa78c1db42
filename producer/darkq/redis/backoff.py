"""Pauses between attempts: they double, up to a limit, and half of each is random.

The random part keeps processes that failed together from trying again together.
"""

from __future__ import annotations

import random

_MOST_DOUBLINGS = 32


def backoff_s(failures: int, *, first_s: float, most_s: float) -> float:
    """Return the pause after so many failures in a row, in seconds."""
    ceiling_s = min(most_s, first_s * 2.0 ** min(failures, _MOST_DOUBLINGS))
    return random.uniform(ceiling_s / 2, ceiling_s)
