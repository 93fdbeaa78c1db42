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

    Without its instructions: they are a part of the prompt, which is not kept with the answer.
    """

    background: bool = False
    frequency_penalty: float | None = None
    max_output_tokens: int | None = None
    metadata: dict[str, str] = {}
    parallel_tool_calls: bool = True
    presence_penalty: float | None = None
    prompt_cache_key: _Label = None
    safety_identifier: _Label = None
    store: bool = True
    temperature: float | None = None
    top_p: float | None = None
    user: _Label = None

    def fields(self) -> dict[str, Any]:
        """Return the fields of the Response."""
        given = msgspec.structs.asdict(self)
        return {name: value for name, value in given.items() if value is not None}

    def beside(self, job: Job) -> Job:
        """Return the job with these fields in its metadata. Raises `InvalidJob` if too large."""
        return job.with_metadata(**{RESERVED_METADATA: msgspec.json.encode(self).decode()})


def parse_repeated(body: Mapping[str, Any]) -> Repeated:
    """Parse the fields of a request's body. Raises `InvalidJob`, which names the parameter."""
    names = Repeated.__struct_fields__
    given = {name: body[name] for name in names if body.get(name) is not None}
    try:
        return msgspec.convert(given, Repeated)
    except msgspec.ValidationError as error:
        wrong = explain_error(error)
        raise InvalidJob(wrong.field, wrong.reason) from None


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


def item_id(job_id: str, attempt: int) -> str:
    """Return the id of the output item of an attempt."""
    return f"msg_{job_id}_{attempt}"


def build_text_part(text: str) -> dict[str, Any]:
    """Return the only part of an output item."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def build_usage(usage: Usage | None) -> dict[str, Any] | None:
    """Return token counts in the format of Responses; None if there are none."""
    if usage is None:
        return None
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
