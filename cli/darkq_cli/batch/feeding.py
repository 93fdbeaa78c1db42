"""The lines of the input, into the batch, as there is room for them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import msgspec

from darkq import Batch
from darkq.batches.answers import failure_line
from darkq.batches.input_lines import Text
from darkq.batches.lines import Line
from darkq.errors import BatchClosed, BatchFull
from darkq_cli.batch.ledger import Ended, Ledger
from darkq_cli.batch.plan import Plan
from darkq_cli.batch.source import reading

_PAGE_LINES = 200
_PAUSE_S = 0.05


class Feeder:
    """Reads the input, and sends what has not ended.

    A line's number in the batch is its place among the lines that are not blank, from 1.
    """

    def __init__(self, plan: Plan, ledger: Ledger) -> None:
        self._plan = plan
        self._ledger = ledger
        self._moved = asyncio.Event()

    def moved(self) -> None:
        """Hear that lines were written."""
        self._moved.set()

    async def feed(self, batch: Batch) -> None:
        """Send all lines, and close the input. Ends early when the batch was cancelled.

        Raises what `Batch.add_many` raises otherwise, and `Problem`.
        """
        try:
            for page in self._pages():
                await asyncio.sleep(0)  # a resume passes a million known lines without any call
                await self._turn_of(page[-1][0])
                await self._add(batch, self._unfinished(page))
            await batch.close_input()
        except BatchClosed:
            return

    async def send_again(self, batch: Batch, numbers: set[int]) -> None:
        """Send lines whose answers Redis has lost; they have room, having been there before."""
        for page in self._pages() if numbers else ():
            lines = [(number, text) for number, text in page if number in numbers]
            await batch.add_many(self._unfinished(lines))

    async def _add(self, batch: Batch, lines: list[Line]) -> None:
        while lines:
            try:
                await batch.add_many(lines)
                break
            except BatchFull:  # the other side has not begun to collect
                await asyncio.sleep(_PAUSE_S)

    def write_off(self, batch_id: str) -> None:
        """Note as cancelled what was not sent before the batch was."""
        message = "the batch was cancelled before this line was sent"
        for page in self._pages():
            lines = self._unfinished(page)
            self._ledger.take([_cancelled(line, batch_id, message) for line in lines])

    def _pages(self) -> Iterator[list[tuple[int, Text]]]:
        size = min(_PAGE_LINES, self._plan.window)
        page: list[tuple[int, Text]] = []
        with reading(self._plan.files.source) as source:
            texts = (text for text in source.lines() if isinstance(text, Text))
            for number, text in enumerate(texts, start=1):
                page.append((number, text))
                if len(page) == size:
                    yield page
                    page = []
        if page:
            yield page

    def _unfinished(self, page: list[tuple[int, Text]]) -> list[Line]:
        left = set(self._ledger.missing([number for number, _ in page]))
        form = self._plan.form
        return [
            msgspec.structs.replace(form.line(text), number=number)
            for number, text in page
            if number in left
        ]

    async def _turn_of(self, number: int) -> None:
        """Let no line run further than a window ahead of one that holds the rest back."""
        while self._plan.ordered and number > self._ledger.place.written + self._plan.window:
            self._moved.clear()
            await self._moved.wait()


def _cancelled(line: Line, batch_id: str, message: str) -> Ended:
    made_up_id = f"{batch_id.rpartition('-')[2]}{line.number}"
    written = failure_line(line.custom_id, made_up_id, "cancelled", message)
    return Ended(line.number, True, written)
