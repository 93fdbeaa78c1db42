"""Parts of OpenAI's `response` object that a batch's lines and the gateway share. No I/O."""

from __future__ import annotations

from typing import Any

from darkq.event import Usage


def empty_response(response_id: str) -> dict[str, Any]:
    """Return a Response that is queued, with the values that hold where a request says nothing."""
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
    """Return the id of the output item of a job's attempt."""
    return f"msg_{job_id}_{attempt}"


def text_part(text: str) -> dict[str, Any]:
    """Return the one part that an output item has."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def response_usage(usage: Usage | None) -> dict[str, Any] | None:
    """Return token counts in the words of Responses; None where the upstream counted none."""
    if usage is None:
        return None
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
