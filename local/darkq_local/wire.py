"""DarkAI's wire, as its server speaks it: the fields of a request, and events as bytes.

A request is one JSON object. An invalid one is refused with 422, in the format of that server's
web framework, but without its echo of the input. An answer is an SSE stream of

    data: {"event": E, "data": {"event_type": E, ...}}

with a blank line after each event, in this order: `begin-stream`, any number of `text-chunk`,
`stream-end`, `final-response`. Lines end in CRLF. The JSON is ASCII-escaped, so an emoji is a
surrogate pair. An error also has a line `event: error`.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import msgspec

from darkq_local.models.base import Turn

MODELS = (
    "llama-3-70b",
    "gpt-4o",
    "gpt-3.5-turbo",
    "llama-3-405b",
    "llama-3.1-70b",
    "llama-3.1-405b",
)
MAX_BODY_BYTES = 8 << 20

RATE_LIMITED = "Rate limit exceeded, please try again after a short break."
AT_CAPACITY = "Model is at capacity. Please try again later."
NETWORK_ERROR = "Network Error. Please try again."


class ChatRequest(msgspec.Struct, frozen=True):
    """The body of `POST /chat`. An empty model means the default one."""

    query: str
    model: str = ""
    history: tuple[Turn, ...] = ()

    def __repr__(self) -> str:
        return f"ChatRequest(model={self.model!r}, turns={len(self.history)})"


class BadRequest(Exception):
    """The body is not a chat request. The text names the field, but not its value."""


def parse_chat_request(body: bytes) -> ChatRequest:
    """Parse the body of a request. Raises `BadRequest`."""
    try:
        request = msgspec.json.decode(body, type=ChatRequest)
    except msgspec.ValidationError as error:
        # msgspec quotes a value only for a role that is not in the list.
        is_role = str(error).startswith("Invalid enum value")
        reason = "history: a role should be 'user' or 'assistant'" if is_role else str(error)
        raise BadRequest(reason) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BadRequest("the body is not JSON in UTF-8") from None
    if request.model and request.model not in MODELS:
        raise BadRequest(f"model: input should be one of {', '.join(MODELS)}")
    return request


def build_422(reason: str) -> dict[str, Any]:
    """Build the body of a 422."""
    return {"detail": [{"type": "value_error", "loc": ["body"], "msg": reason}]}


class Dialect(msgspec.Struct, frozen=True, kw_only=True):
    """The format of events."""

    line_end: str
    ascii_only: bool

    def event(self, event: str, **data: Any) -> bytes:
        """Format one event."""
        return self.lines(self._data(event, data))

    def error(self, detail: str) -> bytes:
        """Format the error event, which ends a stream."""
        return self.lines("event: error", self._data("error", {"detail": detail}))

    def ping(self) -> bytes:
        """Format the comment that keeps an idle connection open."""
        return self.lines(f": ping - {datetime.now(UTC)}")

    def lines(self, *lines: str) -> bytes:
        """Format lines and the blank line after them."""
        return "".join(line + self.line_end for line in (*lines, "")).encode()

    def _data(self, event: str, data: dict[str, Any]) -> str:
        payload = {"event": event, "data": {"event_type": event, **data}}
        return "data: " + json.dumps(payload, ensure_ascii=self.ascii_only)
