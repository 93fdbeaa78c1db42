"""What is sent on OpenAI's wire, and what of it a service refuses. No I/O."""

from __future__ import annotations

import re
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from darkq.protocol.job import Message
from darkq_worker.upstreams.base import Rejected, Request

USAGE: Final = "stream_options"
MAX_TOKENS: Final = "max_tokens"
MAX_COMPLETION_TOKENS: Final = "max_completion_tokens"
_OTHER: Final = {MAX_TOKENS: MAX_COMPLETION_TOKENS, MAX_COMPLETION_TOKENS: MAX_TOKENS}
_OFFICIAL_HOST: Final = "api.openai.com"
_OFFICIAL_DOMAINS: Final = (
    *(".api.openai.com", ".openai.azure.com"),
    *(".services.ai.azure.com", ".cognitiveservices.azure.com"),
)
_NOT_TAKEN: Final = re.compile(
    rb"unsupported|unknown|unrecogni|unexpected|extra|additional|"
    rb"not (permitted|supported|allowed|recogni)",
    re.IGNORECASE,
)


def request_body(
    url: str, request: Request, model: str, *, refused: AbstractSet[str] = frozenset()
) -> bytes:
    """Return a request for a stream, without the fields that the service refuses.

    Raises `Rejected`.
    """
    prompt = request.prompt
    messages = (Message("user", prompt),) if isinstance(prompt, str) else prompt
    if not messages:
        raise Rejected("the prompt has no messages")
    options = _options_of(url, request, refused) if request.options else {}
    fields: dict[str, Any] = {
        "model": model,
        "messages": [_on_the_wire(message) for message in messages],
        "stream": True,
        **options,
    }
    if USAGE not in refused:
        fields[USAGE] = {"include_usage": True}
    try:
        return msgspec.json.encode(fields)
    except UnicodeEncodeError:
        raise Rejected("the prompt has a lone surrogate, which is no text in UTF-8") from None


def _options_of(url: str, request: Request, refused: AbstractSet[str]) -> dict[str, Any]:
    options = request.options.given() if request.options else {}
    if MAX_TOKENS in options and _is_official(url):
        options[MAX_COMPLETION_TOKENS] = options.pop(MAX_TOKENS)  # its own new name
    for word, other in _OTHER.items():
        if word in options and word in refused:
            options[other] = options.pop(word)
            break
    return options


def find_refused(status: int, words: bytes, body: bytes, refused: AbstractSet[str]) -> str | None:
    """Return the field of a request that was refused and can be left out or renamed, if one was.

    `words` is the body of the refusal, `body` that of the request.

    A word for the most tokens is refused where the other is named, or where it is said not to be
    known; each is given up for the other once.
    """
    if status not in (HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY):
        return None
    if USAGE not in refused and (b"stream_options" in words or b"include_usage" in words):
        return USAGE
    if refused & _OTHER.keys():
        return None
    sent = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    for word, other in _OTHER.items():
        if word in sent and (
            other.encode() in words or (word.encode() in words and _NOT_TAKEN.search(words))
        ):
            return word
    return None


def _is_official(url: str) -> bool:
    """Tell whether it is OpenAI's own service, or Azure's of the same."""
    host = urlsplit(url).hostname or ""
    return host == _OFFICIAL_HOST or host.endswith(_OFFICIAL_DOMAINS)


def _on_the_wire(message: Message) -> dict[str, str]:
    """Only OpenAI itself knows `developer`, and it takes `system` for the same."""
    role = "system" if message.role == "developer" else message.role
    return {"role": role, "content": message.text}


def text_of(prompt: str | Sequence[Message]) -> str:
    """Return all that is said in a prompt."""
    return prompt if isinstance(prompt, str) else "\n".join(message.text for message in prompt)
