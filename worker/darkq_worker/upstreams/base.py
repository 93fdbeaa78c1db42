"""What a worker needs of an LLM service, and nothing of any one service's wire.

An upstream turns a request into a stream of text. The type carries the most important
promise: a stream yields pieces of text and then exactly one `End`. A stream that stops
without an `End` was cut off, whatever the transport said, and can never become a
completed job.

    UpstreamError               .code .retryable .retry_after_s .status
    ├── Unreachable             connection refused, reset, DNS, TLS; a retry can help
    ├── RateLimited             429, or its like inside a 200; a retry can help, later
    ├── Overloaded              "at capacity", 5xx; a retry can help
    ├── Truncated               the stream ended before the upstream said it was complete
    ├── EmptyAnswer             the upstream said "complete" and sent no text
    ├── TimedOut                nothing arrived for too long, or the whole took too long
    ├── NotReady                what it serves is not known yet; nothing was asked of it
    ├── ProtocolViolation       not the wire that was agreed: HTML, a line past the bound
    └── Rejected                the request itself is refused; no retry can help
        └── UnknownModel

A conversation as one string, for services that take one: their public clients' format.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import aclosing
from typing import ClassVar, Protocol

import msgspec

from darkq.event import Usage
from darkq.protocol.job import Message
from darkq.protocol.options import Options, format_refusal


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One call of an upstream.

    `model` is a name as the job gave it, or None for the upstream's default. `proxy` is an
    HTTP proxy URL for this call alone; None means the deployment's own, if it has one.
    `options` are what the job wishes for; an upstream that cannot honour one refuses the call.
    """

    prompt: str | tuple[Message, ...]
    model: str | None = None
    proxy: str | None = None
    options: Options | None = None

    def __repr__(self) -> str:
        return f"Request(model={self.model!r})"


class End(msgspec.Struct, frozen=True, kw_only=True):
    """The upstream said that the answer is complete. Always the last item of a stream."""

    finish_reason: str = "stop"
    usage: Usage | None = None


class Upstream(Protocol):
    """An LLM service."""

    @property
    def name(self) -> str:
        """What jobs, logs and events call it."""
        ...

    @property
    def kind(self) -> str:
        """Which wire it speaks."""
        ...

    @property
    def options(self) -> AbstractSet[str]:
        """The names of the options that it honours."""
        ...

    @property
    def default_model(self) -> str:
        """The model of a request that names none; empty where no model is known."""
        ...

    @property
    def models(self) -> Sequence[str]:
        """The models that it knows, canonical names only."""
        ...

    def resolve_model(self, model: str | None) -> str:
        """Return the canonical name of a model, an alias or None.

        Raises `UnknownModel`, and `NotReady` where its models are not known yet.
        """
        ...

    def stream(self, request: Request) -> AsyncGenerator[str | End, None]:
        """Yield the answer's text as it arrives, then one `End`.

        Pieces are not empty. Raises `UpstreamError`, at any point. Closing the iterator, or
        cancelling the task that reads it, closes the connection to the upstream before it
        returns.
        """
        ...

    async def probe(self, *, timeout_s: float) -> None:
        """Ask for the least that shows it works; return when it does.

        Raises `UpstreamError` with the reason when it does not.
        """
        ...


class UpstreamError(Exception):
    """A call of an upstream failed.

    `message` is for people and goes into the job's `failed` event: it never holds the
    prompt, the answer or a key. `retry_after_s` is what the upstream asked for, if it did.
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
        """Return what a job's tenant may be told; None is a job without one."""
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


_MAX_NAMES_TOLD = 30


class Unserved(Rejected):
    """A job asks for something by a name that nothing here has. `known` are the names there are.

    The message lists them, and what the upstream said. The API key of a tenant may not be allowed
    to see all of that, so `message_to` leaves it out.
    """

    kind: ClassVar[str]

    def __init__(self, name: str, known: Sequence[str], *, said: str = "") -> None:
        names = ", ".join(known[:_MAX_NAMES_TOLD]) or "none"
        more = f" and {len(known) - _MAX_NAMES_TOLD} more" if len(known) > _MAX_NAMES_TOLD else ""
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
    """Ask for a greeting; return with its first word. Raises `UpstreamError`."""
    try:
        async with asyncio.timeout(timeout_s), aclosing(upstream.stream(_GREETING)) as items:
            await anext(items)
    except TimeoutError:
        raise TimedOut(f"no text came within {timeout_s:g} s") from None


def check_options(upstream: Upstream, options: Options | None) -> None:
    """Raise `Rejected` for the first option that the upstream cannot honour."""
    for name in options.given() if options else ():
        if name not in upstream.options:
            raise Rejected(format_refusal(upstream.name, name, upstream.options))


def format_prompt(prompt: str | Sequence[Message]) -> str:
    """Return a string as it is, and messages as `join_turns` does.

    Raises `Rejected` when there is no message.
    """
    if isinstance(prompt, str):
        return prompt
    return join_turns([(message.role, message.text) for message in prompt])


def join_turns(turns: Sequence[tuple[str, str]]) -> str:
    """Return the text of one turn verbatim, whatever its role; of several, the dialogue.

    Raises `Rejected` when there is none.
    """
    if not turns:
        raise Rejected("the prompt has no messages")
    if len(turns) == 1:
        return turns[0][1]
    dialogue = "\n".join(f"{role.capitalize()}: {text}" for role, text in turns)
    return f"{dialogue}\nAssistant:"
