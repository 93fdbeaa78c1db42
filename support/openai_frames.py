"""Frames of OpenAI's wire, as its servers send them."""

from __future__ import annotations

import json
from typing import Any, Final

_HEAD: Final = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}

DONE: Final = b"data: [DONE]\n\n"


def frame(**fields: Any) -> bytes:
    """One chunk."""
    return b"data: " + json.dumps({**_HEAD, **fields}).encode() + b"\n\n"


def delta(content: str | None, **choice: Any) -> bytes:
    """A piece of text."""
    fields = {"role": "assistant", "content": content}
    return frame(choices=[{"index": 0, "delta": fields, "finish_reason": None, **choice}])


def finish(reason: str = "stop") -> bytes:
    """The end of the text."""
    return frame(choices=[{"index": 0, "delta": {}, "finish_reason": reason}])


def usage(prompt_tokens: int, completion_tokens: int) -> bytes:
    """What the answer cost."""
    counts = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
    return frame(choices=[], usage={**counts, "total_tokens": prompt_tokens + completion_tokens})


def error(message: str, **fields: Any) -> bytes:
    """An error inside the stream."""
    return b"data: " + json.dumps({"error": {"message": message, **fields}}).encode() + b"\n\n"
