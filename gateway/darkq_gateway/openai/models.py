"""`/v1/models`: the models that running workers serve and the caller's key allows."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from darkq_gateway.http.bodies import respond_json
from darkq_gateway.http.context import CLIENT, get_caller
from darkq_gateway.http.errors import ApiError

routes = web.RouteTableDef()


@routes.get("/v1/models")
async def list_models(request: web.Request) -> web.Response:
    """List the available models."""
    return respond_json({"object": "list", "data": await _read_models(request)})


@routes.get("/v1/models/{model:.+}")
async def retrieve(request: web.Request) -> web.Response:
    """Get one model."""
    name = request.match_info["model"]
    for model in await _read_models(request):
        if model["id"] == name:
            return respond_json(model)
    raise ApiError(404, "model_not_found", "no worker serves this model", "model")


async def _read_models(request: web.Request) -> list[dict[str, Any]]:
    """Return each model once, with the first upstream that serves it."""
    key = get_caller(request).key
    models: dict[str, dict[str, Any]] = {}
    for upstream in await request.app[CLIENT].upstreams():
        for model in upstream.models:
            if not (key and key.models) or model in key.models:
                about = {"object": "model", "created": 0, "owned_by": upstream.name}
                models.setdefault(model, {"id": model, **about})
    return list(models.values())
