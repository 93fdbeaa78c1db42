"""The latest values of some numbers, drawn as bars: one bar for each reading."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from rich.text import Text

from darkq_cli.top.reading import Reading

MAX_BARS = 60
_BARS = "▁▂▃▄▅▆▇█"


class History:
    """The lengths of the queues, and the rates per second."""

    def __init__(self) -> None:
        self._numbers: dict[str, deque[float]] = {}

    def add(self, reading: Reading) -> None:
        """Add a reading."""
        for queue in reading.queues:
            self._append(queue.priority, queue.waiting + queue.deferred)
        if reading.rates is not None:
            for outcome, per_s in reading.rates.jobs.items():
                self._append(outcome, per_s)
            self._append("retries", reading.rates.retries)
            self._append("chunks", reading.rates.chunks)

    def draw(self, name: str, chars: int) -> Text:
        """Draw the latest values of one number; the highest fills the line."""
        return Text(
            draw_bars(list(self._numbers.get(name, ()))[-chars:] if chars > 0 else []), "cyan"
        )

    def _append(self, name: str, number: float) -> None:
        self._numbers.setdefault(name, deque(maxlen=MAX_BARS)).append(number)


def draw_bars(numbers: Sequence[float]) -> str:
    """Draw numbers relative to the highest. A number above zero is always visible."""
    most = max(numbers, default=0)
    return "".join(_draw_bar(number / most if most else 0) for number in numbers)


def _draw_bar(fraction: float) -> str:
    return _BARS[max(int(fraction > 0), round(fraction * (len(_BARS) - 1)))]
