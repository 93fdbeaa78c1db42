"""What OpenAI's API has and darkq has not, where its clients would meet a 405 or a bare 404."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn

from aiohttp import hdrs, web

from darkq_gateway.http.errors import ApiError

_ABSENT: Mapping[tuple[str, str], str] = {
    ("GET", "/v1/chat/completions"): (
        "chats are not listed; a Response can be retrieved by its id, and GET /jobs lists jobs"
    ),
    ("GET", "/v1/chat/completions/{completion_id}"): (
        "chats cannot be retrieved; a Response can, by its id, and a job by GET /jobs/{job_id}"
    ),
    ("POST", "/v1/completions"): "there are no completions here; use /v1/chat/completions",
    ("POST", "/v1/embeddings"): "there are no embeddings here: darkq generates text",
    ("GET", "/v1/responses/{response_id}/input_items"): (
        "the input of a Response is not kept: a prompt is deleted when its job ends"
    ),
    ("POST", "/v1/responses/input_tokens"): (
        "tokens are not counted in advance; `usage` of the answer has them"
    ),
    ("POST", "/v1/responses/compact"): "input is not compacted here; send less of it",
}


def routes() -> list[web.RouteDef]:
    return [web.route(method, path, absent) for method, path in _ABSENT]


async def absent(request: web.Request) -> NoReturn:
    """Not here: 404, with a word on what is."""
    resource = request.match_info.route.resource
    path = resource.canonical if resource is not None else ""
    method = hdrs.METH_GET if request.method == hdrs.METH_HEAD else request.method
    raise ApiError(404, "not_supported", _ABSENT[method, path])
