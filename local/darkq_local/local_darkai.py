"""A DarkAI on this machine: the same wire, answered by a small local model.

    POST /chat      as DarkAI; the one model answers for all of DarkAI's model names
    GET  /healthz   {"model": ..., "kind": ...}

`LocalDarkAI` is the server. It records its requests and their outcomes, for tests of clients.
`serve` runs one as a process. It logs neither queries nor answers.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, Self, cast
from urllib.parse import urlsplit

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from darkq_local import wire
from darkq_local.chat_response import ChatResponse, Outcome, build_refusal
from darkq_local.faults import HEADER, Fault, InvalidFault, split_marker
from darkq_local.models import load_model
from darkq_local.models.base import MAX_CHUNKS, Model, ModelBusy, ModelError, ModelKind

EXCHANGES_KEPT = 1000
STOP_TIMEOUT_S = 0.1
READ_TIMEOUT_S = 30.0
LINGERING_S = 1.0
"""How long the server reads the rest of a body after it has sent the response."""

LOOPBACK_NAMES = frozenset(("localhost", "127.0.0.1", "::1"))
_ALL_ADDRESSES = frozenset(("0.0.0.0", "::", ""))  # noqa: S104  such a server can have any name
_FETCH_SITE = "Sec-Fetch-Site"
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Exchange:
    """One request and its outcome. Times are `time.monotonic()`.

    complete: the response was sent. fault: it had the fault that was asked for. failed: the model
    failed. refused: the request was invalid. client left: the client closed the connection before
    the end. stopped: the server stopped before the end.
    """

    started_s: float
    ended_s: float | None = None
    chunks_sent: int = 0
    outcome: Literal["running", "failed", "refused", "client left", "stopped"] | Outcome = "running"


class LocalDarkAI:
    """The server. It listens inside `async with`, by default on a free port.

    With `faults`, requests can ask for faults. `plan` has a fault for each request in turn, with or
    without `faults`. The caller closes the model.
    """

    def __init__(
        self,
        model: Model,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        faults: bool = False,
        plan: Iterable[Fault | None] = (),
        ping_interval_s: float = 15.0,
    ) -> None:
        self.exchanges: deque[Exchange] = deque(maxlen=EXCHANGES_KEPT)
        self.requests_seen = 0
        self._model = model
        self._host = host
        self._port = port
        self._faults = faults
        self._plan = deque(plan)
        self._ping_interval_s = ping_interval_s
        self._stopping = False
        self._handlers: set[asyncio.Task[object]] = set()
        app = web.Application(
            client_max_size=wire.MAX_BODY_BYTES, middlewares=[self._check_headers]
        )
        app.add_routes([web.post("/chat", self._chat), web.get("/healthz", self._healthz)])
        # Cancel the handler when the client disconnects, so that the model stops too.
        self._runner = web.AppRunner(
            app,
            access_log=None,
            handler_cancellation=True,
            shutdown_timeout=STOP_TIMEOUT_S,
            auto_decompress=False,  # a small body can decompress to gigabytes
            lingering_time=LINGERING_S,
        )

    @property
    def url(self) -> str:
        """The URL of `POST /chat`, while the server listens."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._runner.addresses[0][1]}/chat"

    @property
    def open_connections(self) -> int:
        """How many connections are open, including idle ones."""
        return len(self._runner.server.connections) if self._runner.server else 0

    async def __aenter__(self) -> Self:
        """Listen. Raises `OSError` when the port is taken."""
        try:
            await self._runner.setup()
            await web.TCPSite(self._runner, self._host, self._port).start()
        except BaseException:
            await self._runner.cleanup()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop at once. Cut off running responses, and wait until the model has stopped them."""
        self._stopping = True
        await self._runner.cleanup()
        await asyncio.gather(*self._handlers, return_exceptions=True)  # cleanup() only cancels them

    @web.middleware
    async def _check_headers(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse requests that a web page makes a browser send, and compressed bodies.

        A page can call any address, and by DNS rebinding under a name of its own. The clients of
        this server are programs: they send no `Origin`, and use its address as `Host`.
        """
        if not self._is_own_name(request.headers.get(hdrs.HOST, "")):
            return _build_error(421, "this server does not have that name")
        if hdrs.ORIGIN in request.headers or "cross-site" in request.headers.get(_FETCH_SITE, ""):
            return _build_error(403, "web pages may not call this server")
        if request.headers.get(hdrs.CONTENT_ENCODING, "identity") != "identity":
            return _build_error(415, "the body must not be compressed")
        return await handler(request)

    def _is_own_name(self, host: str) -> bool:
        """Tell whether a `Host` header has the address of this server, or names this machine."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        is_for_all = self._host in _ALL_ADDRESSES
        return is_for_all or name in LOOPBACK_NAMES or name == self._host.lower()

    async def _healthz(self, _: web.Request) -> web.Response:
        return web.json_response({"model": self._model.name, "kind": self._model.kind})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        exchange = Exchange(started_s=time.monotonic())
        self.exchanges.append(exchange)
        self.requests_seen += 1
        handler = cast("asyncio.Task[object]", asyncio.current_task())
        self._handlers.add(handler)
        handler.add_done_callback(self._handlers.discard)
        try:
            return await self._respond(request, exchange)
        except (asyncio.CancelledError, ConnectionResetError):
            exchange.outcome = "stopped" if self._stopping else "client left"
            raise
        finally:
            exchange.ended_s = time.monotonic()

    async def _respond(self, request: web.Request, exchange: Exchange) -> web.StreamResponse:
        exchange.outcome = "refused"
        try:
            async with asyncio.timeout(READ_TIMEOUT_S):
                body = await request.read()
        except TimeoutError:
            return _build_error(408, "the body did not arrive in time")
        try:
            chat = wire.parse_chat_request(body)
            fault, prompt = self._choose_fault(request, chat.query)
        except wire.BadRequest as error:
            return web.json_response(wire.build_422(str(error)), status=422)
        except InvalidFault as error:
            return web.json_response({"detail": str(error)}, status=400)
        if fault.refusal is not None:
            exchange.outcome = "fault"
            return build_refusal(fault.refusal)
        exchange.outcome = "running"
        response = ChatResponse(request, fault, ping_interval_s=self._ping_interval_s)
        try:
            pieces = self._model.generate(prompt, chat.history)
            exchange.outcome = await response.send(chat.query, pieces)
        except ConnectionResetError:
            raise
        except Exception as error:
            exchange.outcome = "failed"
            await response.fail(_describe(error))
        finally:
            exchange.chunks_sent = response.chunks_sent
        return response.response

    def _choose_fault(self, request: web.Request, query: str) -> tuple[Fault, str]:
        """Return the fault for this request, and the query without its marker."""
        planned = self._plan.popleft() if self._plan else None
        if not self._faults:
            return planned or Fault(), query
        marker, prompt = split_marker(query)
        wanted = request.headers.get(HEADER, marker)
        return planned or Fault.parse(wanted or ""), prompt


def _build_error(status: int, detail: str) -> web.Response:
    return web.json_response({"detail": detail}, status=status)


def _describe(error: Exception) -> str:
    """Describe a failure of the model to the client, without the text of an unknown error."""
    if isinstance(error, ModelBusy):
        return wire.AT_CAPACITY
    if isinstance(error, ModelError):
        return str(error)
    _log.error("the local model failed: %s", type(error).__name__)  # its text can contain the query
    return wire.NETWORK_ERROR


async def serve(
    kind: ModelKind,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    faults: bool = False,
    max_chunks: int = MAX_CHUNKS,
    chunks_per_s: float = 20.0,
) -> None:
    """Serve until SIGTERM, SIGINT or cancellation. Print the URL to stderr when it listens.

    `max_chunks` and `chunks_per_s` (only for the Markov chain) are those of `load_model`.
    Raises `ModelNotInstalled`, and `OSError` when the port is taken.
    """
    model = await load_model(kind, max_chunks=max_chunks, chunks_per_s=chunks_per_s)
    try:
        async with LocalDarkAI(model, host=host, port=port, faults=faults) as server:
            print(f"local DarkAI: {model.name} at {server.url}", file=sys.stderr, flush=True)
            await _wait_for_signal()
    finally:
        await model.aclose()


async def _wait_for_signal() -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in _STOP_SIGNALS:
        loop.add_signal_handler(number, stop.set)
    try:
        await stop.wait()
    finally:
        for number in _STOP_SIGNALS:
            loop.remove_signal_handler(number)
