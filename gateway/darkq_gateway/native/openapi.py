"""The OpenAPI 3.1 document of the native API: written by hand, with schemas made from the types."""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec
from aiohttp import web

from darkq import BatchStatus, Result, Status
from darkq_gateway.http.auth import TICKET, public
from darkq_gateway.http.bodies import respond_json
from darkq_gateway.native import jobs, tickets

_TYPES = (
    *(jobs.NewJob, jobs.NewJobs, jobs.Accepted, jobs.AcceptedBatch, jobs.JobList),
    *(tickets.NewTicket, tickets.MadeTicket),
    *(BatchStatus, Status, Result),
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
_KEY_OR_TICKET: list[dict[str, list[str]]] = [{"key": []}, {"ticket": []}, {}]
_QUERY = {422: "A value is wrong; `field` names it."}
_JOB = {
    404: "The job is unknown, has expired, or belongs to another tenant.",
    409: "The stored record of the job cannot be read.",
}
_BATCH = {404: "The batch is unknown, has expired, or belongs to another tenant."}
routes = web.RouteTableDef()


@routes.get("/openapi.json")
@public
async def get_document(_: web.Request) -> web.Response:
    """Return the OpenAPI document of the native API."""
    return respond_json(make_document())


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
        "paths": _make_paths(),
        "components": {
            "schemas": {**schemas, "Error": _ERROR, "Health": _HEALTH},
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer"},
                "ticket": {"type": "apiKey", "in": "query", "name": TICKET},
            },
        },
    }


def _make_paths() -> dict[str, Any]:
    """Return the operations by their paths, with the parameters that a path names."""
    paths: dict[str, Any] = {}
    for name, operation in _make_operations().items():
        method, path = name.split()
        named = [
            _parameter(parameter, "path", schema)
            for parameter, schema in _IN_PATHS.items()
            if f"{{{parameter}}}" in path
        ]
        item = paths.setdefault(path, {"parameters": named} if named else {})
        item[method] = operation
    return paths


def _make_operations() -> dict[str, Any]:
    idempotency = _parameter("Idempotency-Key", "header", {"type": "string", "maxLength": 255})
    most = {"type": "integer", "minimum": 1, "maximum": jobs.MAX_LISTED}
    longest = {"type": "number", "minimum": 0, "maximum": jobs.MAX_WAIT_S}
    conflict = {409: "The idempotency key belongs to a request with another body."}
    status = {200: ("The status of the job.", "Status")}
    batch = {200: ("The status of the batch.", "BatchStatus")}
    made = {200: ("The ticket.", "MadeTicket")}
    alive = {200: ("The check passed.", "Health")}
    away = {503: "Redis does not respond, or the process is shutting down."}
    return {
        "post /jobs": _operation(
            "Create a job", _ANYWHERE | _BODY | conflict, body="NewJob", parameters=[idempotency],
            successes={
                201: ("The job is stored.", "Accepted"),
                200: ("An earlier request with this idempotency key stored it.", "Accepted"),
            },
        ),
        "get /jobs": _operation(
            "List the latest jobs", _ANYWHERE | _QUERY,
            successes={200: ("The latest jobs, newest first.", "JobList")},
            parameters=[_parameter("limit", "query", most)],
        ),
        "post /jobs:batch": _operation(
            "Create many jobs", _ANYWHERE | _BODY | conflict, body="NewJobs",
            successes={201: ("All jobs are stored.", "AcceptedBatch")}, parameters=[idempotency],
        ),
        "get /jobs/{job_id}": _operation(
            "Get the status of a job", _ANYWHERE | _JOB, successes=status, takes_ticket=True
        ),
        "get /jobs/{job_id}/result": _cacheable(_operation(
            "Get the result of a job", _ANYWHERE | _JOB | _QUERY
            | {409: "The job failed or was cancelled, or its record cannot be read."},
            successes={200: ("The result.", "Result"), 202: ("The job has not ended.", "Status")},
            parameters=[_parameter("wait_s", "query", longest)], takes_ticket=True,
        )),
        "get /jobs/{job_id}/events": _cacheable(_events(
            "Stream the events of a job", "[0-9]{1,15}-[0-9]{1,15}",
            _ANYWHERE | _JOB | _QUERY | {410: "The events have been deleted."}, can_skip=True,
        )),
        "get /jobs/{job_id}/ui-stream": _ui_stream(
            "Stream a job for the AI SDK, from the beginning", _JOB, takes_ticket=True),
        "post /ui/chat": _ui_stream(
            "Create a job for a `useChat`, and stream its message", _BODY),
        "get /ui/chat/{chat_id}/stream": _ui_stream("Resume the message of a `useChat`", {}),
        "post /jobs/{job_id}/cancel": _operation(
            "Cancel a job", _ANYWHERE | _JOB, successes=status, takes_ticket=True
        ),
        "post /jobs/{job_id}/ticket": _operation(
            "Make a ticket for a job", _ANYWHERE | _BODY | _JOB, successes=made,
            body="NewTicket", needs_body=False,
        ),
        "post /jobs/{job_id}/retry": _operation(
            "Retry a failed job", _ANYWHERE | _JOB | {
                409: "The job has not failed, is not kept any more, or is unreadable.",
                413: "The prompt is larger than the API key allows.",
            }, successes=status,
        ),
        "get /batches/{batch_id}": _operation(
            "Get the status of a batch", _ANYWHERE | _BATCH, successes=batch, takes_ticket=True
        ),
        "get /batches/{batch_id}/events": _events(
            "Stream the ends of the lines of a batch", "[0-9]{1,15}(@[0-9]{1,17})?",
            _ANYWHERE | _BATCH | _QUERY | {410: "The ends have been deleted."},
        ),
        "post /batches/{batch_id}/cancel": _operation(
            "Cancel a batch", _ANYWHERE | _BATCH, successes=batch, takes_ticket=True
        ),
        "post /batches/{batch_id}/ticket": _operation(
            "Make a ticket for a batch", _ANYWHERE | _BODY | _BATCH, successes=made,
            body="NewTicket", needs_body=False,
        ),
        "get /healthz": _operation("Check that the process is alive", {}, successes=alive),
        "get /readyz": _operation(
            "Check that the process can serve requests", away, successes=alive),
        "get /metrics": _with_text(
            _operation("Get metrics for Prometheus", away
                       | {401: "The metrics token is required; API keys are not accepted."}),
            "Prometheus' text format, or OpenMetrics if `Accept` names it.",
            "text/plain", "application/openmetrics-text",
        ),
    }  # fmt: skip


def _operation(
    summary: str,
    errors: dict[int, str],
    *,
    successes: dict[int, tuple[str, str]] | None = None,
    body: str | None = None,
    needs_body: bool = True,
    parameters: list[dict[str, Any]] | None = None,
    takes_ticket: bool = False,
) -> dict[str, Any]:
    answers = (successes or {}) | {code: (text, "Error") for code, text in errors.items()}
    responses = {
        str(code): {"description": text, "content": _json(schema)}
        for code, (text, schema) in answers.items()
    }
    operation: dict[str, Any] = {"summary": summary, "responses": responses}
    if parameters:
        operation["parameters"] = parameters
    if body is not None:
        operation["requestBody"] = {"required": needs_body, "content": _json(body)}
    if takes_ticket:
        operation["security"] = _KEY_OR_TICKET
    return operation


def _events(
    summary: str, cursor: str, errors: dict[int, str], *, can_skip: bool = False
) -> dict[str, Any]:
    last = {"type": "string", "pattern": f"^{cursor}$"}
    after = {"type": "string", "pattern": f"^({cursor}|now)$"} if can_skip else last
    compact = {"type": "integer", "minimum": 0, "maximum": 1}
    parameters = [_parameter("after", "query", after), _parameter("Last-Event-ID", "header", last)]
    parameters += [_parameter("compact", "query", compact)] if can_skip else []
    operation = _operation(summary, errors, parameters=parameters)
    operation["description"] = (
        "First the stored events, then live ones, up to the terminal event. Each has an `id`. A "
        "request with it as `Last-Event-ID` continues with the next event."
    )
    operation["security"] = _KEY_OR_TICKET
    nothing = "There is no event after the cursor, and none will follow."
    return _with_text(operation, "Server-Sent Events.", "text/event-stream", nothing=nothing)


def _ui_stream(
    summary: str, errors: dict[int, str], *, takes_ticket: bool = False
) -> dict[str, Any]:
    operation = _operation(summary, _ANYWHERE | errors, takes_ticket=takes_ticket)
    text = "A UI message stream of the AI SDK, version 1."
    return _with_text(operation, text, "text/event-stream", nothing="There is nothing to resume.")


def _with_text(
    operation: dict[str, Any], text: str, *media_types: str, nothing: str | None = None
) -> dict[str, Any]:
    """Add a response that is not JSON, and a 204 if there may be nothing to send."""
    content: dict[str, Any] = {media_type: {} for media_type in media_types}
    operation["responses"]["200"] = {"description": text, "content": content}
    if nothing is not None:
        operation["responses"]["204"] = {"description": nothing}
    return operation


def _cacheable(operation: dict[str, Any]) -> dict[str, Any]:
    """Add the response to `If-None-Match`."""
    unmodified = "The job has ended, and the client has this version."
    operation["responses"]["304"] = {"description": unmodified}
    return operation


def _json(schema: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}


def _parameter(name: str, location: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": location, "required": location == "path", "schema": schema}


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


_IN_PATHS: dict[str, dict[str, Any]] = {
    "job_id": {"type": "string", "pattern": "^(0|[1-9][0-9]{0,3})-[0-9a-f]{32}$"},
    "chat_id": {"type": "string", "maxLength": 200},
    "batch_id": {"type": "string", "pattern": "^batch-(0|[1-9][0-9]{0,3})-[0-9a-f]{32}$"},
}
_TEXT = {"type": "string"}
_HEALTH = _object(status=_TEXT)
_ERROR = _object(error=_object(code=_TEXT, message=_TEXT, field={"type": ["string", "null"]}))
