"""The prompts of the upstream, which define its answers. Timestamps are part of the text.

All clocks are `time.monotonic_ns()`, which all processes of a machine share.
"""

from __future__ import annotations

import time

ARRIVAL = "arrival"
"""One chunk: when the request arrived."""


def burst(chunks: int) -> str:
    """Return a prompt for chunks of one word each, as fast as they are read."""
    return f"burst {chunks}"


def paced(chunks: int, per_s: float) -> str:
    """Return a prompt for chunks at a pace; each has the time at which it was written."""
    return f"paced {chunks} {per_s}"


def stamp() -> str:
    """Return the time now as a text that remains separate when texts are joined."""
    return f"{time.monotonic_ns()} "


def ages_us(text: str) -> list[float]:
    """Return the age of each timestamp in a text."""
    now = time.monotonic_ns()
    return [(now - int(at)) / 1000 for at in text.split()]
