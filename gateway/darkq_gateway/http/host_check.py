"""Checks `Host`, `Origin` and `Sec-Fetch-Site`: protection from foreign web pages.

A foreign page can make a browser send requests to any address, loopback included. With a host name
whose address it changes (DNS rebinding) it can also read the responses. Therefore:

- `Host` must be a configured name of this server.
- `Origin`, if present, must be this server's own or one that the settings allow (CORS).
- Browsers send no `Origin` with images, scripts and links, but they send `Sec-Fetch-Site`. Without
  an allowed `Origin`, another site may only link to the board.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable

from aiohttp import hdrs, web
from aiohttp.http import HttpVersion10
from aiohttp.typedefs import Handler

from darkq import Settings
from darkq_gateway.http.context import UNSUPPORTED_VERSION
from darkq_gateway.http.errors import ApiError, bad_request, unsupported_version

LOOPBACK_NAMES = frozenset(("localhost", "127.0.0.1", "[::1]"))

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?")
_TARGET = re.compile(r"/.*|\*|https?://([^/?#]*).*", re.IGNORECASE)
_HEADER_NAMES = re.compile(r"[A-Za-z0-9-]+(?:, ?[A-Za-z0-9-]+)*")
_USUAL_HEADERS = "authorization, content-type, idempotency-key, last-event-id"
_EXPOSED = "Retry-After, Retry-After-Ms, X-Should-Retry, X-Request-Id, Location"

_SITE, _MODE, _DEST = "Sec-Fetch-Site", "Sec-Fetch-Mode", "Sec-Fetch-Dest"
_OWN_SITE = frozenset(("same-origin", "none"))


class HostCheck:
    """Middleware, and response hook for CORS. The settings name the allowed hosts and origins."""

    def __init__(self, settings: Settings) -> None:
        names = _split(settings.gateway_allowed_hosts)
        self._any_host = "*" in names
        self._hosts = LOOPBACK_NAMES | names | {bracket_ipv6(settings.gateway_host).lower()}
        self._origins = _split(settings.gateway_cors_origins)

    @web.middleware
    def check_request(
        self, request: web.Request, handler: Handler
    ) -> Awaitable[web.StreamResponse]:
        """Pass a request on, or respond 400, 403, 421 or 505; also answers CORS preflights.

        No coroutine, which would take memory for as long as a reader reads.
        """
        if (version := request.get(UNSUPPORTED_VERSION)) is not None:
            raise bad_request() if version < HttpVersion10 else unsupported_version()
        hosts = request.headers.getall(hdrs.HOST, [])
        named = _HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
        if named is None or not (self._any_host or named[1].lower() in self._hosts):
            message = "this is not a name of this server (DARKQ_GATEWAY_ALLOWED_HOSTS)"
            raise ApiError(421, "unknown_host", message, "Host")
        if not _target_matches(request.raw_path, hosts[0]):
            message = "the request target names another server than the Host header"
            raise ApiError(400, "bad_request", message, "Host")
        origin, host = request.headers.get(hdrs.ORIGIN), hosts[0].lower()
        allowed = self._origins | {f"http://{host}", f"https://{host}"}
        if origin is not None and origin.lower() not in allowed:
            message = "pages of this origin may not call the API (DARKQ_GATEWAY_CORS_ORIGINS)"
            raise ApiError(403, "origin_not_allowed", message, "Origin")
        if origin is None and _is_foreign_request(request):
            message = "pages of other sites may not call the API"
            raise ApiError(403, "origin_not_allowed", message, _SITE)
        is_preflight = hdrs.ACCESS_CONTROL_REQUEST_METHOD in request.headers
        if is_preflight and request.method == hdrs.METH_OPTIONS:
            return _respond_preflight(request)
        return handler(request)

    async def set_cors_headers(self, request: web.Request, response: web.StreamResponse) -> None:
        """Set the CORS headers of a response. For `on_response_prepare`."""
        origin = request.headers.get(hdrs.ORIGIN)
        if self._origins:
            response.headers.add(hdrs.VARY, hdrs.ORIGIN)
        if origin is not None and origin.lower() in self._origins:
            response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = origin
            response.headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = _EXPOSED


def bracket_ipv6(host: str) -> str:
    """Return a host in the form that URLs use: IPv6 addresses in brackets."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def _target_matches(target: str, host: str) -> bool:
    """Return whether the target of a request is a path, or a URL with this host."""
    match = _TARGET.fullmatch(target)
    return match is not None and (match[1] is None or match[1].lower() == host.lower())


def _is_foreign_request(request: web.Request) -> bool:
    """Return whether a page of another site sent this, except a link that opens the board."""
    if _OWN_SITE.issuperset(request.headers.getall(_SITE, ())):
        return False
    opens_a_window = request.headers.get(_MODE) == "navigate"
    is_top_level = request.headers.get(_DEST) == "document"
    return not (opens_a_window and is_top_level and request.path == "/")


async def _respond_preflight(request: web.Request) -> web.Response:
    """Allow all headers that a preflight asks for: SDKs add their own."""
    asked = request.headers.get(hdrs.ACCESS_CONTROL_REQUEST_HEADERS, "")
    headers = {
        hdrs.ACCESS_CONTROL_ALLOW_METHODS: "GET, POST, DELETE",
        hdrs.ACCESS_CONTROL_ALLOW_HEADERS: (
            asked if _HEADER_NAMES.fullmatch(asked) else _USUAL_HEADERS
        ),
        hdrs.ACCESS_CONTROL_MAX_AGE: "600",
    }
    return web.Response(status=204, headers=headers)


def _split(text: str) -> frozenset[str]:
    return frozenset(part.strip().lower() for part in text.split(",") if part.strip())
