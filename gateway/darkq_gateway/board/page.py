"""The board's files, read once. The page may load what is here and nothing else.

They hold nothing secret, so they need no key; what they show comes by the API, which does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from importlib.resources import files

from aiohttp import web

from darkq_gateway.http.auth import public

# Nothing from elsewhere, nothing inline, no frame around it, and no text that becomes HTML.
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self' data:",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    )
)

_STATIC = files("darkq_gateway.board").joinpath("static")
_INDEX = "index.html"
_TYPES = {
    "html": "text/html",
    "css": "text/css",
    "js": "text/javascript",
    "svg": "image/svg+xml",
}


def routes() -> list[web.RouteDef]:
    names = sorted(file.name for file in _STATIC.iterdir())
    return [web.get(f"/board/{name}" if name != _INDEX else "/", _serve(name)) for name in names]


def _serve(name: str) -> Callable[[web.Request], Awaitable[web.Response]]:
    """Return a handler that answers with one file; a browser asks each time whether it changed."""
    body = _STATIC.joinpath(name).read_bytes()
    kind = _TYPES[name.rpartition(".")[2]]
    tag = hashlib.sha256(body).hexdigest()[:32]
    headers = {
        "Cache-Control": "no-cache",
        "ETag": f'"{tag}"',
        "Content-Security-Policy": POLICY,
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
    }

    @public
    async def serve(request: web.Request) -> web.Response:
        known = request.if_none_match or ()
        if any(etag.value in (tag, "*") for etag in known):
            return web.Response(status=304, headers=headers)
        return web.Response(body=body, content_type=kind, charset="utf-8", headers=headers)

    serve.__doc__ = f"The file {name}."
    return serve
