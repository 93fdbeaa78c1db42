"""What is sent on OpenAI's wire, and the list of models that comes back. No I/O."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from darkq.job import Message
from darkq_worker.upstreams.base import ProtocolViolation, Rejected, Request
from darkq_worker.upstreams.reported import clean

MAX_MODELS = 1000
_MAX_NAME_CHARS = 200
_OFFICIAL_HOST: Final = "api.openai.com"


def request_body(url: str, request: Request, model: str, *, awaits_usage: bool) -> bytes:
    """Return a request for a stream. Raises `Rejected`."""
    prompt = request.prompt
    messages = (Message("user", prompt),) if isinstance(prompt, str) else prompt
    if not messages:
        raise Rejected("the prompt has no messages")
    options = request.options.given() if request.options else {}
    if "max_tokens" in options and urlsplit(url).hostname == _OFFICIAL_HOST:
        options["max_completion_tokens"] = options.pop("max_tokens")  # its own new name
    fields: dict[str, Any] = {
        "model": model,
        "messages": [_on_the_wire(message) for message in messages],
        "stream": True,
        **options,
    }
    if awaits_usage:
        fields["stream_options"] = {"include_usage": True}
    try:
        return msgspec.json.encode(fields)
    except UnicodeEncodeError:
        raise Rejected("the prompt has a lone surrogate, which is no text in UTF-8") from None


def _on_the_wire(message: Message) -> dict[str, str]:
    """Only OpenAI itself knows `developer`, and it takes `system` for the same."""
    role = "system" if message.role == "developer" else message.role
    return {"role": role, "content": message.text}


def text_of(prompt: str | Sequence[Message]) -> str:
    """Return all that is said in a prompt."""
    return prompt if isinstance(prompt, str) else "\n".join(message.text for message in prompt)


def parse_models(body: bytes) -> list[str]:
    """Return the ids in a list of models. Raises `ProtocolViolation`."""
    try:
        listing: Any = json.loads(body)
        models = listing["data"] or ()  # Ollama has null for none
        ids = [clean(model["id"]) for model in models]
    except (ValueError, RecursionError, KeyError, TypeError):
        raise ProtocolViolation("the list of models is none", status=200) from None
    names = [name for name in dict.fromkeys(ids) if name.isprintable()]
    return [name for name in names if 0 < len(name) <= _MAX_NAME_CHARS][:MAX_MODELS]
