"""How much unsent text a worker process may hold."""

from __future__ import annotations

import asyncio


class Budget:
    """Counts characters. Spending past the limit is allowed; whoever reads more must wait."""

    def __init__(self, limit: int) -> None:
        self.exhausted = False
        """Tells whether `room()` would wait."""
        self.limit = limit
        self.spent = 0
        self._room = asyncio.Event()
        self._room.set()

    def spend(self, chars: int) -> None:
        """Take in text, or give back what has been sent: a negative number."""
        self.spent += chars
        if self.exhausted != (self.spent >= self.limit):
            self.exhausted = not self.exhausted
            if self.exhausted:
                self._room.clear()
            else:
                self._room.set()

    async def room(self) -> None:
        """Wait until there is room for more text."""
        await self._room.wait()
