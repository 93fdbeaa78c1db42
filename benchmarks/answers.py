"""What the upstream is asked for: the prompt says it. Times stand in the text itself.

All clocks are `time.monotonic_ns()`, which the processes of a machine share.
"""

from __future__ import annotations

import time

ARRIVAL = "arrival"
"""One chunk: when the request arrived."""


def burst(chunks: int) -> str:
    """So many chunks of a word each, as fast as they are read."""
    return f"burst {chunks}"


def paced(chunks: int, per_s: float) -> str:
    """So many chunks at a pace; each says when it was written."""
    return f"paced {chunks} {per_s}"


def stamp() -> str:
    """The time now, as a text that stays apart from its neighbours when they are joined."""
    return f"{time.monotonic_ns()} "


def ages_us(text: str) -> list[float]:
    """Return how long ago each stamp in a text was made."""
    now = time.monotonic_ns()
    return [(now - int(at)) / 1000 for at in text.split()]
