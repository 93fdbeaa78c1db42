"""The document of the native API, OpenAPI 3.1: written by hand, its schemas made from the types."""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec
from aiohttp import web

from darkq import Result, Status
from darkq_gateway.http.auth import public
from darkq_gateway.native import jobs

_TYPES = (
    jobs.JobOrder,
    jobs.JobBatch,
    jobs.Accepted,
    jobs.AcceptedBatch,
    jobs.JobList,
    Status,
    Result,
)

# What may go wrong anywhere: a bad request line, no key, a foreign page, a wrong name of ours,
# too many calls, and Redis away.
_ANYWHERE = {
    400: "The request is no good HTTP, or its body no JSON.",
    401: "A valid API key is needed.",
    403: "The key, or the page that calls, may not do that.",
    417: "`Expect` asks for more than 100-continue.",
    421: "The server does not go by that name.",
    429: "The key calls too often, or too much at once; `Retry-After` says when to come again.",
    503: "The queue is full or cannot be reached; `Retry-After` says when to come again.",
    505: "The request is of a version of HTTP after 1.1.",
}
_BODY = {
    408: "The body did not arrive in time.",
    413: "The body or the prompt is too large.",
    415: "The body is not application/json.",
    422: "A value is wrong; `field` names it.",
}
_QUERY = {422: "A value is wrong; `field` names it."}
_JOB = {
    404: "No such job: unknown, another tenant's, or all of it has expired.",
    409: "What is stored of the job cannot be read.",
}


def routes() -> list[web.RouteDef]:
    return [web.get("/openapi.json", document)]


@public
async def document(_: web.Request) -> web.Response:
    """The document."""
    return web.Response(body=msgspec.json.encode(make_document()), content_type="application/json")


@cache
def make_document() -> dict[str, Any]:
    """Make the document."""
    _, schemas = msgspec.json.schema_components(_TYPES, ref_template="#/components/schemas/{name}")
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "darkq",
            "version": "1",
            "description": "Background text generation that you can reconnect to.",
        },
        "security": [{"key": []}, {}],
        "paths": _paths(),
        "components": {
            "schemas": {**schemas, "Error": _ERROR, "Health": _HEALTH},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _paths() -> dict[str, Any]:
    idempotency = _parameter("Idempotency-Key", "header", {"type": "string", "maxLength": 255})
    limit = _parameter(
        "limit", "query", {"type": "integer", "minimum": 1, "maximum": jobs.MAX_LISTED}
    )
    wait_s = _parameter(
        "wait_s", "query", {"type": "number", "minimum": 0, "maximum": jobs.MAX_WAIT_S}
    )
    cursor = {"type": "string", "pattern": "^[0-9]{1,15}-[0-9]{1,15}$"}
    after = _parameter("after", "query", cursor)
    last = _parameter("Last-Event-ID", "header", cursor)
    conflict = {409: "The key belongs to a job with another content."}
    create = {201: ("Stored.", "Accepted"), 200: ("It was there before.", "Accepted")}
    result = {200: ("The answer.", "Result"), 202: ("There is none yet.", "Status")}
    status = {200: ("Where the job stands.", "Status")}
    stored = {201: ("All are stored.", "AcceptedBatch")}
    listed = {200: ("The latest jobs, the newest first.", "JobList")}
    alive = {200: ("It does.", "Health")}
    away = {503: "It does not."}
    return {
        "/jobs": {
            "post": _operation(
                "Store a job", create, _ANYWHERE | _BODY | conflict, body="JobOrder",
                parameters=[idempotency],
            ),
            "get": _operation("List the latest jobs", listed, _ANYWHERE | _QUERY,
                              parameters=[limit]),
        },
        "/jobs:batch": {
            "post": _operation(
                "Store many jobs", stored, _ANYWHERE | _BODY | conflict, body="JobBatch",
                parameters=[idempotency],
            )
        },
        "/jobs/{job_id}": {
            "parameters": [_JOB_ID],
            "get": _operation("Where a job stands", status, _ANYWHERE | _JOB),
        },
        "/jobs/{job_id}/result": {
            "parameters": [_JOB_ID],
            "get": _operation(
                "A job's answer", result,
                _ANYWHERE | _JOB | _QUERY | {409: "It failed, was cancelled, or cannot be read."},
                parameters=[wait_s],
            ),
        },
        "/jobs/{job_id}/events": {
            "parameters": [_JOB_ID],
            "get": _events(_ANYWHERE | _JOB | _QUERY | {410: "The events are gone."},
                           [after, last]),
        },
        "/jobs/{job_id}/cancel": {
            "parameters": [_JOB_ID],
            "post": _operation("Cancel a job", status, _ANYWHERE | _JOB),
        },
        "/jobs/{job_id}/retry": {
            "parameters": [_JOB_ID],
            "post": _operation(
                "Run a failed job again", status,
                _ANYWHERE | _JOB | {
                    409: "It has not failed, is not kept any more, or cannot be read.",
                    413: "The prompt is larger than this key allows.",
                },
            ),
        },
        "/healthz": {"get": _operation("Does the process answer?", alive, {})},
        "/readyz": {"get": _operation("Does Redis answer?", alive, away)},
        "/metrics": {"get": _metrics(away)},
    }  # fmt: skip


def _operation(
    summary: str,
    answers: dict[int, tuple[str, str]],
    errors: dict[int, str],
    *,
    body: str | None = None,
    parameters: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    responses = {
        **{str(code): _response(text, schema) for code, (text, schema) in answers.items()},
        **{str(code): _response(text, "Error") for code, text in errors.items()},
    }
    operation: dict[str, Any] = {"summary": summary, "responses": responses}
    if parameters:
        operation["parameters"] = parameters
    if body is not None:
        operation["requestBody"] = {"required": True, "content": _json(body)}
    return operation


def _events(errors: dict[int, str], parameters: list[dict[str, Any]]) -> dict[str, Any]:
    operation = _operation("A job's events", {}, errors, parameters=parameters)
    operation["description"] = (
        "The past first, then live, to the terminal event. Each has an `id`; come again with it "
        "as `Last-Event-ID`, and the next one follows."
    )
    operation["responses"]["200"] = {
        "description": "Server-Sent Events.",
        "content": {"text/event-stream": {}},
    }
    operation["responses"]["204"] = {"description": "No event is left after that one."}
    return operation


def _metrics(errors: dict[int, str]) -> dict[str, Any]:
    token = {401: "The token of the metrics is needed, no API key."}
    operation = _operation("How it goes, for Prometheus", {}, errors | token)
    operation["responses"]["200"] = {
        "description": "Prometheus' text, or OpenMetrics where that is asked for.",
        "content": {"text/plain": {}, "application/openmetrics-text": {}},
    }
    return operation


def _response(text: str, schema: str) -> dict[str, Any]:
    return {"description": text, "content": _json(schema)}


def _json(schema: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}


def _parameter(name: str, place: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": place, "required": place == "path", "schema": schema}


_JOB_ID = _parameter(
    "job_id", "path", {"type": "string", "pattern": "^(0|[1-9][0-9]{0,3})-[0-9a-f]{32}$"}
)
_HEALTH = {
    "type": "object",
    "properties": {"status": {"type": "string"}},
    "required": ["status"],
}
_ERROR = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "code": {"type": "string"},
                "message": {"type": "string"},
                "field": {"type": ["string", "null"]},
            },
            "required": ["code", "message", "field"],
        }
    },
    "required": ["error"],
}
