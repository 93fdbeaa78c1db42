"""The files of the board, read once at start. The page cannot load anything else.

The files contain no secrets and need no API key. The data comes from the API, which needs one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from importlib.resources import files

from aiohttp import web

from darkq_gateway.http.auth import public

# No other origins, no inline scripts or styles, no framing, no text converted to HTML.
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


def _serve(name: str) -> Callable[[web.Request], Awaitable[web.Response]]:
    """Return a handler for one file; a browser revalidates it on each load."""
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
        cached = request.if_none_match or ()
        if any(etag.value in (tag, "*") for etag in cached):
            return web.Response(status=304, headers=headers)
        return web.Response(body=body, content_type=kind, charset="utf-8", headers=headers)

    serve.__doc__ = f"The file {name}."
    return serve


_NAMES = sorted(file.name for file in _STATIC.iterdir())
routes = [web.get(f"/board/{name}" if name != _INDEX else "/", _serve(name)) for name in _NAMES]
