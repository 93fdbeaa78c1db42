"""Sends the lines of the input to the batch, as far as its window has room."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import msgspec

from darkq import Batch, Finished
from darkq.batches.lines import Line, Text
from darkq.errors import BatchClosed, BatchFull
from darkq_cli.batch.ledger import Ledger
from darkq_cli.batch.plan import Plan
from darkq_cli.batch.source import open_input
from darkq_cli.batch.state import EndedLine

_PAGE_LINES = 200
_RETRY_INTERVAL_S = 0.05


class Feeder:
    """Reads the input, and sends the lines that have not ended.

    The number of a line in the batch counts the lines that are not blank, from 1.
    """

    def __init__(self, plan: Plan, ledger: Ledger) -> None:
        self._plan = plan
        self._ledger = ledger
        self._written = asyncio.Event()

    def notify_written(self) -> None:
        """Report that lines were written, which can make room for more."""
        self._written.set()

    async def feed(self, batch: Batch) -> None:
        """Send all lines, and close the input. Returns early when the batch was cancelled.

        Raises `Problem`, and what else `Batch.add_many` raises.
        """
        try:
            for page in self._pages():
                await asyncio.sleep(0)  # a resume may skip a million known lines without awaiting
                await self._wait_for_window(page[-1][0])
                await self._add(batch, self._unfinished(page))
            await batch.close_input()
        except BatchClosed:
            return

    async def send_again(self, batch: Batch, numbers: set[int]) -> None:
        """Send lines again whose results Redis has lost. The window still counts them."""
        for page in self._pages() if numbers else ():
            lines = [(number, text) for number, text in page if number in numbers]
            await batch.add_many(self._unfinished(lines))

    def restore_custom_ids(self, page: list[Finished]) -> list[Finished]:
        """Return ends with the ids of the input, where Redis has deleted them with the result."""
        ended = [each for each in page if each.outcome != "missing"]
        nameless = {each.number for each in ended if not each.custom_id}
        if not nameless:
            return page
        parse = self._plan.format.parse
        names = {
            number: parse(text).custom_id
            for lines in self._pages()
            for number, text in lines
            if number in nameless
        }
        return [
            msgspec.structs.replace(each, custom_id=names.get(each.number, each.custom_id))
            for each in page
        ]

    async def _add(self, batch: Batch, lines: list[Line]) -> None:
        while lines:
            try:
                await batch.add_many(lines)
                break
            except BatchFull:  # until lines are collected and acknowledged
                await asyncio.sleep(_RETRY_INTERVAL_S)

    def record_unsent(self, batch_id: str) -> None:
        """Write the lines that were not sent before the cancellation as cancelled."""
        message = "the batch was cancelled before this line was sent"
        for page in self._pages():
            texts = {number: text.text for number, text in page}
            ended = []
            for line in self._parse_unfinished(page):
                made_up_id = f"{batch_id.rpartition('-')[2]}{line.number}"
                text = self._ledger.renderer.failure(
                    line.custom_id, made_up_id, "cancelled", message, texts[line.number]
                )
                ended.append(EndedLine(line.number, True, text))
            self._ledger.write(ended)

    def _pages(self) -> Iterator[list[tuple[int, Text]]]:
        size = min(_PAGE_LINES, self._plan.window)
        page: list[tuple[int, Text]] = []
        with open_input(self._plan.files.source) as source:
            texts = (text for text in source.lines(self._plan.input) if isinstance(text, Text))
            for number, text in enumerate(texts, start=1):
                page.append((number, text))
                if len(page) == size:
                    yield page
                    page = []
        if page:
            yield page

    def _unfinished(self, page: list[tuple[int, Text]]) -> list[Line]:
        lines = self._parse_unfinished(page)
        numbers = {line.number for line in lines}
        # Kept before they are sent: a line may end before the next statement.
        self._ledger.keep_rows({number: text.text for number, text in page if number in numbers})
        return lines

    def _parse_unfinished(self, page: list[tuple[int, Text]]) -> list[Line]:
        # A resume, or a new batch after a loss, sends only lines without a result here.
        left = set(self._ledger.find_unfinished([number for number, _ in page]))
        format_ = self._plan.format
        return [
            msgspec.structs.replace(format_.parse(text), number=number)
            for number, text in page
            if number in left
        ]

    async def _wait_for_window(self, number: int) -> None:
        """With --ordered, wait until the line is at most a window ahead of the written ones."""
        while self._plan.ordered and number > self._ledger.checkpoint.written + self._plan.window:
            self._written.clear()
            await self._written.wait()
