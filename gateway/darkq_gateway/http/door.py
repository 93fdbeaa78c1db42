"""Which requests come in at all: by the name they call us, and by the page that sends them.

A page of a stranger can make a browser send requests to any address, loopback included, and by a
name whose address it changes (DNS rebinding) even read the answers. So the `Host` must be one of
ours, and an `Origin`, where there is one, our own or one that is allowed (CORS). Browsers send no
`Origin` with images, scripts and links: there `Sec-Fetch-Site` tells, and all that another site may
do without an allowed `Origin` is to link to the board.
"""

from __future__ import annotations

import re

from aiohttp import hdrs, web
from aiohttp.http import HttpVersion10
from aiohttp.typedefs import Handler

from darkq import Settings
from darkq_gateway.http.context import UNSUPPORTED_VERSION
from darkq_gateway.http.errors import ApiError, unreadable, unsupported_version

LOOPBACK_NAMES = frozenset(("localhost", "127.0.0.1", "[::1]"))

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?")
_TARGET = re.compile(r"/.*|\*|https?://([^/?#]*).*", re.IGNORECASE)
_HEADER_NAMES = re.compile(r"[A-Za-z0-9-]+(?:, ?[A-Za-z0-9-]+)*")
_USUAL_HEADERS = "authorization, content-type, idempotency-key, last-event-id"
_EXPOSED = "Retry-After, Retry-After-Ms, X-Should-Retry, X-Request-Id, Location"

_SITE, _MODE, _DEST = "Sec-Fetch-Site", "Sec-Fetch-Mode", "Sec-Fetch-Dest"
_OWN_SITE = frozenset(("same-origin", "none"))


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

    def _may_call(self, origin: str, host: str) -> bool:
        return _is_own(origin, host) or self.allows_foreign(origin)

    @web.middleware
    async def let_in(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Let a request in, or answer 400, 403, 421 or 505; a preflight is answered here."""
        if (version := request.get(UNSUPPORTED_VERSION)) is not None:
            raise unreadable() if version < HttpVersion10 else unsupported_version()
        hosts = request.headers.getall(hdrs.HOST, [])
        if len(hosts) != 1 or not self.knows_host(hosts[0]):
            raise ApiError(421, "unknown_host", "this server does not go by that name", "Host")
        if not _is_of(request.raw_path, hosts[0]):
            message = "the target of the request names another server than its Host"
            raise ApiError(400, "bad_request", message, "Host")
        origin = request.headers.get(hdrs.ORIGIN)
        if origin is not None and not self._may_call(origin, hosts[0]):
            raise ApiError(403, "origin_not_allowed", "pages of that origin may not call", "Origin")
        if origin is None and _is_of_another_site(request):
            raise ApiError(403, "origin_not_allowed", "pages of other sites may not call", _SITE)
        if _is_preflight(request):
            return web.Response(status=204, headers=_preflight(request))
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


def _is_of(target: str, host: str) -> bool:
    """Tell whether the target of a request is a path, or the URL of one at this host."""
    match = _TARGET.fullmatch(target)
    return match is not None and (match[1] is None or match[1].lower() == host.lower())


def _is_of_another_site(request: web.Request) -> bool:
    """Tell whether another site's page sends a request other than for the board, in a window."""
    if _OWN_SITE.issuperset(request.headers.getall(_SITE, ())):
        return False
    opens_a_window = request.headers.get(_MODE) == "navigate"
    is_top_level = request.headers.get(_DEST) == "document"
    return not (opens_a_window and is_top_level and request.path == "/")


def _is_preflight(request: web.Request) -> bool:
    headers = request.headers
    return request.method == hdrs.METH_OPTIONS and hdrs.ACCESS_CONTROL_REQUEST_METHOD in headers


def _preflight(request: web.Request) -> dict[str, str]:
    """Return what pages of an allowed origin may send: any header, for clients add their own."""
    asked = request.headers.get(hdrs.ACCESS_CONTROL_REQUEST_HEADERS, "")
    return {
        "Access-Control-Allow-Methods": "GET, POST, DELETE",
        "Access-Control-Allow-Headers": (
            asked if _HEADER_NAMES.fullmatch(asked) else _USUAL_HEADERS
        ),
        "Access-Control-Max-Age": "600",
    }


def _is_own(origin: str, host: str) -> bool:
    return origin.lower() in (f"http://{host.lower()}", f"https://{host.lower()}")


def _split(text: str) -> frozenset[str]:
    return frozenset(part.strip().lower() for part in text.split(",") if part.strip())
