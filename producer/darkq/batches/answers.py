"""The output lines of a batch, one for each input line. No I/O.

    {"id", "custom_id", "response": {"status_code": 200, "request_id", "body"}, "error": null}
    {"id", "custom_id", "response": {"status_code": 400, "request_id", "body"}, "error": null}
    {"id", "custom_id", "response": null, "error": {"code", "message"}}

`body` is the response of the endpoint, which in batches over files may be an error. There `error`
is for requests that were not made. `request_id` is the job's id. The same result always gives the
same bytes.
"""

from __future__ import annotations

from typing import Any

import msgspec

from darkq.event import Completed, Queued, Started
from darkq.openai.body import CHAT, Endpoint
from darkq.openai.chat import build_logprobs, build_message, chat_usage, map_finish_reason
from darkq.openai.errors import WireError
from darkq.openai.response import Repeated, read_repeated
from darkq.openai.response_events import ResponseBuilder
from darkq.protocol.answer_events import answer_to_events
from darkq.protocol.result import Result


def answer_line(custom_id: str, result: Result, endpoint: Endpoint) -> bytes:
    """Return the line of a completed job, with its line end."""
    body = chat_completion(result) if endpoint == CHAT else response_object(result)
    response = {"status_code": 200, "request_id": result.job_id, "body": body}
    return _line(custom_id, result.job_id, response, None)


def refusal_line(custom_id: str, job_id: str, error: WireError) -> bytes:
    """Return the line of a request to which the endpoint responds with an error."""
    response = {"status_code": error.status, "request_id": job_id, "body": error.body()}
    return _line(custom_id, job_id, response, None)


def failure_line(custom_id: str, job_id: str, code: str, message: str) -> bytes:
    """Return the line of a job without an answer, with its line end."""
    return _line(custom_id, job_id, None, {"code": code, "message": message})


def _line(custom_id: str, job_id: str, response: object, error: object) -> bytes:
    bare_id = job_id.rpartition("-")[2]  # OpenAI's ids have a prefix and no hyphen
    fields = {
        "id": f"batch_req_{bare_id}",
        "custom_id": custom_id,
        "response": response,
        "error": error,
    }
    return msgspec.json.encode(fields) + b"\n"


def chat_completion(result: Result) -> dict[str, Any]:
    """Return the answer as OpenAI's `chat.completion`."""
    choice = {
        "index": 0,
        "message": build_message(result),
        "logprobs": build_logprobs(result.logprobs),
        "finish_reason": map_finish_reason(result.finish_reason),
    }
    completion: dict[str, Any] = {
        "id": f"chatcmpl-{result.job_id}",
        "object": "chat.completion",
        "created": result.queued_ms // 1000,
        "model": result.model,
        "choices": [choice],
    }
    if result.usage is not None:
        completion["usage"] = chat_usage(result.usage)
    if result.ignored:
        completion["ignored"] = result.ignored
    return completion


def response_object(result: Result) -> dict[str, Any]:
    """Return the answer as OpenAI's `response`, made as the gateway makes it."""
    noted = {name: value for name, value in result.metadata.items() if name != "custom_id"}
    repeated = read_repeated(result.metadata) or Repeated(metadata=noted)
    parameters = result.request.parameters if result.request else {}
    pieces = answer_to_events(result)
    builder = ResponseBuilder(f"resp_{result.job_id}", asked=repeated.fields(parameters))
    for event in (
        Queued(id="0-1", at_ms=result.queued_ms),
        Started(
            id=f"{result.attempt}-0",
            attempt=result.attempt,
            model=result.model,
            upstream=result.upstream,
            at_ms=result.started_ms,
        ),
        *pieces,
        Completed(
            id=f"{result.attempt}-{len(pieces) + 1}",
            finish_reason=result.finish_reason,
            usage=result.usage,
            at_ms=result.finished_ms,
        ),
    ):
        builder.feed(event)
    return builder.snapshot()
