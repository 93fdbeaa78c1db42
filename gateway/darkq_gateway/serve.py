"""`darkq gateway`: the process, from its settings to its shutdown.

    check for an API key ── listen ── serve ── SIGTERM: stop listening, end streams between two
                                               events, wait for requests in progress, close

After a shutdown, readers reconnect to another process with the id of their last event.

If Redis is away at the start, it listens first and checks for an API key later. Until then
`/healthz` answers 200, `/readyz` and all other requests 503.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any, cast

from aiohttp import web

from darkq import Client, ConfigurationError, RedisUnavailable, Settings
from darkq.serving.files import Files
from darkq.telemetry.export import run_process
from darkq.telemetry.logging import LogEvent, configure_logging
from darkq_gateway.app import make_app
from darkq_gateway.http.auth import AUTH
from darkq_gateway.http.background import run_beside
from darkq_gateway.http.connection import Connection, read_as_http_1_1
from darkq_gateway.http.host_check import bracket_ipv6
from darkq_gateway.http.telemetry import AccessLogger, OmitExceptionText

logger = logging.getLogger("darkq.gateway")

KEEPALIVE_S = 75.0
BACKLOG = 1024

LINGER_S = 0.5
"""How long the rest of a body is read and discarded after its request has been answered.

If a connection closes with unread bytes in its buffer, the kernel sends a reset. The client could
then lose a response that it has not read yet.
"""

CHECK_TIMEOUT_S = 2.0
"""How long one check for an API key may take. The gateway listens after the first."""

OPEN_PAUSE_S = 1.0
LOG_AGAIN_S = 60.0

_OMIT_EXCEPTION_TEXT = OmitExceptionText()


@asynccontextmanager
async def gateway(settings: Settings, *, shares_port: bool = False) -> AsyncIterator[str]:
    """Serve for the length of the block; yields the URL. Waits while Redis is unavailable.

    With `shares_port`, other processes may listen on the port, and the kernel spreads the
    connections over them.

    Raises `ConfigurationError` if it must not or cannot listen; the block is cancelled if that is
    known later, when Redis is available.
    """
    Files(settings).check()
    async with Client(settings=settings) as client:
        app = make_app(client, settings, is_open=None)
        reason = await _try_to_open(app, settings)
        runner = web.AppRunner(
            app,
            access_log_class=AccessLogger,
            access_log=logging.getLogger("darkq.gateway.access"),
            logger=_quiet_logger(),
            handler_cancellation=True,  # when a reader disconnects, its tail ends
            shutdown_timeout=settings.gateway_drain_s,
            keepalive_timeout=KEEPALIVE_S,
            lingering_time=LINGER_S,
            auto_decompress=False,  # `bodies.refuse_encoded` responds 415
        )
        await runner.setup()
        try:
            url = await _listen(runner, settings, shares_port=shares_port)
            async with _cancelled_by(_open_later(app, settings, reason)):
                yield url
        finally:
            await runner.cleanup()


@asynccontextmanager
async def _cancelled_by(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run the work beside the block. If it fails, cancel the block and raise the work's error."""
    owner = asyncio.current_task()
    assert owner is not None  # noqa: S101  a context manager is entered in a task
    async with run_beside(work, name="darkq-gateway-open") as task:

        def has_failed() -> bool:
            return task.done() and not task.cancelled() and task.exception() is not None

        task.add_done_callback(lambda _: owner.cancel() if has_failed() else None)
        try:
            yield
        except asyncio.CancelledError:
            if has_failed():
                owner.uncancel()
                task.result()
            raise


async def _try_to_open(app: web.Application, settings: Settings) -> str:
    """Decide whether requests need an API key; return why Redis cannot tell, or "".

    Raises `ConfigurationError` if all hosts could use the gateway without a key.
    """
    # Without patience the cause is known at once, before the timeout.
    impatient = settings.model_copy(update={"redis_patience_s": 0.0})
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_S), Client(settings=impatient) as client:
            is_open = not await client.api_keys.exist()
    except RedisUnavailable as error:
        return str(error)
    except TimeoutError:
        return f"Redis has not answered within {CHECK_TIMEOUT_S:g} s; check DARKQ_REDIS_URL"
    if is_open and not _is_loopback(settings.gateway_host):
        raise ConfigurationError(
            "DARKQ_GATEWAY_HOST",
            f"is {settings.gateway_host}, which other hosts can reach, but no API key exists; "
            "create one first: darkq keys create NAME",
        )
    if is_open:
        logger.warning("no API key exists: requests need no authentication")
    app[AUTH].open(is_open=is_open)
    return ""


async def _open_later(app: web.Application, settings: Settings, reason: str) -> None:
    """Wait until Redis is available. Log the reason at once and each minute."""
    began_s = time.monotonic()
    logged_s = -LOG_AGAIN_S
    while reason:
        now_s = time.monotonic()
        if now_s - logged_s >= LOG_AGAIN_S:
            logged_s = now_s
            logger.warning(
                LogEvent("Redis unavailable", error=reason, for_s=round(now_s - began_s))
            )
        await asyncio.sleep(OPEN_PAUSE_S)
        last, reason = reason, await _try_to_open(app, settings)
        if not reason:
            logger.info(LogEvent("Redis available", after=last))


async def serve(
    settings: Settings,
    *,
    started: Callable[[str], None] | None = None,
    shares_port: bool = False,
) -> None:
    """Serve until SIGTERM, SIGINT or cancellation. `started` is called with the URL.

    Raises what `gateway` raises.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    signals = (signal.SIGTERM, signal.SIGINT)
    with suppress(NotImplementedError):  # Windows: Ctrl-C cancels the task instead
        for number in signals:
            loop.add_signal_handler(number, stop.set)
    try:
        async with gateway(settings, shares_port=shares_port) as url:
            if started is not None:
                started(url)
            logger.info("listening on %s", url)
            await stop.wait()
            logger.info(LogEvent("shutting down", drain_s=settings.gateway_drain_s))
    finally:
        with suppress(NotImplementedError):
            for number in signals:
                loop.remove_signal_handler(number)


class _Site(web.TCPSite):
    """Listens, and limits the number of connections."""

    def __init__(self, runner: web.AppRunner, settings: Settings, *, shares_port: bool) -> None:
        super().__init__(runner, settings.gateway_host, settings.gateway_port, backlog=BACKLOG)
        self._shares_port = shares_port
        self._settings = settings

    async def start(self) -> None:
        await web.BaseSite.start(self)
        server = self._runner.server
        assert server is not None  # noqa: S101  set up by now
        server.request_factory = read_as_http_1_1(server.request_factory)
        loop = asyncio.get_running_loop()

        def connect() -> asyncio.BaseProtocol:
            if len(server.connections) >= self._settings.gateway_max_connections:
                return _RefusedConnection()
            return Connection(
                server,
                read_timeout_s=self._settings.gateway_read_timeout_s,
                write_timeout_s=self._settings.gateway_write_timeout_s,
                loop=loop,
                **server._kwargs,  # the options of the runner for its connections
            )

        self._server = await loop.create_server(
            connect,
            self._host,
            self._port,
            backlog=self._backlog,
            reuse_port=self._shares_port or None,
        )


class _RefusedConnection(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.Transport, transport).abort()  # uvloop's is not a subclass


async def _listen(runner: web.AppRunner, settings: Settings, *, shares_port: bool) -> str:
    host, port = settings.gateway_host, settings.gateway_port
    try:
        await _Site(runner, settings, shares_port=shares_port).start()
    except OSError as error:
        reason = f"cannot listen on {host}, port {port}: {error.strerror}"
        raise ConfigurationError("DARKQ_GATEWAY_PORT", reason) from None
    return f"http://{bracket_ipv6(host)}:{runner.addresses[0][1]}"


def _quiet_logger() -> logging.Logger:
    """Return the logger by which aiohttp reports invalid requests, without their content."""
    log = logging.getLogger("darkq.gateway.http")
    log.addFilter(_OMIT_EXCEPTION_TEXT)
    return log


def _is_loopback(host: str) -> bool:
    """Return whether all addresses of a host are loopback addresses.

    Raises `ConfigurationError`.
    """
    try:
        found = socket.getaddrinfo(host, None)
    except OSError as error:
        raise ConfigurationError("DARKQ_GATEWAY_HOST", f"cannot be resolved: {error}") from None
    return all(ipaddress.ip_address(str(address[0])).is_loopback for *_, address in found)


def main(
    settings: Settings | None = None,
    *,
    started: Callable[[str], None] | None = None,
    shares_port: bool = False,
) -> None:
    """Run a gateway in this process until SIGINT or SIGTERM. Raises `ConfigurationError`.

    The options are those of `serve`.
    """
    settings = settings or Settings.load()
    configure_logging(settings.log_format, "INFO")
    run_process("darkq-gateway", serve(settings, started=started, shares_port=shares_port))
