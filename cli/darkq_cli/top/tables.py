"""A reading as tables that fit the size of a terminal.

Queues and throughput are always shown. Upstreams and workers share the rest of the height; a last
line counts those that do not fit.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Self, TypeAlias

from rich.table import Table
from rich.text import Text

from darkq import UpstreamStatus
from darkq.operate.waiting import describe_pause
from darkq.telemetry.metrics import OUTCOMES
from darkq_cli.terminal import messages, program
from darkq_cli.terminal.units import format_duration, format_setting
from darkq_cli.top.reading import Reading

MAX_BARS = 60
_BARS = "▁▂▃▄▅▆▇█"
_NAME_CHARS = 16
_GAP_CHARS = 2
_COUNT_CHARS = 10
_COUNTS_CHARS = 3 * (_COUNT_CHARS + _GAP_CHARS)
_WORDS_CHARS = 12 + _GAP_CHARS
_MIN_BARS = 8
_MAX_CODES = 3

Rows: TypeAlias = list[list[Text]]


class History:
    """The lengths of the queues, and the rates per second."""

    def __init__(self) -> None:
        self._numbers = defaultdict[str, deque[float]](lambda: deque(maxlen=MAX_BARS))

    def add(self, reading: Reading) -> None:
        """Add a reading."""
        for queue in reading.queues:
            self._numbers[queue.priority].append(queue.waiting + queue.deferred)
        if (rates := reading.rates) is not None:
            per_s = {**rates.jobs, "retries": rates.retries, "chunks": rates.chunks}
            for name, number in per_s.items():
                self._numbers[name].append(number)

    def draw(self, name: str, chars: int) -> Text:
        """Draw the latest values of one number; the highest fills the line."""
        numbers = list(self._numbers[name])[-chars:] if chars > 0 else []
        return Text(draw_bars(numbers), "cyan")


def draw_bars(numbers: Sequence[float]) -> str:
    """Draw numbers relative to the highest. A number above zero is always visible."""
    scale = (len(_BARS) - 1) / (max(numbers, default=0) or 1)
    return "".join(_BARS[max(int(number > 0), round(number * scale))] for number in numbers)


def render_tables(
    reading: Reading, history: History | None, width: int, height: int | None
) -> Iterator[Table | Text]:
    """Yield the tables that fit this height; None means unlimited."""
    widths = _Widths.fit(width, reading, min_bars=_MIN_BARS if history else 0)
    past = history or History()
    failing = _describe_failures(reading)
    pauses = [describe_pause(each.priority, each.paused) for each in reading.queues if each.paused]
    queues = _build_table(widths, _QUEUES, _list_queues(reading, past, widths.bars))
    over = f"over {format_duration(reading.rates.over_s)}" if reading.rates else ""
    throughput = ("THROUGHPUT", "total", "per second", over, "", "")
    ended = _build_table(widths, throughput, _list_throughput(reading, past, widths.bars))
    used = queues.row_count + len(pauses) + ended.row_count + bool(failing)
    used += 2 * 4  # 4 tables, each with a blank line and a head
    room = None if height is None else max(2, height - used)
    upstreams, workers = _share_lines(len(reading.upstreams), len(reading.workers), room)
    yield Text()
    yield queues
    for pause in pauses:
        yield Text(pause, "bold yellow", no_wrap=True, overflow="ellipsis")
    yield Text()
    yield ended
    if failing:
        yield Text(failing, "red", no_wrap=True, overflow="ellipsis")
    yield Text()
    yield _build_table(widths, _UPSTREAMS, _list_upstreams(reading, upstreams))
    yield Text()
    heads = (f"WORKER ({len(reading.workers):,})", "running", "lease ends", "")
    yield _build_table(widths.for_ids(reading), heads, _list_workers(reading, workers))
    if not reading.workers:
        yield Text(f"no live workers; to start one: {program.command()} worker", "bold red")


class _Widths(NamedTuple):
    """The widths of columns: equal in all tables, so that the columns are aligned."""

    all: int
    name: int
    bars: int

    @classmethod
    def fit(cls, width: int, reading: Reading, *, min_bars: int) -> Self:
        """Divide the width of a line."""
        rest = width - _COUNTS_CHARS - _WORDS_CHARS
        name = _fit_names(reading, rest - min_bars)
        return cls(width, name, max(0, min(MAX_BARS, rest - name - _GAP_CHARS)))

    def for_ids(self, reading: Reading) -> Self:
        """Give all width to the ids of workers, because ids differ at their ends."""
        return self._replace(name=_fit_names(reading, self.all - _COUNTS_CHARS))

    @property
    def words(self) -> int:
        """The width of a last column."""
        return max(_WORDS_CHARS, self.all - self.name - _GAP_CHARS - _COUNTS_CHARS)


def _fit_names(reading: Reading, most: int) -> int:
    names = [each.name for each in reading.upstreams] + [each.worker for each in reading.workers]
    return max(_NAME_CHARS, min(most - _GAP_CHARS, max(map(len, names), default=0)))


def _share_lines(upstreams: int, workers: int, room: int | None) -> tuple[int, int]:
    """Divide the lines. The shorter list is shown in full if half of the lines are enough."""
    if room is None or upstreams + workers <= room:
        return upstreams, workers
    half = room // 2
    if upstreams <= half:
        return upstreams, room - upstreams
    if workers <= room - half:
        return room - workers, workers
    return half, room - half


_QUEUES = ("QUEUE", "waiting", "deferred", "running", "oldest waits", "")
_UPSTREAMS = ("UPSTREAM", "breaker", "concurrent", "deferred", "calls")
_BREAKER_STYLES = {"closed": "green", "half-open": "bold yellow"}


def _build_table(widths: _Widths, heads: Sequence[str], rows: Rows) -> Table:
    """Create a table: a name, three numbers, then words, or a number and bars."""
    gaps = (0, _GAP_CHARS, 0, 0)
    table = Table(box=None, padding=gaps, pad_edge=False, header_style="bold dim")
    table.add_column(heads[0], width=widths.name, no_wrap=True, overflow="ellipsis")
    for head in heads[1:4]:
        table.add_column(head, width=_COUNT_CHARS, justify="right", no_wrap=True)
    if heads is _UPSTREAMS:
        table.add_column(heads[4], max_width=widths.words, no_wrap=True, overflow="ellipsis")
    elif len(heads) > len(_UPSTREAMS):
        table.add_column(heads[4], width=_WORDS_CHARS - _GAP_CHARS, justify="right", no_wrap=True)
        table.add_column(heads[5], width=widths.bars, no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def _list_queues(reading: Reading, history: History, drawn: int) -> Rows:
    return [
        [
            Text(queue.priority),
            _format_count(queue.waiting, "" if reading.workers else "bold red"),
            _format_count(queue.deferred),
            _format_count(queue.running),
            Text(format_duration(queue.oldest_wait_s) if queue.waiting else "-"),
            history.draw(queue.priority, drawn),
        ]
        for queue in reading.queues
    ]


def _list_throughput(reading: Reading, history: History, drawn: int) -> Rows:
    counted, rates = reading.counted, reading.rates
    numbers = {name: (counted.jobs[name], rates and rates.jobs[name]) for name in OUTCOMES}
    numbers["retries"] = counted.retries, rates and rates.retries
    numbers["chunks"] = counted.chunks, rates and rates.chunks
    rows: Rows = []
    for name, (in_all, per_s) in numbers.items():
        style = "bold red" if name == "failed" and per_s else ""
        rate = Text(f"{per_s:,.1f}" if per_s is not None else "-", style)
        rows.append(
            [Text(name), _format_count(in_all), rate, Text(), Text(), history.draw(name, drawn)]
        )
    return rows


def _describe_failures(reading: Reading) -> str:
    """List the codes of the jobs that fail now, the most frequent first."""
    failures = reading.rates.failures if reading.rates else {}
    now = sorted(((rate, code) for code, rate in failures.items() if rate), reverse=True)
    codes = ", ".join(f"{code} {rate:,.1f}" for rate, code in now[:_MAX_CODES])
    return f"failing with {codes} per second" if codes else ""


def _list_upstreams(reading: Reading, most: int) -> Rows:
    rows = [
        [
            _render_name(each.name),
            Text(each.breaker, _BREAKER_STYLES.get(each.breaker, "bold red")),
            Text(f"{each.in_progress:,}/{each.concurrency:,}" if each.concurrency else "-"),
            _format_count(each.waiting),
            Text(_describe_calls(each, reading.at_ms)),
        ]
        for each in reading.upstreams
    ]
    return _truncate(rows, most, "upstreams")


def _describe_calls(status: UpstreamStatus, now_ms: int) -> str:
    """Describe when calls resume if they are blocked, and the use of the limits."""
    words = []
    if status.reopens_at_ms is not None:
        words.append(f"again in {format_duration(max(0, status.reopens_at_ms - now_ms) / 1000)}")
    windows = sorted(status.windows, key=lambda window: -window.used / window.calls)
    words += [f"{w.used:,}/{w.calls:,} in {format_setting(w.length_s)}" for w in windows]
    return ", ".join(words) or "no limit"


def _list_workers(reading: Reading, most: int) -> Rows:
    rows: Rows = []
    for each in sorted(reading.workers, key=lambda each: (-each.running, each.worker)):
        left_s = max(0, each.first_ends_ms - reading.at_ms) / 1000
        ends = f"in {format_duration(left_s)}" if each.running else "-"
        rows.append([_render_name(each.worker), _format_count(each.running), Text(ends)])
    return _truncate(rows, most, "workers")


def _truncate(rows: Rows, most: int, what: str) -> Rows:
    if len(rows) <= most:
        return rows
    left_out = len(rows) - most + 1
    return [*rows[: most - 1], [Text(f"+ {left_out:,} {what}", "dim")]]


def _render_name(name: str) -> Text:
    return Text(" ".join(messages.replace_controls(name).split()))


def _format_count(number: int, style: str = "") -> Text:
    return Text(f"{number:,}", style if number else "dim")
