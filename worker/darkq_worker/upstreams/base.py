"""The interface of upstreams: what a worker needs of an LLM service, whatever its protocol.

An upstream turns a request into a stream of pieces. The type carries the most important guarantee:
a stream yields pieces of an answer and then exactly one `End`. A stream that stops without an `End`
was cut off, whatever the transport reports, and never becomes a completed job.

    UpstreamError               .code .retryable .retry_after_s .status
    ├── Unreachable             connection refused, reset, DNS, TLS; a retry can help
    ├── RateLimited             429, or the same inside a 200; a later retry can help
    ├── Overloaded              "at capacity", 5xx; a retry can help
    ├── Truncated               the stream ended before the upstream reported its end
    ├── EmptyAnswer             the upstream reported the end and sent no text
    ├── TimedOut                no data for too long, or the whole call took too long
    ├── NotReady                its models are not known yet; it was not called
    ├── ProtocolViolation       not the expected protocol: HTML, a line that is too long
    └── Rejected                the request itself is refused; no retry can help
        └── UnknownModel
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import aclosing
from types import MappingProxyType
from typing import Any, ClassVar, Protocol

import msgspec

from darkq.event import Usage
from darkq.protocol.options import WITHOUT_EFFECT, Options, format_content_refusal, format_refusal
from darkq.protocol.prompt import Message
from darkq_worker.pieces import AnyPiece


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One call of an upstream.

    `model` is a name as the job gave it, or None for the upstream's default. `proxy` is the URL of
    an HTTP proxy for this call; None means the proxy of the deployment, if any. `options` are the
    generation options of the job, `parameters` are other fields of a chat request. An upstream
    that does not support one refuses the call.
    """

    prompt: str | tuple[Message, ...]
    model: str | None = None
    proxy: str | None = None
    options: Options | None = None
    parameters: Mapping[str, Any] = MappingProxyType({})

    def __repr__(self) -> str:
        return f"Request(model={self.model!r})"


class End(msgspec.Struct, frozen=True, kw_only=True):
    """The upstream reported that the answer is complete. Always the last item of a stream."""

    finish_reason: str = "stop"
    usage: Usage | None = None


class Upstream(Protocol):
    """An LLM service."""

    @property
    def name(self) -> str:
        """Its name in jobs, logs and events."""
        ...

    @property
    def kind(self) -> str:
        """The protocol that it uses."""
        ...

    @property
    def options(self) -> AbstractSet[str]:
        """The names of the options that it supports."""
        ...

    @property
    def takes_chat_requests(self) -> bool:
        """True if it takes any parameter, and more than text in messages: the service judges."""
        ...

    @property
    def default_model(self) -> str:
        """The model of a request without one; empty if no model is known."""
        ...

    @property
    def models(self) -> Sequence[str]:
        """The canonical names of its models."""
        ...

    def resolve_model(self, model: str | None) -> str:
        """Return the canonical name of a model, an alias or None.

        Raises `UnknownModel`, and `NotReady` while its models are not known.
        """
        ...

    def stream(self, request: Request) -> AsyncGenerator[AnyPiece | End, None]:
        """Yield the pieces of the answer as they arrive, then one `End`.

        Pieces are not empty. Raises `UpstreamError` at any point. Closing the iterator, or
        cancelling the task that reads it, closes the connection to the upstream first.
        """
        ...

    async def probe(self, *, timeout_s: float) -> None:
        """Make the smallest call that proves that it works.

        Raises `UpstreamError` if it does not.
        """
        ...


class UpstreamError(Exception):
    """A call of an upstream failed.

    `message` is for people and becomes part of the job's `failed` event: it never contains the
    prompt, the answer or a key. `retry_after_s` is the delay that the upstream asked for, if any.
    """

    code: ClassVar[str] = "upstream_error"
    retryable: ClassVar[bool] = True

    def __init__(
        self, message: str, *, status: int | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.retry_after_s = retry_after_s

    def message_to(self, tenant: str | None) -> str:
        """Return the message for a tenant; None means a job without a tenant."""
        return self.message


class Unreachable(UpstreamError):
    code = "upstream_unreachable"


class RateLimited(UpstreamError):
    code = "rate_limited"


class Overloaded(UpstreamError):
    code = "upstream_overloaded"


class Truncated(UpstreamError):
    code = "truncated"


class EmptyAnswer(UpstreamError):
    code = "empty_answer"


class TimedOut(UpstreamError):
    code = "timeout"


class NotReady(UpstreamError):
    code = "upstream_not_ready"


class ProtocolViolation(UpstreamError):
    code = "protocol_violation"


class Rejected(UpstreamError):
    code = "rejected"
    retryable = False


_MAX_NAMES = 30


class Unserved(Rejected):
    """A job names something that does not exist here. `known` are the existing names.

    The message lists them, with the upstream's message. The API key of a tenant may not be allowed
    to see either, so `message_to` leaves them out.
    """

    kind: ClassVar[str]

    def __init__(self, name: str, known: Sequence[str], *, said: str = "") -> None:
        names = ", ".join(known[:_MAX_NAMES]) or "none"
        more = f" and {len(known) - _MAX_NAMES} more" if len(known) > _MAX_NAMES else ""
        words = f"; the upstream says: {said}" if said else ""
        super().__init__(f"unknown {self.kind} {name!r}; known: {names}{more}{words}")
        self.name = name

    def message_to(self, tenant: str | None) -> str:
        return self.message if tenant is None else f"unknown {self.kind} {self.name!r}"


class UnknownModel(Unserved):
    code = "unknown_model"
    kind = "model"


_GREETING = Request(prompt="Hi")


async def greet(upstream: Upstream, *, timeout_s: float) -> None:
    """Call with a greeting; return when text arrives. Raises `UpstreamError`."""
    try:
        async with asyncio.timeout(timeout_s), aclosing(upstream.stream(_GREETING)) as items:
            await anext(items)
    except TimeoutError:
        raise TimedOut(f"no text came within {timeout_s:g} s") from None


def check_request(upstream: Upstream, request: Request) -> None:
    """Raise `Rejected` for the first field that the upstream does not support.

    Parameters without any effect on the answer are not checked.
    """
    for name in request.options.given() if request.options else ():
        if name not in upstream.options:
            raise Rejected(format_refusal(upstream.name, name, upstream.options))
    if upstream.takes_chat_requests:
        return
    for name in request.parameters:
        if name not in WITHOUT_EFFECT:
            raise Rejected(format_refusal(upstream.name, name, upstream.options))
    if not isinstance(request.prompt, str):
        for number, message in enumerate(request.prompt):
            if path := message.beyond_text:
                raise Rejected(format_content_refusal(upstream.name, number, path))


def drop_unsupported(upstream: Upstream, request: Request) -> tuple[Request, tuple[str, ...]]:
    """Return the request without what the upstream does not support, and the names of that.

    Only options and parameters are dropped. Content that is not text is still refused.
    """
    given = request.options.given() if request.options else {}
    options = {name: value for name, value in given.items() if name in upstream.options}
    parameters = {
        name: value
        for name, value in request.parameters.items()
        if upstream.takes_chat_requests or name in WITHOUT_EFFECT
    }
    ignored = (*(given.keys() - options), *(request.parameters.keys() - parameters))
    if not ignored:
        return request, ()
    kept = msgspec.structs.replace(
        request, options=Options(**options) if options else None, parameters=parameters
    )
    return kept, tuple(sorted(ignored))


def format_prompt(prompt: str | Sequence[Message]) -> str:
    """Return a prompt as one string; see `join_turns`. Raises `Rejected` without a message."""
    if isinstance(prompt, str):
        return prompt
    return join_turns([(message.role, message.text) for message in prompt])


def join_turns(turns: Sequence[tuple[str, str]]) -> str:
    """Return a conversation as one string, in the format of public clients for such services.

    A single turn is returned verbatim, whatever its role. Raises `Rejected` without a turn.
    """
    if not turns:
        raise Rejected("the prompt has no messages")
    if len(turns) == 1:
        return turns[0][1]
    dialogue = "\n".join(f"{role.capitalize()}: {text}" for role, text in turns)
    return f"{dialogue}\nAssistant:"
