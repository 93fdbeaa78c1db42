"""`darkq gateway`: from settings to a process that listens, and its orderly end.

    start: is there a key? listen ── serve ── SIGTERM: listen no more, end the streams
                                              between two events, let requests end, close

Readers come again with the id of their last event, to another process or to the next one.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, cast

from aiohttp import web

from darkq import Client, ConfigurationError, Settings
from darkq.serving.files import Files
from darkq.telemetry.export import export_traces as exporting_traces
from darkq.telemetry.logging import LogEvent
from darkq.telemetry.logging import configure_logging as set_up_logs
from darkq_gateway.app import make_app
from darkq_gateway.http.access_log import AccessLogger, WithoutTexts
from darkq_gateway.http.connection import Connection, read_as_http_1_1
from darkq_gateway.http.door import bracketed

logger = logging.getLogger("darkq.gateway")

KEEPALIVE_S = 75.0
BACKLOG = 1024

LINGER_S = 0.5
"""How long the rest of a body is read and thrown away once its request has been answered.

With unread bytes in its buffer the kernel would answer the client's next segment with a reset, and
the client could lose an answer that it has not read yet.
"""

_WITHOUT_TEXTS = WithoutTexts()


@asynccontextmanager
async def gateway(settings: Settings) -> AsyncIterator[str]:
    """Serve for the length of the block; yields the URL.

    Raises `ConfigurationError` where it may not or cannot listen, and `RedisUnavailable`.
    """
    Files(settings).check()
    async with Client(settings=settings) as client:
        is_open = not await client.api_keys.exist()
        if is_open and not _is_loopback(settings.gateway_host):
            raise ConfigurationError(
                "DARKQ_GATEWAY_HOST",
                f"is {settings.gateway_host}, which others can reach, and there is no API key; "
                "make one first: darkq keys create NAME",
            )
        if is_open:
            logger.warning("there is no API key: whoever reaches this address may call")
        runner = web.AppRunner(
            make_app(client, settings, is_open=is_open),
            access_log_class=AccessLogger,
            access_log=logging.getLogger("darkq.gateway.access"),
            logger=_quiet_logger(),
            handler_cancellation=True,  # a reader that leaves ends its tail, and nothing else
            shutdown_timeout=settings.gateway_drain_s,
            keepalive_timeout=KEEPALIVE_S,
            lingering_time=LINGER_S,
            auto_decompress=False,  # `bodies.refuse_encoded` answers 415
        )
        await runner.setup()
        try:
            yield await _listen(runner, settings)
        finally:
            await runner.cleanup()


async def serve(settings: Settings, *, started: Callable[[str], None] | None = None) -> None:
    """Serve until SIGTERM, SIGINT or cancellation. `started` is told the URL.

    Raises what `gateway` raises.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    signals = (signal.SIGTERM, signal.SIGINT)
    with suppress(NotImplementedError):  # Windows: Ctrl-C cancels the task instead
        for number in signals:
            loop.add_signal_handler(number, stop.set)
    try:
        async with gateway(settings) as url:
            logger.info("listening on %s", url)
            if started is not None:
                started(url)
            await stop.wait()
            drain_s = settings.gateway_drain_s
            logger.info(LogEvent("stopping: streams end, requests may end", within_s=drain_s))
    finally:
        with suppress(NotImplementedError):
            for number in signals:
                loop.remove_signal_handler(number)


class _Site(web.TCPSite):
    """Listens, and holds no more connections than it may."""

    def __init__(self, runner: web.AppRunner, settings: Settings) -> None:
        super().__init__(runner, settings.gateway_host, settings.gateway_port, backlog=BACKLOG)
        self._settings = settings

    async def start(self) -> None:
        await web.BaseSite.start(self)
        server = self._runner.server
        assert server is not None  # noqa: S101  set up by now
        server.request_factory = read_as_http_1_1(server.request_factory)
        loop = asyncio.get_running_loop()

        def connect() -> asyncio.BaseProtocol:
            if len(server.connections) >= self._settings.gateway_max_connections:
                return _Refusal()
            return Connection(
                server,
                read_timeout_s=self._settings.gateway_read_timeout_s,
                write_timeout_s=self._settings.gateway_write_timeout_s,
                loop=loop,
                **server._kwargs,  # what the runner was given for aiohttp's own
            )

        self._server = await loop.create_server(
            connect, self._host, self._port, backlog=self._backlog
        )


class _Refusal(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.Transport, transport).abort()  # uvloop's is none by its class


async def _listen(runner: web.AppRunner, settings: Settings) -> str:
    host, port = settings.gateway_host, settings.gateway_port
    try:
        await _Site(runner, settings).start()
    except OSError as error:
        reason = f"cannot listen on {host}, port {port}: {error.strerror}"
        raise ConfigurationError("DARKQ_GATEWAY_PORT", reason) from None
    return f"http://{bracketed(host)}:{runner.addresses[0][1]}"


def _quiet_logger() -> logging.Logger:
    """Where aiohttp tells of requests that it cannot read."""
    log = logging.getLogger("darkq.gateway.http")
    log.addFilter(_WITHOUT_TEXTS)
    return log


def _is_loopback(host: str) -> bool:
    """Tell whether all addresses of a host are loopback's. Raises `ConfigurationError`."""
    try:
        found = socket.getaddrinfo(host, None)
    except OSError as error:
        raise ConfigurationError("DARKQ_GATEWAY_HOST", f"is no address here: {error}") from None
    return all(ipaddress.ip_address(str(address[0])).is_loopback for *_, address in found)


def main(settings: Settings | None = None, *, started: Callable[[str], None] | None = None) -> None:
    """Run a gateway in this process, until SIGINT or SIGTERM.

    Raises `ConfigurationError`, `RedisUnavailable`.
    """
    settings = settings or Settings.load()
    set_up_logs(settings.log_format, "INFO")
    with exporting_traces("darkq-gateway"), asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(serve(settings, started=started))


def _loop_factory() -> Any:
    try:
        import uvloop
    except ImportError:  # Windows
        return None
    return uvloop.new_event_loop
