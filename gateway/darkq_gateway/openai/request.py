"""What chat and Responses share: jobs from JSON bodies, and errors of jobs. No I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import msgspec
from aiohttp import web

from darkq import InvalidJob, Job
from darkq.openai.body import Endpoint, read_body
from darkq.openai.errors import WireError, build_job_error
from darkq.protocol.validation import explain_error
from darkq_gateway.http.bodies import check_structure
from darkq_gateway.http.context import SETTINGS, get_caller
from darkq_gateway.http.errors import ApiError

T = TypeVar("T", bound=msgspec.Struct)


def decode(body: bytes) -> dict[str, Any]:
    """Return the parameters of a body without those that are null. Raises `ApiError`."""
    check_structure(body)
    try:
        fields = msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise ApiError(400, "invalid_json", "the body is not a JSON object") from None
    return {name: value for name, value in fields.items() if value is not None}


def take(fields: dict[str, Any], kind: type[T]) -> T:
    """Remove the fields of a struct from a body and return them. Raises `ApiError`."""
    names = msgspec.structs.fields(kind)
    given = {field.name: fields.pop(field.name) for field in names if field.name in fields}
    try:
        return msgspec.convert(given, kind)
    except msgspec.ValidationError as error:
        wrong = explain_error(error)
        raise ApiError(400, "invalid_type", wrong.reason, wrong.field or None) from None


def make_job(
    fields: dict[str, Any],
    endpoint: Endpoint,
    request: web.Request,
    history: Sequence[Mapping[str, Any]] = (),
    **others: Any,
) -> Job:
    """Return the job for a body. Raises `ApiError`, which names the parameter.

    `history` are the messages of the Response that the body continues.
    """
    caller = get_caller(request)
    limit = request.app[SETTINGS].max_prompt_bytes
    try:
        asked = read_body(fields, endpoint, history)
        if not isinstance(asked.model, str):
            raise InvalidJob("model", "must be the name of a model")
        model = caller.model_for(asked.model)
        job = asked.job(model=model, tenant=caller.tenant, **others)
        if (size := job.prompt_bytes) > limit:
            reason = f"has {size:,} bytes; DARKQ_MAX_PROMPT_BYTES allows {limit:,}"
            raise InvalidJob(asked.prompt_field, reason)
    except InvalidJob as error:
        raise ApiError(400, "invalid_parameter", error.reason, error.field) from None
    caller.check_prompt(job.prompt_bytes)
    return job


# For OpenAI's SDKs: darkq has used up the retries of the job, so a retry would only cost again.
_DO_NOT_RETRY = {"x-should-retry": "false"}


def make_job_error(code: str, message: str, endpoint: Endpoint) -> ApiError:
    """Return the error for a job that ended without an answer."""
    return to_api_error(build_job_error(code, message, endpoint))


def to_api_error(error: WireError) -> ApiError:
    """Return the error of a job as a response."""
    return ApiError(error.status, error.code, error.message, error.param, headers=_DO_NOT_RETRY)
