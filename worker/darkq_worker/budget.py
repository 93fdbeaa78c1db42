"""How much unsent text a worker process may hold."""

from __future__ import annotations

import asyncio


class Budget:
    """Counts characters. Spending past the limit is allowed; whoever reads more must wait."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._spent = 0
        self._room = asyncio.Event()
        self._room.set()

    def spend(self, chars: int) -> None:
        """Take in text, or give back what has been sent: a negative number."""
        self._spent += chars
        if self._spent >= self._limit:
            self._room.clear()
        elif not self._room.is_set():
            self._room.set()

    @property
    def exhausted(self) -> bool:
        """Tell whether `room()` would wait."""
        return self._spent >= self._limit

    async def room(self) -> None:
        """Wait until there is room for more text."""
        await self._room.wait()
