"""`/v1/models`: what the workers that are alive now serve, as far as the caller's key allows."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from darkq_gateway.http.context import CLIENT, caller_of
from darkq_gateway.http.errors import ApiError
from darkq_gateway.native.jobs import as_json


def routes() -> list[web.RouteDef]:
    # A model's name may hold slashes: `org/model`.
    return [web.get("/v1/models", listed), web.get("/v1/models/{model:.+}", retrieve)]


async def listed(request: web.Request) -> web.Response:
    """All models."""
    return as_json({"object": "list", "data": await _models(request)})


async def retrieve(request: web.Request) -> web.Response:
    """One model."""
    name = request.match_info["model"]
    for model in await _models(request):
        if model["id"] == name:
            return as_json(model)
    raise ApiError(404, "model_not_found", "no worker serves a model of that name", "model")


async def _models(request: web.Request) -> list[dict[str, Any]]:
    """A model that several upstreams serve is named once, with the first of them."""
    key = caller_of(request).key
    models: dict[str, dict[str, Any]] = {}
    for upstream in await request.app[CLIENT].upstreams():
        for model in upstream.models:
            if not (key and key.models) or model in key.models:
                models.setdefault(model, _model(model, upstream.name))
    return list(models.values())


def _model(name: str, upstream: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": upstream}
