"""The messages of a channel that a reader has not taken yet; bounded, drops are signalled."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

MAX_MESSAGES = 512
MAX_BYTES = 1 << 20


class Mailbox:
    """The buffer of one reader. On overflow it drops all messages and signals a gap.

    `came_s` is the arrival time of the oldest message that the last `take` returned
    (`time.perf_counter`). `on_news` is called for each message and gap, instead of `take`.
    """

    __slots__ = (
        *("_bytes", "_gap", "_messages", "_oldest_s", "_on_news", "_on_overflow", "_taker"),
        "came_s",
    )

    def __init__(
        self,
        *,
        on_overflow: Callable[[], None] = lambda: None,
        on_news: Callable[[], None] | None = None,
    ) -> None:
        self.came_s = 0.0
        self._on_news = on_news
        self._on_overflow = on_overflow
        self._oldest_s = 0.0
        self._messages: list[bytes] = []
        self._bytes = 0
        self._gap = False
        self._taker: asyncio.Future[None] | None = None

    def deliver(self, message: bytes) -> None:
        """Store a message. If there is no room, drop all messages and signal a gap."""
        if self._gap:
            return
        if not self._messages:
            self._oldest_s = time.perf_counter()
        self._messages.append(message)
        self._bytes += len(message)
        if len(self._messages) > MAX_MESSAGES or self._bytes > MAX_BYTES:
            self._on_overflow()
            self.gap()
        else:
            self._wake()

    def gap(self) -> None:
        """Signal that messages were lost. Drops the others: the reader reads the log instead."""
        self.forget()
        self._gap = True
        self._wake()

    def forget(self) -> None:
        """Drop all messages.

        Call it before reading the log: messages that arrive during the read must not be dropped.
        """
        self._gap = False
        self._messages = []
        self._bytes = 0

    async def take(self, timeout_s: float) -> list[bytes] | None:
        """Return all waiting messages, at least one; None for a gap or after the timeout.

        On None, read the log. Cancellation loses no messages. Only one task may call it at a time.
        """
        if not (self._messages or self._gap):
            loop = asyncio.get_running_loop()
            self._taker = loop.create_future()
            # Not `asyncio.timeout`: it takes longer than the delivery of a message.
            silence = loop.call_later(timeout_s, self._wake)
            try:
                await self._taker
            finally:
                silence.cancel()
                self._taker = None
        return self.take_now()

    def take_now(self) -> list[bytes] | None:
        """Return all waiting messages; None for a gap or if there are none."""
        self.came_s = self._oldest_s
        messages, self._messages = self._messages, []
        self._bytes = 0
        return messages or None

    @property
    def has_gap(self) -> bool:
        """Whether messages were lost since the last `forget`."""
        return self._gap

    def _wake(self) -> None:
        if self._on_news is not None:
            self._on_news()
        elif self._taker is not None and not self._taker.done():
            self._taker.set_result(None)
