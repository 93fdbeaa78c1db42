"""How a service on OpenAI's wire says that something is wrong. No I/O."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from darkq_worker.upstreams.base import Overloaded, RateLimited, Rejected, UpstreamError
from darkq_worker.upstreams.reported import clean, kind_of


class Reported(msgspec.Struct, frozen=True):
    """What a service says of a failure."""

    detail: str = ""
    code: str | int = ""

    @property
    def kind(self) -> type[UpstreamError]:
        """The kind of error that its code means, else its words."""
        if isinstance(self.code, int):
            if self.code == 429:
                return RateLimited
            if self.code >= 500:
                return Overloaded
            return Rejected if self.code >= 400 else kind_of(self.detail)
        if self.code in ("invalid_request_error", "context_length_exceeded", "content_filter"):
            return Rejected
        if self.code in ("server_error", "overloaded_error"):
            return Overloaded
        return kind_of(f"{self.code} {self.detail}")


def read_error(error: object) -> Reported:
    """Read an `error`: an object with a message, or a string."""
    if not isinstance(error, dict):
        return Reported(clean(error))
    detail = clean(error.get("message")) or clean(error.get("detail")) or clean(error.get("error"))
    codes = (error.get("code"), error.get("type"), error.get("status"))
    code = next((code for code in codes if isinstance(code, str | int) and code), "")
    return Reported(detail, code)


def refusal_detail(body: bytes) -> Reported:
    """Return what the body of a refusal says: OpenAI's JSON, or one of its relatives'."""
    body = body.strip().removeprefix(b"data:")
    try:
        refusal: Any = json.loads(body)
    except (ValueError, RecursionError):
        return Reported()
    if not isinstance(refusal, dict):
        return Reported()
    return read_error(refusal.get("error") or refusal)


def hidden(detail: str, secret: str) -> str:
    """Return what a service says, unless it repeats its key."""
    return "(its words repeat a key and are left out)" if secret and secret in detail else detail
