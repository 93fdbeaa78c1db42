"""How some numbers were of late, as lines of blocks: one step for each reading."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from rich.text import Text

from darkq_cli.top.reading import Reading

MOST_BLOCKS = 60
_BLOCKS = "▁▂▃▄▅▆▇█"


class History:
    """What waits in each queue, and what happens per second."""

    def __init__(self) -> None:
        self._numbers: dict[str, deque[float]] = {}

    def add(self, reading: Reading) -> None:
        """Take a reading."""
        for queue in reading.queues:
            self._add(queue.priority, queue.waiting + queue.deferred)
        if reading.rates is not None:
            for outcome, per_s in reading.rates.jobs.items():
                self._add(outcome, per_s)
            self._add("retries", reading.rates.retries)
            self._add("chunks", reading.rates.chunks)

    def line(self, name: str, chars: int) -> Text:
        """Return the latest numbers of that name, the highest as a full block."""
        return Text(blocks(list(self._numbers.get(name, ()))[-chars:] if chars > 0 else []), "cyan")

    def _add(self, name: str, number: float) -> None:
        self._numbers.setdefault(name, deque(maxlen=MOST_BLOCKS)).append(number)


def blocks(numbers: Sequence[float]) -> str:
    """Draw numbers as blocks between nothing and the highest; what is not nothing is seen."""
    most = max(numbers, default=0)
    return "".join(_block(number / most if most else 0) for number in numbers)


def _block(part: float) -> str:
    return _BLOCKS[max(int(part > 0), round(part * (len(_BLOCKS) - 1)))]
