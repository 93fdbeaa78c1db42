"""Sets of partitions, as people write them: `0-3,7`."""

from __future__ import annotations

import re

from darkq.keys import MAX_PARTITIONS

_RANGE = re.compile(r"([0-9]{1,4})(?:-([0-9]{1,4}))?")


def parse_partitions(text: str) -> tuple[int, ...]:
    """Read numbers and ranges with commas; return them in order, each once. Raises `ValueError`."""
    found: set[int] = set()
    for part in text.split(","):
        match = _RANGE.fullmatch(part.strip())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not first <= last < MAX_PARTITIONS:
            raise ValueError(f"must be partitions below {MAX_PARTITIONS} like 0-3,7")
        found.update(range(first, last + 1))
    return tuple(sorted(found))
