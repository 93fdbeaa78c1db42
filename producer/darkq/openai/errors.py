"""Errors in OpenAI's format, also for failed jobs. No I/O."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from darkq.openai.body import CHAT, Endpoint
from darkq.openai.response_body import NAMES_OF_RESPONSES
from darkq.protocol.options import OPTIONS, parse_refusal

_STATUS = {
    "unknown_model": 404,
    "unknown_upstream": 400,
    "rejected": 400,
    "answer_too_long": 400,
    "rate_limited": 429,
    "cancelled": 409,
    "expired": 504,
    "timeout": 504,
}
_TYPES = {401: "authentication_error", 429: "rate_limit_error"}
_TOO_LONG = re.compile(
    r"context.?(length|size|window|limit)|(prompt|input) is too long|"
    r"(prompt|input|request).{0,40}(exceeds|longer than).{0,40}(context|token)|"
    r"too many (input )?tokens",
    re.IGNORECASE,
)
_NAMED_BY_SERVICE = re.compile(
    r"(?:unsupported|unknown|unrecognized|invalid) (?:parameter|value|argument|request argument)s?"
    r"(?: supplied)?:? ['\"`]?([a-z_]+)",
    re.IGNORECASE,
)
_NAMEABLE = OPTIONS | {
    *("tools", "tool_choice", "parallel_tool_calls", "response_format", "reasoning_effort"),
    *("verbosity", "logprobs", "top_logprobs", "logit_bias", "modalities", "prediction"),
    *("web_search_options", "service_tier", "top_k", "min_p", "repetition_penalty"),
}
"""Parameters that a service may name in a refusal. Another word there may be one of its own."""


class WireError(NamedTuple):
    """An error in OpenAI's format. `param` is the invalid parameter."""

    status: int
    code: str
    message: str
    param: str | None = None

    @property
    def type(self) -> str:
        """OpenAI's type of the error."""
        default = "invalid_request_error" if self.status < 500 else "server_error"
        return _TYPES.get(self.status, default)

    @property
    def named_message(self) -> str:
        """The message with the name of the parameter: most clients show only the message."""
        if self.param is None or self.message.startswith((f"{self.param} ", f"{self.param}:")):
            return self.message
        return f"{self.param}: {self.message}"

    def body(self) -> dict[str, Any]:
        """Return the body of an error response."""
        about = {"type": self.type, "param": self.param, "code": self.code}
        return {"error": {"message": self.named_message, **about}}


def build_job_error(code: str, message: str, endpoint: Endpoint) -> WireError:
    """Return the error for a job that ended without an answer.

    The upstream's message distinguishes its rejections: a prompt that is too long, an option.
    """
    if code == "unknown_model":
        return WireError(404, "model_not_found", message, "model")
    if code == "rejected":
        if (option := _find_option(message)) is not None:
            if endpoint != CHAT:
                name = NAMES_OF_RESPONSES.get(option, option)
                option = "input" if name.startswith("messages") else name
            return WireError(400, "unsupported_parameter", message, option)
        if _TOO_LONG.search(message):
            param = "messages" if endpoint == CHAT else "input"
            return WireError(400, "context_length_exceeded", message, param)
    return WireError(_STATUS.get(code, 502), code, message)


def _find_option(message: str) -> str | None:
    if (option := parse_refusal(message)) is not None:
        return option
    named = _NAMED_BY_SERVICE.search(message)
    return named[1] if named and named[1] in _NAMEABLE else None
