"""The OpenAPI 3.1 document of the native API: written by hand, with schemas made from the types."""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec
from aiohttp import web

from darkq import BatchStatus, Result, Status
from darkq_gateway.http.auth import TICKET, public
from darkq_gateway.native import jobs, tickets

_TYPES = (
    jobs.NewJob,
    jobs.NewJobs,
    jobs.Accepted,
    jobs.AcceptedBatch,
    jobs.JobList,
    tickets.NewTicket,
    tickets.MadeTicket,
    BatchStatus,
    Status,
    Result,
)

# Errors that each request may get.
_ANYWHERE = {
    400: "The request is not valid HTTP, or its body is not valid JSON.",
    401: "A valid API key is required.",
    403: "The API key does not allow this, or the calling web page is not allowed.",
    417: "`Expect` has a value other than 100-continue.",
    421: "`Host` is not a name of this server.",
    429: "The API key exceeds its rate or concurrency limit; retry after `Retry-After`.",
    503: "The queue is full or cannot be reached; retry after `Retry-After`.",
    505: "The request has an HTTP version after 1.1.",
}
_BODY = {
    408: "The body did not arrive in time.",
    413: "The body or the prompt is too large.",
    415: "The body is not application/json.",
    422: "A value is wrong; `field` names it.",
}
_QUERY = {422: "A value is wrong; `field` names it."}
_JOB = {
    404: "The job is unknown, has expired, or belongs to another tenant.",
    409: "The stored record of the job cannot be read.",
}
_BATCH = {404: "The batch is unknown, has expired, or belongs to another tenant."}


def routes() -> list[web.RouteDef]:
    return [web.get("/openapi.json", get_document)]


@public
async def get_document(_: web.Request) -> web.Response:
    """Return the OpenAPI document of the native API."""
    return web.Response(body=msgspec.json.encode(make_document()), content_type="application/json")


@cache
def make_document() -> dict[str, Any]:
    """Make the OpenAPI document."""
    _, schemas = msgspec.json.schema_components(_TYPES, ref_template="#/components/schemas/{name}")
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "darkq",
            "version": "1",
            "description": "Background text generation with streams that survive a reconnect.",
        },
        "security": [{"key": []}, {}],
        "paths": _paths(),
        "components": {
            "schemas": {**schemas, "Error": _ERROR, "Health": _HEALTH},
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer"},
                "ticket": {"type": "apiKey", "in": "query", "name": TICKET},
            },
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
    now_or_cursor = {"type": "string", "pattern": "^([0-9]{1,15}-[0-9]{1,15}|now)$"}
    after = _parameter("after", "query", now_or_cursor)
    compact = _parameter("compact", "query", {"type": "integer", "minimum": 0, "maximum": 1})
    last = _parameter("Last-Event-ID", "header", cursor)
    conflict = {409: "The idempotency key belongs to a request with another body."}
    create = {
        201: ("The job is stored.", "Accepted"),
        200: ("An earlier request with this idempotency key stored it.", "Accepted"),
    }
    result = {200: ("The result.", "Result"), 202: ("The job has not ended.", "Status")}
    status = {200: ("The status of the job.", "Status")}
    stored = {201: ("All jobs are stored.", "AcceptedBatch")}
    listed = {200: ("The latest jobs, newest first.", "JobList")}
    made = {200: ("The ticket.", "MadeTicket")}
    batch = {200: ("The status of the batch.", "BatchStatus")}
    end = {"type": "string", "pattern": "^[0-9]{1,15}(@[0-9]{1,17})?$"}
    alive = {200: ("The check passed.", "Health")}
    away = {503: "Redis does not respond, or the process is shutting down."}
    return {
        "/jobs": {
            "post": _operation(
                "Create a job", create, _ANYWHERE | _BODY | conflict, body="NewJob",
                parameters=[idempotency],
            ),
            "get": _operation("List the latest jobs", listed, _ANYWHERE | _QUERY,
                              parameters=[limit]),
        },
        "/jobs:batch": {
            "post": _operation(
                "Create many jobs", stored, _ANYWHERE | _BODY | conflict, body="NewJobs",
                parameters=[idempotency],
            )
        },
        "/jobs/{job_id}": {
            "parameters": [_JOB_ID],
            "get": _opened_by_ticket(
                _operation("Get the status of a job", status, _ANYWHERE | _JOB)
            ),
        },
        "/jobs/{job_id}/result": {
            "parameters": [_JOB_ID],
            "get": _opened_by_ticket(_cacheable(_operation(
                "Get the result of a job", result,
                _ANYWHERE | _JOB | _QUERY
                | {409: "The job failed or was cancelled, or its record cannot be read."},
                parameters=[wait_s],
            ))),
        },
        "/jobs/{job_id}/events": {
            "parameters": [_JOB_ID],
            "get": _opened_by_ticket(_cacheable(_events(
                "Stream the events of a job",
                _ANYWHERE | _JOB | _QUERY | {410: "The events have been deleted."},
                [after, compact, last],
            ))),
        },
        "/jobs/{job_id}/ui-stream": {
            "parameters": [_JOB_ID],
            "get": _opened_by_ticket(_ui_stream(
                "Stream a job for the AI SDK, from the beginning", _ANYWHERE | _JOB)),
        },
        "/ui/chat": {
            "post": _ui_stream("Create a job for a `useChat`, and stream its message",
                               _ANYWHERE | _BODY),
        },
        "/ui/chat/{chat_id}/stream": {
            "parameters": [_CHAT_ID],
            "get": _ui_stream("Resume the message of a `useChat`", _ANYWHERE),
        },
        "/jobs/{job_id}/cancel": {
            "parameters": [_JOB_ID],
            "post": _opened_by_ticket(_operation("Cancel a job", status, _ANYWHERE | _JOB)),
        },
        "/jobs/{job_id}/ticket": {
            "parameters": [_JOB_ID],
            "post": _operation("Make a ticket for a job", made, _ANYWHERE | _BODY | _JOB,
                               body="NewTicket", needs_body=False),
        },
        "/jobs/{job_id}/retry": {
            "parameters": [_JOB_ID],
            "post": _operation(
                "Retry a failed job", status,
                _ANYWHERE | _JOB | {
                    409: "The job has not failed, is not kept any more, or is unreadable.",
                    413: "The prompt is larger than the API key allows.",
                },
            ),
        },
        "/batches/{batch_id}": {
            "parameters": [_BATCH_ID],
            "get": _opened_by_ticket(
                _operation("Get the status of a batch", batch, _ANYWHERE | _BATCH)
            ),
        },
        "/batches/{batch_id}/events": {
            "parameters": [_BATCH_ID],
            "get": _opened_by_ticket(_events(
                "Stream the ends of the lines of a batch",
                _ANYWHERE | _BATCH | _QUERY | {410: "The ends have been deleted."},
                [_parameter("after", "query", end), _parameter("Last-Event-ID", "header", end)],
            )),
        },
        "/batches/{batch_id}/cancel": {
            "parameters": [_BATCH_ID],
            "post": _opened_by_ticket(
                _operation("Cancel a batch", batch, _ANYWHERE | _BATCH)
            ),
        },
        "/batches/{batch_id}/ticket": {
            "parameters": [_BATCH_ID],
            "post": _operation("Make a ticket for a batch", made, _ANYWHERE | _BODY | _BATCH,
                               body="NewTicket", needs_body=False),
        },
        "/healthz": {"get": _operation("Check that the process is alive", alive, {})},
        "/readyz": {"get": _operation("Check that the process can serve requests", alive, away)},
        "/metrics": {"get": _metrics(away)},
    }  # fmt: skip


def _operation(
    summary: str,
    successes: dict[int, tuple[str, str]],
    errors: dict[int, str],
    *,
    body: str | None = None,
    needs_body: bool = True,
    parameters: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    responses = {
        **{str(code): _response(text, schema) for code, (text, schema) in successes.items()},
        **{str(code): _response(text, "Error") for code, text in errors.items()},
    }
    operation: dict[str, Any] = {"summary": summary, "responses": responses}
    if parameters:
        operation["parameters"] = parameters
    if body is not None:
        operation["requestBody"] = {"required": needs_body, "content": _json(body)}
    return operation


def _opened_by_ticket(operation: dict[str, Any]) -> dict[str, Any]:
    """Return an operation that accepts a ticket in place of an API key."""
    return {**operation, "security": [{"key": []}, {"ticket": []}, {}]}


def _cacheable(operation: dict[str, Any]) -> dict[str, Any]:
    """Add the response to `If-None-Match` to an operation."""
    unmodified = {"304": {"description": "The job has ended, and the client has this version."}}
    return {**operation, "responses": {**operation["responses"], **unmodified}}


def _events(
    summary: str, errors: dict[int, str], parameters: list[dict[str, Any]]
) -> dict[str, Any]:
    operation = _operation(summary, {}, errors, parameters=parameters)
    operation["description"] = (
        "First the stored events, then live ones, up to the terminal event. Each has an `id`. A "
        "request with it as `Last-Event-ID` continues with the next event."
    )
    operation["responses"]["200"] = {
        "description": "Server-Sent Events.",
        "content": {"text/event-stream": {}},
    }
    operation["responses"]["204"] = {
        "description": "There is no event after the cursor, and none will follow."
    }
    return operation


def _ui_stream(summary: str, errors: dict[int, str]) -> dict[str, Any]:
    operation = _operation(summary, {}, errors)
    operation["responses"]["200"] = {
        "description": "A UI message stream of the AI SDK, version 1.",
        "content": {"text/event-stream": {}},
    }
    operation["responses"]["204"] = {"description": "There is nothing to resume."}
    return operation


def _metrics(errors: dict[int, str]) -> dict[str, Any]:
    token = {401: "The metrics token is required; API keys are not accepted."}
    operation = _operation("Get metrics for Prometheus", {}, errors | token)
    operation["responses"]["200"] = {
        "description": "Prometheus' text format, or OpenMetrics if `Accept` names it.",
        "content": {"text/plain": {}, "application/openmetrics-text": {}},
    }
    return operation


def _response(text: str, schema: str) -> dict[str, Any]:
    return {"description": text, "content": _json(schema)}


def _json(schema: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}


def _parameter(name: str, location: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": location, "required": location == "path", "schema": schema}


_JOB_ID = _parameter(
    "job_id", "path", {"type": "string", "pattern": "^(0|[1-9][0-9]{0,3})-[0-9a-f]{32}$"}
)
_CHAT_ID = _parameter("chat_id", "path", {"type": "string", "maxLength": 200})
_BATCH_ID = _parameter(
    "batch_id", "path", {"type": "string", "pattern": "^batch-(0|[1-9][0-9]{0,3})-[0-9a-f]{32}$"}
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
