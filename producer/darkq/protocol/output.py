"""Structured output: a type as the JSON schema of an answer, and an answer as its value. No I/O.

An output is a Pydantic model, a type that msgspec can read (a `Struct`, dataclass or `TypedDict`),
or a JSON schema itself. Pydantic is not imported here: a model has the methods that we need.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeAlias

import msgspec

from darkq.errors import InvalidJob

Output: TypeAlias = type[Any] | Mapping[str, Any]

_MAX_NAME_CHARS = 64
_NOT_IN_NAMES = re.compile(r"[^a-zA-Z0-9_-]")


def build_response_format(output: Output) -> dict[str, Any]:
    """Return the `response_format` of a chat request for an output. Raises `InvalidJob`.

    The schema of a type is made strict, as OpenAI defines it: an object has exactly its fields. A
    given schema is not changed.
    """
    if isinstance(output, Mapping):
        name = str(output.get("title") or "output")
        json_schema: dict[str, Any] = {"schema": dict(output)}
    else:
        name = getattr(output, "__name__", "output")
        json_schema = {"schema": _make_strict(_build_schema(output)), "strict": True}
    json_schema["name"] = _NOT_IN_NAMES.sub("_", name)[:_MAX_NAME_CHARS]
    return {"type": "json_schema", "json_schema": json_schema}


def add_output(parameters: Mapping[str, Any] | None, output: Output) -> dict[str, Any]:
    """Return a job's parameters with the format of an output. Raises `InvalidJob`."""
    if parameters and parameters.get("response_format") is not None:
        raise InvalidJob("output", "is given beside parameters.response_format")
    return {**(parameters or {}), "response_format": build_response_format(output)}


def parse_output(output: Output, text: str) -> Any:
    """Return an answer's text as a value of the output. Raises `ValueError` if it is not one."""
    try:
        if isinstance(output, Mapping):
            return msgspec.json.decode(text)
        if hasattr(output, "model_validate_json"):
            return output.model_validate_json(text)
        return msgspec.json.decode(text, type=output)
    except msgspec.MsgspecError as error:
        raise ValueError(f"the answer is not valid for the output: {error}") from None


def _build_schema(output: type[Any]) -> dict[str, Any]:
    try:
        if hasattr(output, "model_json_schema"):
            schema: dict[str, Any] = output.model_json_schema()
            return schema
        (found,), definitions = msgspec.json.schema_components([output])
    except (TypeError, ValueError, AttributeError):
        reason = "must be a Pydantic model, a type that msgspec can read, or a JSON schema"
        raise InvalidJob("output", reason) from None
    # OpenAI's rules want an object at the top, not a reference to one.
    top = definitions.get(found.get("$ref", "").rpartition("/")[2], found)
    return {**top, "$defs": definitions} if definitions else dict(top)


def _make_strict(schema: dict[str, Any]) -> dict[str, Any]:
    definitions = schema.get("$defs", {})

    def strict(node: Any) -> Any:
        if isinstance(node, list):
            return [strict(each) for each in node]
        if not isinstance(node, dict):
            return node
        if "$ref" in node and len(node) > 1:  # a reference must be alone
            target = definitions.get(node["$ref"].rpartition("/")[2], {})
            node = {**target, **{name: node[name] for name in node if name != "$ref"}}
        made = {name: strict(value) for name, value in node.items() if name != "default"}
        if isinstance(node.get("properties"), dict):
            made["properties"] = {n: strict(each) for n, each in node["properties"].items()}
            made["required"] = list(node["properties"])
            made["additionalProperties"] = False
        return made

    made: dict[str, Any] = strict(schema)
    return made
