"""What a reader has not taken yet of a channel: bounded, and honest about what it dropped."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

MAX_MESSAGES = 512
MAX_BYTES = 1 << 20


class Mailbox:
    """A sink for one reader. When it would overflow it forgets everything and says so.

    `came_s` is when the oldest of the messages came that were taken last, as `time.perf_counter`
    tells it.
    """

    def __init__(self, *, on_overflow: Callable[[], None] = lambda: None) -> None:
        self.came_s = 0.0
        self._on_overflow = on_overflow
        self._oldest_s = 0.0
        self._messages: list[bytes] = []
        self._bytes = 0
        self._gap = False
        self._taker: asyncio.Future[None] | None = None

    def deliver(self, message: bytes) -> None:
        """Take a message, or become a gap when there is no room."""
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
        """Messages were lost; what waits is of no use, the log has it all."""
        self.forget()
        self._gap = True
        self._wake()

    def forget(self) -> None:
        """Start afresh. Call it before reading the log, never after."""
        self._gap = False
        self._messages = []
        self._bytes = 0

    async def take(self, timeout_s: float) -> list[bytes] | None:
        """Return all that waits, at least one message; None for a gap or after the timeout.

        None means: read the log. Cancelling it loses nothing. One may take at a time.
        """
        if not (self._messages or self._gap):
            loop = asyncio.get_running_loop()
            self._taker = loop.create_future()
            # Not `asyncio.timeout`, which costs more than the delivery.
            silence = loop.call_later(timeout_s, self._wake)
            try:
                await self._taker
            finally:
                silence.cancel()
                self._taker = None
        self.came_s = self._oldest_s
        messages, self._messages = self._messages, []
        self._bytes = 0
        return messages or None

    def _wake(self) -> None:
        if self._taker is not None and not self._taker.done():
            self._taker.set_result(None)
