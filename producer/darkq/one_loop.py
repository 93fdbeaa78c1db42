"""The event loop that connections belong to: a breach of that rule is an error, at once.

asyncio's own futures and sockets notice late or not at all: a call from a second loop waits for
ever, or every other call fails.
"""

from __future__ import annotations

import asyncio


class OneLoop:
    """Belongs to the loop that uses it first."""

    def __init__(self) -> None:
        self._first: dict[None, asyncio.AbstractEventLoop] = {}

    def check(self) -> None:
        """Raise `RuntimeError` in any loop but the first, also when that one is over."""
        loop = asyncio.get_running_loop()
        if self._first.setdefault(None, loop) is not loop:  # one step: threads may race for it
            raise RuntimeError(
                "this Client belongs to another event loop, the one that used it first: make a "
                "Client in each loop, or use darkq.sync.Client, which any thread may call"
            )
