"""What people get out of a batch: a line for each line that they put in. No I/O.

    {"id", "custom_id", "response": {"status_code": 200, "request_id", "body"}, "error": null}
    {"id", "custom_id", "response": null, "error": {"code", "message"}}

`body` is what the endpoint would have answered. Made twice of the same result, a line is the
same to the byte; `request_id` is the job's id.
"""

from __future__ import annotations

from typing import Any

import msgspec

from darkq.openai_body import CHAT, Endpoint
from darkq.result import Result

_FINISH_REASONS = ("stop", "length", "content_filter", "tool_calls")


def answer_line(custom_id: str, result: Result, endpoint: Endpoint) -> bytes:
    """Return the line of a job that was answered, its line end included."""
    body = chat_completion(result) if endpoint == CHAT else response_object(result)
    response = {"status_code": 200, "request_id": result.job_id, "body": body}
    return _line(custom_id, result.job_id, response, None)


def failure_line(custom_id: str, job_id: str, code: str, message: str) -> bytes:
    """Return the line of a job that was not answered, its line end included."""
    return _line(custom_id, job_id, None, {"code": code, "message": message})


def _line(custom_id: str, job_id: str, response: object, error: object) -> bytes:
    fields = {
        "id": f"batch_req_{_bare(job_id)}",
        "custom_id": custom_id,
        "response": response,
        "error": error,
    }
    return msgspec.json.encode(fields) + b"\n"


def chat_completion(result: Result) -> dict[str, Any]:
    """Return the answer as OpenAI's `chat.completion`."""
    message = {"role": "assistant", "content": result.text, "refusal": None}
    choice = {
        "index": 0,
        "message": message,
        "logprobs": None,
        "finish_reason": _finish_reason(result),
    }
    completion: dict[str, Any] = {
        "id": f"chatcmpl-{_bare(result.job_id)}",
        "object": "chat.completion",
        "created": result.started_ms // 1000,
        "model": result.model,
        "choices": [choice],
    }
    if result.usage is not None:
        asked, answered = result.usage.prompt_tokens, result.usage.completion_tokens
        completion["usage"] = {
            "prompt_tokens": asked,
            "completion_tokens": answered,
            "total_tokens": asked + answered,
        }
    return completion


def response_object(result: Result) -> dict[str, Any]:
    """Return the answer as OpenAI's `response`."""
    cut = _finish_reason(result) == "length"
    status = "incomplete" if cut else "completed"
    text = {"type": "output_text", "text": result.text, "annotations": [], "logprobs": []}
    message = {
        "type": "message",
        "id": f"msg_{_bare(result.job_id)}",
        "status": status,
        "role": "assistant",
        "content": [text],
    }
    response: dict[str, Any] = {
        "id": f"resp_{_bare(result.job_id)}",
        "object": "response",
        "created_at": result.started_ms // 1000,
        "completed_at": result.finished_ms // 1000,
        "status": status,
        "model": result.model,
        "output": [message],
        "parallel_tool_calls": False,
        "tool_choice": "none",
        "tools": [],
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
        "metadata": {k: v for k, v in result.metadata.items() if k != "custom_id"},
    }
    if result.usage is not None:
        asked, answered = result.usage.prompt_tokens, result.usage.completion_tokens
        response["usage"] = {
            "input_tokens": asked,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": answered,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": asked + answered,
        }
    return response


def _finish_reason(result: Result) -> str:
    return result.finish_reason if result.finish_reason in _FINISH_REASONS else "stop"


def _bare(job_id: str) -> str:
    """The part of a job's id that is its own: OpenAI's ids have a prefix and no hyphen."""
    return job_id.rpartition("-")[2]
