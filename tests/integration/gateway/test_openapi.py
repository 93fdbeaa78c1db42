"""The served document. `test_fuzz` sends what it allows, and what it does not."""

from __future__ import annotations

from darkq_gateway.app import ROUTES
from support.http_api import Api

NATIVE = ("/jobs", "/ui", "/batches", "/healthz", "/readyz", "/metrics")


async def test_the_document_is_served_and_names_every_native_route(api: Api) -> None:
    answer = await api("GET", "/openapi.json")
    assert answer.status == 200
    assert answer.json["openapi"] == "3.1.0"
    routes = {
        (route.method.lower(), route.path) for route in ROUTES if route.path.startswith(NATIVE)
    }
    documented = {
        (method, path)
        for path, item in answer.json["paths"].items()
        for method in item
        if method != "parameters"
    }
    assert routes == documented
