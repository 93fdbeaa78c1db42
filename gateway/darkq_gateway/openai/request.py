"""What chat and Responses ask for alike: a body of JSON, made into a job. No I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from darkq import InvalidJob, Job
from darkq_gateway.errors import ApiError

T = TypeVar("T")

_PATH = re.compile(r" - at `\$\.?(.*?)`$")
_INDEX = re.compile(r"^prompt\b")

MESSAGE_KEYS = frozenset(("role", "content"))


def decode(body: bytes) -> dict[str, Any]:
    """Read a body; a parameter that is null was not given. Raises `ApiError`."""
    try:
        fields = msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise ApiError(400, "invalid_json", "the body is not a JSON object") from None
    return {name: value for name, value in fields.items() if value is not None}


def convert(fields: Mapping[str, Any], kind: type[T]) -> T:
    """Check the types of a body's fields. Raises `ApiError`, which names the field."""
    try:
        return msgspec.convert(fields, kind)
    except msgspec.ValidationError as error:  # its text names types and paths, never values
        text = str(error)
        path = _PATH.search(text)
        reason = text[: path.start()] if path else text
        raise ApiError(400, "invalid_type", reason, path[1] if path else None) from None


def message_of(message: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Return a chat message as darkq takes it. Raises `ApiError` for what it cannot hold.

    A `name` is harmless: no upstream here tells two users apart by it.
    """
    for key, value in message.items():
        if value and key not in MESSAGE_KEYS and key not in ("name", "annotations"):
            param = f"{place}.{key[:64]}"
            raise ApiError(400, "unsupported_parameter", "cannot be honoured here", param)
    return {key: message[key] for key in MESSAGE_KEYS & message.keys()}


def make_job(place: str, **fields: Any) -> Job:
    """Return a checked job. `place` is what the API calls the prompt. Raises `ApiError`."""
    try:
        return Job.create(**fields)
    except InvalidJob as error:
        field = _INDEX.sub(place, error.field.removeprefix("options."))
        raise ApiError(400, "invalid_value", error.reason, field) from None
