"""Which requests come in at all: by the name they call us, and by the page that sends them.

A page of a stranger can make a browser send requests to any address, loopback included, and by a
name whose address it changes (DNS rebinding) even read the answers. So the `Host` must be one of
ours, and an `Origin`, where there is one, our own or one that is allowed (CORS).
"""

from __future__ import annotations

import re

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from darkq import Settings
from darkq_gateway.errors import ApiError

LOOPBACK_NAMES = frozenset(("localhost", "127.0.0.1", "[::1]"))

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?")
_PREFLIGHT = {
    "Access-Control-Allow-Methods": "GET, POST, DELETE",
    "Access-Control-Allow-Headers": "authorization, content-type, idempotency-key, last-event-id",
    "Access-Control-Max-Age": "600",
}
_EXPOSED = "Retry-After, X-Request-Id, Location"


class Door:
    """Knows the names and origins that the settings allow."""

    def __init__(self, settings: Settings) -> None:
        names = _split(settings.gateway_allowed_hosts)
        self._any_host = "*" in names
        self._hosts = LOOPBACK_NAMES | names | {bracketed(settings.gateway_host).lower()}
        self._origins = _split(settings.gateway_cors_origins)

    def knows_host(self, host: str) -> bool:
        """Tell whether a `Host` header names us, on whatever port."""
        match = _HOST.fullmatch(host)
        return match is not None and (self._any_host or match[1].lower() in self._hosts)

    def allows_foreign(self, origin: str) -> bool:
        """Tell whether pages of another origin may call us."""
        return origin.lower() in self._origins

    @web.middleware
    async def let_in(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Let a request in, or answer 421 or 403; a preflight is answered here."""
        hosts = request.headers.getall(hdrs.HOST, [])
        if len(hosts) != 1 or not self.knows_host(hosts[0]):
            raise ApiError(421, "unknown_host", "this server does not go by that name", "Host")
        origin = request.headers.get(hdrs.ORIGIN)
        foreign = origin is not None and not _is_own(origin, hosts[0])
        if foreign and not self.allows_foreign(origin or ""):
            raise ApiError(403, "origin_not_allowed", "pages of that origin may not call", "Origin")
        if request.method == hdrs.METH_OPTIONS and hdrs.ACCESS_CONTROL_REQUEST_METHOD in (
            request.headers
        ):
            return web.Response(status=204, headers=_PREFLIGHT)
        return await handler(request)

    async def mark(self, request: web.Request, response: web.StreamResponse) -> None:
        """Say on a response who may read it. For `on_response_prepare`."""
        origin = request.headers.get(hdrs.ORIGIN)
        if self._origins:
            response.headers.add(hdrs.VARY, hdrs.ORIGIN)
        if origin is not None and self.allows_foreign(origin):
            response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = origin
            response.headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = _EXPOSED


def bracketed(host: str) -> str:
    """Return an address as it stands in a URL."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def _is_own(origin: str, host: str) -> bool:
    return origin.lower() in (f"http://{host.lower()}", f"https://{host.lower()}")


def _split(text: str) -> frozenset[str]:
    return frozenset(part.strip().lower() for part in text.split(",") if part.strip())
