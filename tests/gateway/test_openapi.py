"""The served document, and a fuzzer that reads it: no 5xx, no answer that it does not tell of."""

from __future__ import annotations

import asyncio
from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from darkq_gateway.app import ROOMS
from darkq_gateway.openapi import make_document
from support.http_api import Api

SEED = 20260
EXAMPLES = 25
NATIVE = ("/jobs", "/healthz", "/readyz", "/metrics")
CHECKS = (
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
)


async def test_the_document_is_served_and_names_every_native_route(api: Api) -> None:
    answer = await api("GET", "/openapi.json")
    assert answer.status == 200
    assert answer.json["openapi"] == "3.1.0"
    routes = {
        (route.method.lower(), route.path)
        for room in ROOMS
        for route in room()
        if route.path.startswith(NATIVE)
    }
    documented = {
        (method, path)
        for path, item in answer.json["paths"].items()
        for method in item
        if method != "parameters"
    }
    assert routes == documented


async def test_a_fuzzer_finds_no_answer_that_is_not_told_of(api: Api) -> None:
    print(f"seed {SEED}")
    job_id = await api.enqueue()
    await api("POST", f"/jobs/{job_id}/cancel")
    await asyncio.to_thread(fuzz, api.url, job_id)


def fuzz(url: str, job_id: str) -> None:
    """Send what the document allows, and what it does not, to every operation."""
    schema = schemathesis.openapi.from_dict(make_document())
    schema.config.update(base_url=url)
    for found in schema.get_all_operations():
        operation: Any = found.ok()  # type: ignore[union-attr]  # an Err would raise here

        @seed(SEED)
        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy())
        def ask(case: Any) -> None:
            if case.path_parameters:  # half of them about a job that there is
                case.path_parameters["job_id"] = [job_id, case.path_parameters["job_id"]][
                    len(str(case.path_parameters["job_id"])) % 2
                ]
            response = case.call(timeout=20)
            case.validate_response(response, checks=CHECKS)

        ask()
