"""A line of a batch's input file, read into a job. No I/O.

A line is a request of OpenAI's batch format, a prompt as JSON, or in a text file the prompt itself:

    {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": …}}
    {"custom_id": "a", "prompt": "Why do people queue?"}
    Why do people queue?

Errors name the line and the field, and never quote the value.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from darkq.errors import InvalidJob, InvalidLine
from darkq.openai.body import CHAT, RESPONSES, Asked, Endpoint, read_body, refuse, take_options
from darkq.openai.response import parse_repeated
from darkq.protocol.job import Job, Priority
from darkq.protocol.options import LENGTHS, Options

MAX_LINE_BYTES = 12 << 20
"""A prompt of the default limit fits, with images as data URLs."""
MAX_CUSTOM_ID_CHARS = 512
_BREAKS_OFF = "JSON is incomplete: each line must hold one whole object (jq -c . FILE)"
_ARRAY = "is a JSON array, or begins one: each line must hold one object (jq -c '.[]' FILE)"
_ENDPOINTS: Mapping[str, Endpoint] = {
    CHAT: CHAT,
    RESPONSES: RESPONSES,
    CHAT.removeprefix("/v1"): CHAT,  # as in Azure's files
    RESPONSES.removeprefix("/v1"): RESPONSES,
}


class ForAllLines(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How to run the jobs of a batch. `model` and `options` are for lines without their own."""

    model: str | None = None
    upstream: str | None = None
    priority: Priority = "bulk"
    tries: int | None = None
    timeout_s: float | None = None
    options: Options | None = None
    ignore_unsupported: bool = False


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One line, parsed. `endpoint` determines the object that its answer is."""

    number: int
    custom_id: str
    job: Job
    endpoint: Endpoint = CHAT


def endpoint_of(url: object) -> Endpoint | None:
    """Return the endpoint of a URL, also without `/v1`; None for an unknown one."""
    return _ENDPOINTS.get(url) if isinstance(url, str) else None


def text_line(text: bytes, number: int, common: ForAllLines) -> Line:
    """Parse a line that is a prompt. `number` is from 1. Raises `InvalidLine`."""
    try:
        job = _job(Asked("prompt", text.decode(), None, {}, {}), common)
    except UnicodeDecodeError:
        raise InvalidLine(number, "prompt", "is not UTF-8") from None
    except InvalidJob as error:
        raise InvalidLine(number, error.field, error.reason) from None
    return Line(number=number, custom_id=_default_id(number), job=job)


def json_line(
    text: bytes,
    number: int,
    common: ForAllLines,
    *,
    needs_custom_id: bool = False,
    takes_numbers: bool = False,
) -> Line:
    """Parse a line of JSON. `number` is from 1. Raises `InvalidLine`.

    With `takes_numbers`, its `custom_id` may be a whole number.
    """
    fields = decode_object(text, number)
    given = fields.pop("custom_id", None)
    if given is None and needs_custom_id:
        raise InvalidLine(number, "custom_id", "is missing", "missing_required_parameter")
    if takes_numbers and isinstance(given, int) and not isinstance(given, bool):
        given = str(given)
    custom_id = _custom_id(given, number)
    if "body" not in fields and "prompt" in fields:
        return _plain(fields, number, custom_id, common)
    return _request(fields, number, custom_id, common)


def decode_object(text: bytes, number: int) -> dict[str, Any]:
    """Return the fields of a line of JSON. Raises `InvalidLine`."""
    try:
        fields = msgspec.json.decode(text)
    except UnicodeDecodeError:
        raise InvalidLine(number, "line", "is not UTF-8", "invalid_json_line") from None
    except msgspec.DecodeError as error:  # its text names an offset, and never quotes the input
        reason = str(error).replace("Input data was truncated", _BREAKS_OFF)
        reason = _ARRAY if text.lstrip().startswith(b"[") else reason
        raise InvalidLine(number, "line", reason, "invalid_json_line") from None
    except RecursionError:
        raise InvalidLine(number, "line", "is nested too deep", "invalid_json_line") from None
    if not isinstance(fields, dict):
        reason = _ARRAY if isinstance(fields, list) else "must be a JSON object"
        raise InvalidLine(number, "line", reason, "invalid_json_line")
    return fields


def _custom_id(value: object, number: int) -> str:
    if value is None:
        return _default_id(number)
    if not isinstance(value, str) or not 0 < len(value) <= MAX_CUSTOM_ID_CHARS:
        reason = f"must be a string of 1 to {MAX_CUSTOM_ID_CHARS} characters"
        raise InvalidLine(number, "custom_id", reason)
    return value


def _default_id(number: int) -> str:
    return f"line-{number}"


def _plain(fields: dict[str, Any], number: int, custom_id: str, common: ForAllLines) -> Line:
    prompt, model = fields.pop("prompt"), fields.pop("model", None)
    try:
        options = take_options(fields)
        for name in fields:
            refuse(name)
        job = _job(Asked("prompt", prompt, model, options, {}), common)
    except InvalidJob as error:
        raise InvalidLine(number, error.field, error.reason, custom_id=custom_id) from None
    return Line(number=number, custom_id=custom_id, job=job)


def _request(fields: dict[str, Any], number: int, custom_id: str, common: ForAllLines) -> Line:
    if fields.pop("method", "POST") != "POST":
        raise InvalidLine(number, "method", "must be POST", "invalid_method")
    endpoint = endpoint_of(fields.pop("url", CHAT))
    if endpoint is None:
        raise InvalidLine(number, "url", f"must be {CHAT} or {RESPONSES}", "invalid_url")
    body = fields.pop("body", None)
    if not isinstance(body, dict):
        reason = "must be an object" if body is not None else "is missing, and so is prompt"
        raise InvalidLine(number, "body", reason)
    try:
        for name in fields:
            refuse(name)
    except InvalidJob as error:
        raise InvalidLine(number, error.field, error.reason) from None
    try:
        job = _job(read_body(body, endpoint), common)
        if endpoint == RESPONSES:
            repeated = parse_repeated(body)
            job = msgspec.structs.replace(repeated, background=False).beside(job)
            # The answer repeats the tools and the like. Without these no request is kept.
            job = msgspec.structs.replace(job, keeps_request=repeated.repeats_parameters)
    except InvalidJob as error:
        field = f"body.{error.field}"
        raise InvalidLine(number, field, error.reason, custom_id=custom_id) from None
    return Line(number=number, custom_id=custom_id, job=job, endpoint=endpoint)


def _job(asked: Asked, common: ForAllLines) -> Job:
    """Return the job. Raises `InvalidJob`."""
    options = asked.options
    if common.options is not None:
        given = common.options.given()
        if LENGTHS & options.keys():  # both names at once would contradict each other
            given = {name: value for name, value in given.items() if name not in LENGTHS}
        options = {**given, **options}
    return asked.job(
        options=options,
        model=common.model if asked.model is None else asked.model,
        upstream=common.upstream,
        priority=common.priority,
        tries=common.tries,
        timeout_s=common.timeout_s,
        ignore_unsupported=common.ignore_unsupported,
    )
