"""Request bodies of OpenAI's API, and the fields in them that a service refuses. No I/O."""

from __future__ import annotations

import re
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from darkq.protocol.parameters import WITHOUT_EFFECT
from darkq.protocol.prompt import REASONING_FIELDS, Message
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


def build_body(
    url: str, request: Request, model: str, *, refused: AbstractSet[str] = frozenset()
) -> bytes:
    """Return the body of a streaming request, without refused fields. Raises `Rejected`."""
    prompt = request.prompt
    messages = (Message("user", prompt),) if isinstance(prompt, str) else prompt
    if not messages:
        raise Rejected("the prompt has no messages")
    options = _build_options(url, request, refused) if request.options else {}
    parameters = {name: value for name, value in request.parameters.items() if name not in refused}
    fields: dict[str, Any] = {
        "model": model,
        "messages": [_build_message(message, refused) for message in messages],
        **parameters,
        "stream": True,
        **options,
    }
    if USAGE not in refused:
        fields[USAGE] = {"include_usage": True}
    try:
        return msgspec.json.encode(fields)
    except UnicodeEncodeError:
        raise Rejected("the prompt has a lone surrogate, which is not valid in UTF-8") from None


def _build_options(url: str, request: Request, refused: AbstractSet[str]) -> dict[str, Any]:
    options = request.options.given() if request.options else {}
    host = urlsplit(url).hostname or ""
    is_official = host == _OFFICIAL_HOST or host.endswith(_OFFICIAL_DOMAINS)
    if MAX_TOKENS in options and is_official:
        options[MAX_COMPLETION_TOKENS] = options.pop(MAX_TOKENS)  # OpenAI's newer name
    for name, other in _OTHER.items():
        if name in options and name in refused:
            options[other] = options.pop(name)
            break
    return options


def find_refused(status: int, message: bytes, body: bytes, refused: AbstractSet[str]) -> str | None:
    """Return the field that a refusal is about, if it can be left out or renamed, or None.

    `message` is the body of the refusal, `body` that of the request.

    A name of the token limit is refused if the message has the other name, or says that this one is
    unknown. The name is changed only once.
    """
    if status not in (HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY):
        return None
    if USAGE not in refused and (b"stream_options" in message or b"include_usage" in message):
        return USAGE
    sent = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    optional = [name for name in sorted(WITHOUT_EFFECT) if name in sent]
    messages = bytes(sent.get("messages", b""))
    optional += [name for name in REASONING_FIELDS if f'"{name}":'.encode() in messages]
    for name in optional:
        if name not in refused and name.encode() in message and _NOT_TAKEN.search(message):
            return name
    if refused & _OTHER.keys():
        return None
    for name, other in _OTHER.items():
        if name in sent and (
            other.encode() in message or (name.encode() in message and _NOT_TAKEN.search(message))
        ):
            return name
    return None


def _build_message(message: Message, refused: AbstractSet[str]) -> dict[str, Any]:
    """Return a message as on the wire, without refused fields.

    Only OpenAI itself knows `developer`, and it accepts `system` for the same. Content that is only
    text is one string: every service accepts that.
    """
    fields = {"role": message.role, "content": message.text}
    if not message.is_plain:
        fields = {name: value for name, value in message.fields().items() if name not in refused}
    if message.role == "developer":
        fields["role"] = "system"
    return fields


def join_prompt(prompt: str | Sequence[Message]) -> str:
    """Return the whole text of a prompt."""
    return prompt if isinstance(prompt, str) else "\n".join(message.text for message in prompt)
