"""A reading as tables that fit a terminal, whatever its size.

Queues and throughput always have their lines. What is left of the height goes to upstreams and
workers; those that find no room are counted.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TypeAlias

from rich.table import Table
from rich.text import Text

from darkq import UpstreamStatus, WorkerLeases
from darkq.measures import OUTCOMES
from darkq_cli import here, output, talk
from darkq_cli.spans import span, whole_span
from darkq_cli.top.history import MOST_BLOCKS, History
from darkq_cli.top.reading import Away, Reading

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

_NAME_CHARS = 16
_GAP_CHARS = 2
_COUNTS_CHARS = 3 * (9 + _GAP_CHARS)
_WORDS_CHARS = 12 + _GAP_CHARS
_BLOCKS_CHARS = 10
_MOST_CODES = 3
_PLAIN_CHARS = 100

Rows: TypeAlias = list[list[Text]]


class Panel:
    """What is on the screen: the last reading if there is one, and that Redis is away if it is."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._reading: Reading | None = None
        self._away: Away | None = None
        self._history = History()

    def take(self, look: Reading | Away) -> None:
        """Be of this from now on."""
        if isinstance(look, Away):
            self._away = look
        else:
            self._reading, self._away = look, None
            self._history.add(look)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self._head(options.max_width)
        lines = 1
        if self._away is not None:
            yield self._outage(self._away)
            lines += 1
        if self._reading is not None:
            height = (options.height or options.size.height) - lines
            yield from _tables(self._reading, self._history, options.max_width, height)

    def _head(self, width: int) -> Text:
        right = f"{time.strftime('%H:%M:%S')}  q quits"
        left = Text(f"darkq top  {self._title}", "bold", no_wrap=True, overflow="ellipsis")
        left.truncate(max(0, width - len(right) - 1), overflow="ellipsis", pad=True)
        return left.append(" ").append(right, "not bold dim")

    def _outage(self, away: Away) -> Text:
        since = time.strftime("%H:%M:%S", time.localtime(away.away_since_ms / 1000))
        gone_s = (away.at_ms - away.away_since_ms) / 1000
        words = f"Redis is away since {since}, {span(gone_s)} ({away.reason})"
        words += "; below, what was" if self._reading is not None else "; trying again"
        return Text(words, "bold red", no_wrap=True, overflow="ellipsis")


def print_plain(reading: Reading) -> None:
    """Print a reading on stdout, whole and without what was before it."""
    console = talk.stdout_console()
    stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(reading.at_ms / 1000))
    with console.capture() as printed:
        console.print(Text(stamp, "bold"), *_tables(reading, None, _PLAIN_CHARS, None), sep="\n")
    for line in printed.get().splitlines():
        output.write_line(line.rstrip())


def _tables(
    reading: Reading, history: History | None, width: int, height: int | None
) -> Iterator[Table | Text]:
    """Yield what fits into this height: None is room for all."""
    name_chars = _name_chars(reading, width - _COUNTS_CHARS - _WORDS_CHARS - _BLOCKS_CHARS)
    left_over = width - name_chars - _GAP_CHARS - _COUNTS_CHARS - _WORDS_CHARS
    past, drawn = (history, min(MOST_BLOCKS, left_over)) if history else (History(), 0)
    fixed = [
        _table(name_chars, _QUEUES, _queues(reading, past, drawn)),
        _table(name_chars, _ended(reading), _throughput(reading, past, drawn)),
    ]
    used = sum(1 + table.row_count + 1 for table in fixed)  # each after an empty line
    room = None if height is None else max(2, height - used - 4)
    upstreams, workers = _shares(len(reading.upstreams), len(reading.workers), room)
    for table in (
        *fixed,
        _table(name_chars, _UPSTREAMS, _upstreams(reading, upstreams)),
        _table(_id_chars(reading, width), _workers_heads(reading), _workers(reading, workers)),
    ):
        yield Text()
        yield table
    if not reading.workers:
        yield Text(f"none is alive; to start one: {here.command()} worker", "bold red")


def _name_chars(reading: Reading, most: int) -> int:
    """Return how long names may be, so that all columns stand below each other."""
    names = [each.name for each in reading.upstreams] + [each.worker for each in reading.workers]
    return max(_NAME_CHARS, min(most - _GAP_CHARS, max(map(len, names), default=0)))


def _id_chars(reading: Reading, width: int) -> int:
    """Return the same for workers, whose ids end with what tells them apart."""
    return _name_chars(reading, width - _COUNTS_CHARS)


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
_UPSTREAMS = ("UPSTREAM", "breaker", "at once", "put off", "calls", "")


def _table(name_chars: int, heads: Sequence[str], rows: Rows) -> Table:
    gaps = (0, _GAP_CHARS, 0, 0)
    table = Table(box=None, padding=gaps, pad_edge=False, header_style="bold dim")
    table.add_column(heads[0], width=name_chars, no_wrap=True, overflow="ellipsis")
    for head in heads[1:4]:
        table.add_column(head, min_width=9, justify="right", no_wrap=True)
    is_left = heads is _UPSTREAMS
    table.add_column(
        heads[4],
        min_width=12,
        justify="left" if is_left else "right",
        no_wrap=True,
        overflow="ellipsis",
    )
    if not is_left:
        table.add_column(heads[5], no_wrap=True, overflow="ellipsis")
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
    rows[OUTCOMES.index("failed")][-1].append(_why(reading), "red")
    return rows


def _why(reading: Reading) -> str:
    """Name the codes that jobs fail with now, the most frequent first."""
    failures = reading.rates.failures if reading.rates else {}
    now = sorted(((rate, code) for code, rate in failures.items() if rate), reverse=True)
    return " " + ", ".join(code for _, code in now[:_MOST_CODES]) if now else ""


def _upstreams(reading: Reading, most: int) -> Rows:
    rows = [
        [
            _name(each.name),
            _breaker(each, reading.at_ms),
            Text(f"{each.in_progress:,}/{each.concurrency:,}" if each.concurrency else "-"),
            _count(each.waiting),
            Text(_calls(each)),
        ]
        for each in reading.upstreams
    ]
    return _cut(rows, most, "upstreams")


def _breaker(status: UpstreamStatus, now_ms: int) -> Text:
    if status.breaker == "closed":
        return Text("closed", "green")
    if status.reopens_at_ms is None:
        return Text(status.breaker, "bold yellow")
    return Text(f"{status.breaker} {span((status.reopens_at_ms - now_ms) / 1000)}", "bold red")


def _calls(status: UpstreamStatus) -> str:
    windows = (f"{w.used:,}/{w.calls:,} in {whole_span(w.length_s)}" for w in status.windows)
    return ", ".join(windows) or "no limit"


def _workers_heads(reading: Reading) -> tuple[str, ...]:
    return (f"WORKER ({len(reading.workers):,})", "running", "lease ends", "", "", "")


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
    return Text(" ".join(talk.harmless(name).split()))


def _count(number: int, style: str = "") -> Text:
    return Text(f"{number:,}", style if number else "dim")
