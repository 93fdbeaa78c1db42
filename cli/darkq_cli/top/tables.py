"""A reading as tables that fit a terminal, whatever its size.

Queues and throughput always have their lines. What is left of the height goes to upstreams and
workers; those that find no room are counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Self, TypeAlias

from rich.table import Table
from rich.text import Text

from darkq import UpstreamStatus, WorkerLeases
from darkq.telemetry.metrics import OUTCOMES
from darkq_cli.terminal import messages, program
from darkq_cli.terminal.durations import span, whole_span
from darkq_cli.top.history import MOST_BLOCKS, History
from darkq_cli.top.reading import Reading

_NAME_CHARS = 16
_GAP_CHARS = 2
_COUNT_CHARS = 10
_COUNTS_CHARS = 3 * (_COUNT_CHARS + _GAP_CHARS)
_WORDS_CHARS = 12 + _GAP_CHARS
_LEAST_BLOCKS = 8
_MOST_CODES = 3

Rows: TypeAlias = list[list[Text]]


def tables(
    reading: Reading, history: History | None, width: int, height: int | None
) -> Iterator[Table | Text]:
    """Yield what fits into this height: None is room for all."""
    widths = _Widths.within(width, reading, least_blocks=_LEAST_BLOCKS if history else 0)
    past = history or History()
    failing = _failing(reading)
    queues = _table(widths, _QUEUES, _queues(reading, past, widths.blocks))
    ended = _table(widths, _ended(reading), _throughput(reading, past, widths.blocks))
    used = queues.row_count + ended.row_count + bool(failing) + 2 * 4  # heads after empty lines
    room = None if height is None else max(2, height - used)
    upstreams, workers = _shares(len(reading.upstreams), len(reading.workers), room)
    yield Text()
    yield queues
    yield Text()
    yield ended
    if failing:
        yield Text(failing, "red", no_wrap=True, overflow="ellipsis")
    yield Text()
    yield _table(widths, _UPSTREAMS, _upstreams(reading, upstreams))
    yield Text()
    yield _table(widths.for_ids(reading), _workers_heads(reading), _workers(reading, workers))
    if not reading.workers:
        yield Text(f"none is alive; to start one: {program.command()} worker", "bold red")


class _Widths(NamedTuple):
    """How wide the columns are: the same in all tables, so that they stand below each other."""

    all: int
    name: int
    blocks: int

    @classmethod
    def within(cls, width: int, reading: Reading, *, least_blocks: int) -> Self:
        """Share a line out."""
        rest = width - _COUNTS_CHARS - _WORDS_CHARS
        name = _name_chars(reading, rest - least_blocks)
        return cls(width, name, max(0, min(MOST_BLOCKS, rest - name - _GAP_CHARS)))

    def for_ids(self, reading: Reading) -> Self:
        """Give ids of workers all the room: their ends are what tells them apart."""
        return self._replace(name=_name_chars(reading, self.all - _COUNTS_CHARS))

    @property
    def words(self) -> int:
        """What a column has that nothing follows."""
        return max(_WORDS_CHARS, self.all - self.name - _GAP_CHARS - _COUNTS_CHARS)


def _name_chars(reading: Reading, most: int) -> int:
    names = [each.name for each in reading.upstreams] + [each.worker for each in reading.workers]
    return max(_NAME_CHARS, min(most - _GAP_CHARS, max(map(len, names), default=0)))


def _shares(upstreams: int, workers: int, room: int | None) -> tuple[int, int]:
    """Share lines out: the shorter list is shown whole, if it leaves the other one half."""
    if room is None or upstreams + workers <= room:
        return upstreams, workers
    half = room // 2
    if upstreams <= half:
        return upstreams, room - upstreams
    if workers <= room - half:
        return room - workers, workers
    return half, room - half


_QUEUES = ("QUEUE", "waiting", "deferred", "running", "oldest waits", "")
_UPSTREAMS = ("UPSTREAM", "breaker", "at once", "put off", "calls")


def _table(widths: _Widths, heads: Sequence[str], rows: Rows) -> Table:
    """Make a table: a name, three numbers, then words, or a number and a line of blocks."""
    gaps = (0, _GAP_CHARS, 0, 0)
    table = Table(box=None, padding=gaps, pad_edge=False, header_style="bold dim")
    table.add_column(heads[0], width=widths.name, no_wrap=True, overflow="ellipsis")
    for head in heads[1:4]:
        table.add_column(head, width=_COUNT_CHARS, justify="right", no_wrap=True)
    if heads is _UPSTREAMS:
        table.add_column(heads[4], max_width=widths.words, no_wrap=True, overflow="ellipsis")
    elif len(heads) > len(_UPSTREAMS):
        table.add_column(heads[4], width=_WORDS_CHARS - _GAP_CHARS, justify="right", no_wrap=True)
        table.add_column(heads[5], width=widths.blocks, no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def _queues(reading: Reading, history: History, drawn: int) -> Rows:
    return [
        [
            Text(queue.priority),
            _count(queue.waiting, "" if reading.workers else "bold red"),
            _count(queue.deferred),
            _count(queue.running),
            Text(span(queue.oldest_wait_s) if queue.waiting else "-"),
            history.line(queue.priority, drawn),
        ]
        for queue in reading.queues
    ]


def _ended(reading: Reading) -> tuple[str, ...]:
    over = f"over {span(reading.rates.over_s)}" if reading.rates else ""
    return ("THROUGHPUT", "in all", "per second", over, "", "")


def _throughput(reading: Reading, history: History, drawn: int) -> Rows:
    counted, rates = reading.counted, reading.rates
    numbers = {name: (counted.jobs[name], rates and rates.jobs[name]) for name in OUTCOMES}
    numbers["retries"] = counted.retries, rates and rates.retries
    numbers["chunks"] = counted.chunks, rates and rates.chunks
    rows: Rows = []
    for name, (in_all, per_s) in numbers.items():
        style = "bold red" if name == "failed" and per_s else ""
        rate = Text(f"{per_s:,.1f}" if per_s is not None else "-", style)
        rows.append([Text(name), _count(in_all), rate, Text(), Text(), history.line(name, drawn)])
    return rows


def _failing(reading: Reading) -> str:
    """Name the codes that jobs fail with now, the most frequent first."""
    failures = reading.rates.failures if reading.rates else {}
    now = sorted(((rate, code) for code, rate in failures.items() if rate), reverse=True)
    codes = ", ".join(f"{code} {rate:,.1f}" for rate, code in now[:_MOST_CODES])
    return f"failing with {codes} per second" if codes else ""


def _upstreams(reading: Reading, most: int) -> Rows:
    rows = [
        [
            _name(each.name),
            _breaker(each),
            Text(f"{each.in_progress:,}/{each.concurrency:,}" if each.concurrency else "-"),
            _count(each.waiting),
            Text(_calls(each, reading.at_ms)),
        ]
        for each in reading.upstreams
    ]
    return _cut(rows, most, "upstreams")


def _breaker(status: UpstreamStatus) -> Text:
    styles = {"closed": "green", "half-open": "bold yellow"}
    return Text(status.breaker, styles.get(status.breaker, "bold red"))


def _calls(status: UpstreamStatus, now_ms: int) -> str:
    """Say when it is called again, if it is not now, and how full its limits are."""
    words = []
    if status.reopens_at_ms is not None:
        words.append(f"again in {span(max(0, status.reopens_at_ms - now_ms) / 1000)}")
    windows = sorted(status.windows, key=lambda window: -window.used / window.calls)
    words += [f"{w.used:,}/{w.calls:,} in {whole_span(w.length_s)}" for w in windows]
    return ", ".join(words) or "no limit"


def _workers_heads(reading: Reading) -> tuple[str, ...]:
    return (f"WORKER ({len(reading.workers):,})", "running", "lease ends", "")


def _workers(reading: Reading, most: int) -> Rows:
    busiest = sorted(reading.workers, key=lambda each: (-each.running, each.worker))
    return _cut([_worker(each, reading.at_ms) for each in busiest], most, "workers")


def _worker(worker: WorkerLeases, now_ms: int) -> list[Text]:
    left_s = (worker.first_ends_ms - now_ms) / 1000
    ends = f"in {span(max(0.0, left_s))}" if worker.running else "-"
    return [_name(worker.worker), _count(worker.running), Text(ends)]


def _cut(rows: Rows, most: int, what: str) -> Rows:
    if len(rows) <= most:
        return rows
    left_out = len(rows) - most + 1
    return [*rows[: most - 1], [Text(f"+ {left_out:,} {what}", "dim")]]


def _name(name: str) -> Text:
    return Text(" ".join(messages.harmless(name).split()))


def _count(number: int, style: str = "") -> Text:
    return Text(f"{number:,}", style if number else "dim")
