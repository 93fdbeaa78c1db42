"""What chat and Responses ask for alike: a body of JSON, made into a job. No I/O."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from darkq import InvalidJob, Job
from darkq.openai.body import Endpoint as OpenAIEndpoint
from darkq.openai.body import read_body as read_openai_body
from darkq.protocol.validation import explain_error
from darkq_gateway.http.bodies import check_structure
from darkq_gateway.http.context import Caller
from darkq_gateway.http.errors import ApiError

T = TypeVar("T", bound=msgspec.Struct)


def decode(body: bytes) -> dict[str, Any]:
    """Read a body; a parameter that is null was not given. Raises `ApiError`."""
    check_structure(body)
    try:
        fields = msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise ApiError(400, "invalid_json", "the body is not a JSON object") from None
    return {name: value for name, value in fields.items() if value is not None}


def take(fields: dict[str, Any], kind: type[T]) -> T:
    """Take what a struct names out of a body's fields. Raises `ApiError`, which names the field."""
    names = msgspec.structs.fields(kind)
    given = {field.name: fields.pop(field.name) for field in names if field.name in fields}
    try:
        return msgspec.convert(given, kind)
    except msgspec.ValidationError as error:
        wrong = explain_error(error)
        raise ApiError(400, "invalid_type", wrong.reason, wrong.field or None) from None


def make_job(
    fields: dict[str, Any], endpoint: OpenAIEndpoint, caller: Caller, **others: Any
) -> Job:
    """Return the job that a body asks for. Raises `ApiError`, which names the parameter."""
    try:
        asked = read_openai_body(fields, endpoint)
        model = caller.model_for(_name(asked.model))
        job = asked.job(model=model, tenant=caller.tenant, **others)
    except InvalidJob as error:
        raise ApiError(400, "invalid_parameter", error.reason, error.field) from None
    caller.check_prompt(job.prompt_bytes)
    return job


def _name(model: object) -> str:
    if not isinstance(model, str):
        raise InvalidJob("model", "must be the name of a model")
    return model
