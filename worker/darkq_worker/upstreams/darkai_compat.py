"""The interface by which people know DarkAI, on top of the upstream.

Two things differ on purpose. `working` is measured, not set by hand. And errors raise
`UpstreamError`, with the status and the reason, where the original fell silent.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, ClassVar, cast

import aiohttp

from darkq_worker.upstreams.base import End, Rejected, Request, UpstreamError, join_turns
from darkq_worker.upstreams.darkai import (
    DEFAULT_MODEL,
    DEFAULT_URL,
    MODEL_ALIASES,
    MODELS,
    DarkAIUpstream,
    resolve_model,
)

URL_VARIABLE = "DARKQ_DARKAI_URL"


class _EndpointFromEnvironment:
    """Reads the variable at each access, until the class attribute is set."""

    def __get__(self, instance: object, owner: type | None = None) -> str:
        return os.environ.get(URL_VARIABLE) or DEFAULT_URL


class DarkAI:
    """Answers of DarkAI, without a queue.

    `api_endpoint` is, in this order: what was assigned to it, `DARKQ_DARKAI_URL`, the public
    service. `working` is what the last `probe` found, and None before the first; a probe that
    failed leaves its reason in `probe_error`.
    """

    url: ClassVar[str] = DEFAULT_URL
    api_endpoint: ClassVar[str] = cast(str, _EndpointFromEnvironment())
    working: ClassVar[bool | None] = None
    probe_error: ClassVar[UpstreamError | None] = None
    supports_stream: ClassVar[bool] = True
    default_model: ClassVar[str] = DEFAULT_MODEL
    models: ClassVar[list[str]] = list(MODELS)
    model_aliases: ClassVar[dict[str, str]] = dict(MODEL_ALIASES)

    @classmethod
    def get_model(cls, model: str | None) -> str:
        """Return the canonical name of a model or an alias, and the default for None or "".

        Raises `UnknownModel`.
        """
        return resolve_model(model)

    @classmethod
    def format_prompt(cls, messages: Sequence[Mapping[str, Any]]) -> str:
        """Return messages (`role`, `content`) as the one string that DarkAI takes.

        Of a content that is a list, its text parts count. Raises `Rejected` for no messages,
        or for one that has no such content.
        """
        return join_turns([_turn(n, message) for n, message in enumerate(messages)])

    @classmethod
    async def create_async_generator(
        cls,
        model: str | None,
        messages: Sequence[Mapping[str, Any]],
        proxy: str | None = None,
        **kwargs: Any,
    ) -> AsyncGenerator[str, None]:
        """Yield the answer's text as it arrives. Other keyword arguments are ignored.

        Raises `UpstreamError`; for an unknown model, before anything is sent. Closing the
        generator, or cancelling the task that reads it, closes the connection.
        """
        if proxy and not proxy.startswith("http://"):
            raise Rejected("the proxy must be a URL like http://[user:password@]host:port")
        request = Request(
            prompt=cls.format_prompt(messages), model=cls.get_model(model), proxy=proxy
        )
        async with aiohttp.ClientSession() as session:
            upstream = DarkAIUpstream(session, url=cls.api_endpoint)
            async with aclosing(upstream.stream(request)) as items:
                async for item in items:
                    if not isinstance(item, End):
                        yield item

    @classmethod
    async def probe(cls, *, timeout_s: float = 60.0) -> bool:
        """Ask for a greeting, set `working` to whether one began to come, and return it."""
        cls.probe_error = None
        async with aiohttp.ClientSession() as session:
            try:
                await DarkAIUpstream(session, url=cls.api_endpoint).probe(timeout_s=timeout_s)
            except UpstreamError as error:
                cls.probe_error = error
        cls.working = cls.probe_error is None
        return cls.working


def _turn(index: int, message: Mapping[str, Any]) -> tuple[str, str]:
    role, content = message.get("role"), message.get("content")
    if isinstance(content, list | tuple):
        content = "".join(
            str(part.get("text", ""))
            for part in content
            if isinstance(part, Mapping) and part.get("type") == "text"
        )
    if not isinstance(role, str) or not isinstance(content, str):
        raise Rejected(f"messages[{index}] must have a role and a content that is text")
    return role, content
