"""OpenAI's `response` object, for the lines of batches and the gateway. No I/O.

The request fields that a Response repeats are stored in the job's metadata under `_openai`, so that
any process can build the Response from the job alone. Clients cannot set that name
(`RESERVED_METADATA`). A job whose value there is invalid is not a Response.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Final

import msgspec

from darkq.errors import InvalidJob
from darkq.event import Usage
from darkq.protocol.job import RESERVED_METADATA, Job
from darkq.protocol.validation import explain_error

MAX_LABEL_CHARS = 512
INCOMPLETE_REASONS: Final = MappingProxyType(
    {"length": "max_output_tokens", "content_filter": "content_filter"}
)
"""The reasons of an `incomplete` Response by finish reason; after any other it is complete."""
_Label = Annotated[str, msgspec.Meta(max_length=MAX_LABEL_CHARS)] | None


class Repeated(msgspec.Struct, frozen=True, omit_defaults=True):
    """The request fields that a Response repeats.

    Without its instructions: they are a part of the prompt. `has_instructions` says that they are
    its first message, and `repeats_parameters` that more fields come from the job's parameters
    (`repeat_parameters`). These two are no fields of a request.
    """

    background: bool = False
    frequency_penalty: float | None = None
    has_instructions: bool = False
    max_output_tokens: int | None = None
    max_tool_calls: int | None = None
    metadata: dict[str, str] = {}
    parallel_tool_calls: bool = True
    presence_penalty: float | None = None
    previous_response_id: _Label = None
    prompt_cache_key: _Label = None
    reasoning_summary: _Label = None
    repeats_parameters: bool = False
    safety_identifier: _Label = None
    store: bool = True
    temperature: float | None = None
    top_p: float | None = None
    user: _Label = None

    def fields(self, parameters: Mapping[str, Any] = MappingProxyType({})) -> dict[str, Any]:
        """Return the fields of the Response. `parameters` are those of the job, if it has any."""
        given = msgspec.structs.asdict(self)
        fields = {name: given[name] for name in _REPEATED if given[name] is not None}
        fields |= repeat_parameters(parameters)
        if self.reasoning_summary is not None:
            effort = (fields.get("reasoning") or {}).get("effort")
            fields["reasoning"] = {"effort": effort, "summary": self.reasoning_summary}
        return fields

    def beside(self, job: Job) -> Job:
        """Return the job with these fields in its metadata. Raises `InvalidJob` if too large."""
        return job.with_metadata(**{RESERVED_METADATA: msgspec.json.encode(self).decode()})


_OF_DARKQ: Final = ("has_instructions", "reasoning_summary", "repeats_parameters")
_REPEATED: Final = tuple(name for name in Repeated.__struct_fields__ if name not in _OF_DARKQ)
_PARAMETERS: Final = ("reasoning", "text", "tool_choice", "tools", "top_logprobs")


def parse_repeated(body: Mapping[str, Any]) -> Repeated:
    """Parse the fields of a request's body. Raises `InvalidJob`, which names the parameter."""
    given = {name: body[name] for name in _REPEATED if body.get(name) is not None}
    given["has_instructions"] = body.get("instructions") is not None
    given["repeats_parameters"] = any(body.get(name) for name in _PARAMETERS)
    reasoning = body.get("reasoning")
    if isinstance(reasoning, dict) and reasoning.get("summary") is not None:
        given["reasoning_summary"] = reasoning["summary"]
    try:
        return msgspec.convert(given, Repeated)
    except msgspec.ValidationError as error:
        wrong = explain_error(error)
        field = wrong.field.replace("reasoning_summary", "reasoning.summary")
        raise InvalidJob(field, wrong.reason) from None


def repeat_parameters(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a Response that come from the parameters of a chat request."""
    fields: dict[str, Any] = {}
    if isinstance(tools := parameters.get("tools"), list):
        fields["tools"] = [each for tool in tools if (each := _repeat_tool(tool)) is not None]
    if (choice := _repeat_tool_choice(parameters.get("tool_choice"))) is not None:
        fields["tool_choice"] = choice
    if (effort := parameters.get("reasoning_effort")) is not None:
        fields["reasoning"] = {"effort": effort, "summary": None}
    if (top := parameters.get("top_logprobs")) is not None:
        fields["top_logprobs"] = top
    text = {"format": _repeat_format(parameters.get("response_format"))}
    if (verbosity := parameters.get("verbosity")) is not None:
        text["verbosity"] = verbosity
    return fields | ({} if text == _PLAIN_TEXT else {"text": text})


_PLAIN_TEXT: Final[Mapping[str, Any]] = {"format": {"type": "text"}}


def _repeat_format(given: object) -> dict[str, Any]:
    if not isinstance(given, dict):
        return {"type": "text"}
    schema = given.get("json_schema")
    if not isinstance(schema, dict):
        return given
    is_strict = schema.get("strict") is True
    return {"description": None, **schema, "strict": is_strict, "type": given.get("type")}


def _repeat_tool(tool: object) -> dict[str, Any] | None:
    """Return a tool with all fields that the API requires."""
    function = tool.get("function") if isinstance(tool, dict) else None
    if not isinstance(function, dict):
        return None
    defaults = {"description": None, "parameters": None, "strict": None}
    return {**defaults, **function, "type": "function"}


def _repeat_tool_choice(choice: object) -> object:
    if not isinstance(choice, dict):
        return choice
    allowed = choice.get("allowed_tools")
    if isinstance(allowed, dict) and isinstance(allowed.get("tools"), list):
        tools = [_repeat_tool_choice(tool) for tool in allowed["tools"]]
        return {"type": "allowed_tools", "mode": allowed.get("mode", "auto"), "tools": tools}
    function = choice.get("function")
    return {"type": "function", **(function if isinstance(function, dict) else {})}


def read_repeated(metadata: Mapping[str, str]) -> Repeated | None:
    """Read the fields from a job's metadata; None if the job is not a Response."""
    try:
        return msgspec.json.decode(metadata[RESERVED_METADATA], type=Repeated)
    except (KeyError, msgspec.MsgspecError, UnicodeError, RecursionError):
        return None


def build_response(response_id: str) -> dict[str, Any]:
    """Return a queued Response with the default value of each field."""
    return {
        "id": response_id,
        "object": "response",
        "created_at": 0,
        "completed_at": None,
        "status": "queued",
        "background": False,
        "error": None,
        "frequency_penalty": 0.0,
        "incomplete_details": None,
        "instructions": None,
        "max_output_tokens": None,
        "max_tool_calls": None,
        "metadata": {},
        "model": "",
        "output": [],
        "parallel_tool_calls": True,
        "presence_penalty": 0.0,
        "previous_response_id": None,
        "prompt_cache_key": None,
        "reasoning": None,
        "safety_identifier": None,
        "service_tier": "default",
        "store": True,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_logprobs": 0,
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": None,
        "user": None,
    }


def build_usage(usage: Usage | None) -> dict[str, Any] | None:
    """Return token counts in the format of Responses; None if there are none."""
    if usage is None:
        return None
    cached = usage.prompt_tokens_details or {}
    reasoned = usage.completion_tokens_details or {}
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0, **cached},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0, **reasoned},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
