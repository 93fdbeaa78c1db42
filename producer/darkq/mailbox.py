"""What a reader has not taken yet of a channel: bounded, and honest about what it dropped."""

from __future__ import annotations

import asyncio

MAX_MESSAGES = 512
MAX_BYTES = 1 << 20


class Mailbox:
    """A sink for one reader. When it would overflow it forgets everything and says so."""

    def __init__(self) -> None:
        self._messages: list[bytes] = []
        self._bytes = 0
        self._gap = False
        self._arrived = asyncio.Event()

    def deliver(self, message: bytes) -> None:
        """Take a message, or become a gap when there is no room."""
        if self._gap:
            return
        self._messages.append(message)
        self._bytes += len(message)
        if len(self._messages) > MAX_MESSAGES or self._bytes > MAX_BYTES:
            self.gap()
        else:
            self._arrived.set()

    def gap(self) -> None:
        """Messages were lost; what waits is of no use, the log has it all."""
        self._gap = True
        self._messages = []
        self._bytes = 0
        self._arrived.set()

    def forget(self) -> None:
        """Start afresh. Call it before reading the log, never after."""
        self._gap = False
        self._messages = []
        self._bytes = 0
        self._arrived.clear()

    async def take(self, timeout_s: float) -> list[bytes] | None:
        """Return all that waits, at least one message; None for a gap or after the timeout.

        None means: read the log. Cancelling it loses nothing.
        """
        if not self._arrived.is_set():
            try:
                async with asyncio.timeout(timeout_s):
                    await self._arrived.wait()
            except TimeoutError:
                return None
        if self._gap:
            return None
        messages, self._messages = self._messages, []
        self._bytes = 0
        self._arrived.clear()
        return messages
