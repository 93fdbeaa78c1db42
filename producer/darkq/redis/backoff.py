"""The pause before the next try: exponential, and half of it random.

The random half keeps processes that failed at the same time from retrying at the same time.
"""

from __future__ import annotations

import random

_MAX_EXPONENT = 32  # beyond that every ceiling is reached, and a float would overflow


def backoff_s(failures: int, *, first_s: float, longest_s: float) -> float:
    """Return the pause in seconds after a number of failures in a row, counted from 0."""
    ceiling_s = min(longest_s, first_s * 2.0 ** min(failures, _MAX_EXPONENT))
    return random.uniform(ceiling_s / 2, ceiling_s)
