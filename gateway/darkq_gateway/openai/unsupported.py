"""Unsupported endpoints of OpenAI's API: each returns a 404 that names an alternative."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn

from aiohttp import hdrs, web

from darkq_gateway.http.errors import ApiError, get_route_pattern

_ENDPOINTS: Mapping[tuple[str, str], str] = {
    ("GET", "/v1/chat/completions"): (
        "chats are not listed; a Response can be retrieved by its id, and GET /jobs lists jobs"
    ),
    ("GET", "/v1/chat/completions/{completion_id}"): (
        "chats cannot be retrieved; a Response can, by its id, and a job by GET /jobs/{job_id}"
    ),
    ("POST", "/v1/completions"): "completions are not supported; use /v1/chat/completions",
    ("POST", "/v1/embeddings"): "embeddings are not supported: darkq generates text",
    ("POST", "/v1/responses/input_tokens"): (
        "tokens are not counted in advance; see `usage` of the response"
    ),
    ("POST", "/v1/responses/compact"): "compaction is not supported; send less input",
}


async def refuse(request: web.Request) -> NoReturn:
    """Not supported: 404 with the alternative."""
    method = hdrs.METH_GET if request.method == hdrs.METH_HEAD else request.method
    raise ApiError(404, "not_supported", _ENDPOINTS[method, get_route_pattern(request)])


routes = [web.route(method, path, refuse) for method, path in _ENDPOINTS]
