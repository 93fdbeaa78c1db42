"""A gateway that ends and starts again, at the same address."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import AsyncExitStack

from darkq import Settings
from darkq_gateway.serve import gateway


class Gateways:
    """One gateway at a time, always at the same address, for pages of one origin."""

    def __init__(self, make_settings: Callable[..., Settings], page_url: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self._settings = make_settings(
            gateway_port=port, gateway_cors_origins=page_url, gateway_drain_s=1.0
        )
        self._stack = AsyncExitStack()

    async def start(self) -> None:
        await self._stack.enter_async_context(gateway(self._settings))

    async def stop(self) -> None:
        await self._stack.aclose()
