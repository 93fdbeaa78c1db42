"""DarkAI: one POST, one stream of events. `darkai_wire` decodes it, `http` transports it.

A call may take `timeout_s` in total, and fails after `idle_timeout_s` without an event. Comments
are not events: the server sends one every 15 s, whatever its model does. That proves a live
connection, but a hanging model would keep the slot of a worker for the whole `timeout_s`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from types import MappingProxyType
from typing import Any, ClassVar, Final, cast

import aiohttp
import msgspec

from darkq.telemetry.logging import LogEvent
from darkq_worker.upstreams.base import (
    End,
    Rejected,
    Request,
    UnknownModel,
    UpstreamError,
    check_request,
    format_prompt,
    greet,
    join_turns,
)
from darkq_worker.upstreams.darkai_wire import MAX_LINE_BYTES, AnswerDecoder, error_detail
from darkq_worker.upstreams.http import HttpService, HttpStream, find_refusal
from darkq_worker.upstreams.http_errors import http_error, parse_retry_after, quotable

DEFAULT_URL: Final = "https://darkai.foundation/chat"
URL_VARIABLE: Final = "DARKQ_DARKAI_URL"
DEFAULT_MODEL: Final = "llama-3-70b"
MODELS: Final = (DEFAULT_MODEL, "gpt-4o", "gpt-3.5-turbo")
MODEL_ALIASES: Final[Mapping[str, str]] = MappingProxyType({"llama-3.1-70b": "llama-3-70b"})

_HEADERS: Final = {
    "accept": "text/event-stream",
    "content-type": "application/json",
    "user-agent": "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
}
_log = logging.getLogger(__name__)


def resolve_model(model: str | None) -> str:
    """Return the canonical name of a model or an alias, and the default for None or "".

    Raises `UnknownModel`.
    """
    name = MODEL_ALIASES.get(model, model) if model else DEFAULT_MODEL
    if name not in MODELS:
        raise UnknownModel(name, MODELS)
    return name


class DarkAIUpstream:
    """The `Upstream` for DarkAI.

    The caller keeps `session`. Its connector should have no limit: waiting for a free connection
    counts as silence of the upstream. `proxy` is an HTTP proxy for all calls without one of their
    own.
    """

    kind = "darkai"
    options: frozenset[str] = frozenset()
    takes_chat_requests = False
    default_model = DEFAULT_MODEL
    models = MODELS

    def __init__(
        self,
        session: aiohttp.ClientSession,
        *,
        url: str = DEFAULT_URL,
        proxy: str | None = None,
        timeout_s: float = 600.0,
        idle_timeout_s: float = 120.0,
        max_line_bytes: int = MAX_LINE_BYTES,
        name: str = "darkai",
        sends_trace: bool = False,
    ) -> None:
        self.name = name
        self._url = url
        self._max_line_bytes = max_line_bytes
        self._service = HttpService(
            session=session,
            proxy=proxy,
            timeout_s=timeout_s,
            idle_timeout_s=idle_timeout_s,
            idle_setting="DARKQ_DARKAI_IDLE_TIMEOUT_S",
            sends_trace=sends_trace,
        )
        self._headers = self._service.prepare_headers(_HEADERS)

    def resolve_model(self, model: str | None) -> str:
        """Return the canonical name of a model, an alias or None. Raises `UnknownModel`."""
        return resolve_model(model)

    async def stream(self, request: Request) -> AsyncGenerator[str | End, None]:
        """Yield the answer's text as it arrives, then one `End`. See `Upstream.stream`."""
        check_request(self, request)
        prompt = format_prompt(request.prompt)
        fields = {"query": prompt, "model": resolve_model(request.model)}
        try:
            body = msgspec.json.encode(fields)
        except UnicodeEncodeError:
            raise Rejected("the prompt has a lone surrogate, which is not valid in UTF-8") from None
        async with HttpStream(
            self._service, self._url, body=body, headers=self._headers, proxy=request.proxy
        ) as http:
            retry_after_s = parse_retry_after(http.header("retry-after"))
            if (refusal := await find_refusal(http)) is not None:
                raise http_error(
                    refusal.status,
                    is_html=refusal.is_html,
                    detail=quotable(error_detail(refusal.body), prompt),
                    retry_after_s=retry_after_s,
                )
            answer = AnswerDecoder(
                prompt=prompt, retry_after_s=retry_after_s, max_line_bytes=self._max_line_bytes
            )
            try:
                while not answer.is_complete:
                    if chunk := await http.read():
                        for text in answer.feed(chunk):
                            yield text
                    else:
                        answer.feed_eof()
                    if answer.got_frame:
                        http.restart_idle_clock()
                await http.finish()
            finally:
                if answer.malformed:
                    facts = {"upstream": self.name, "lines": answer.malformed}
                    _log.warning(LogEvent("malformed lines skipped", **facts))
        yield End()

    async def probe(self, *, timeout_s: float) -> None:
        """Call with a greeting; return when text arrives. Raises `UpstreamError`.

        Costs one call of the upstream's rate limit.
        """
        await greet(self, timeout_s=timeout_s)


class _EndpointFromEnvironment:
    """Reads the variable at each access, until the class attribute is set."""

    def __get__(self, instance: object, owner: type | None = None) -> str:
        return os.environ.get(URL_VARIABLE) or DEFAULT_URL


class DarkAI:
    """Calls of DarkAI without a queue, by the interface of its public client.

    Two differences are intended. `working` is measured, not set by hand. And errors raise
    `UpstreamError` with status and reason; the original ignores them.

    `api_endpoint` is, in this order: the value assigned to it, `DARKQ_DARKAI_URL`, the public
    service. `working` is the result of the last `probe`, and None before the first; `probe_error`
    is the reason of a failed one.
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

        If a content is a list, its text parts are used. Raises `Rejected` without messages, or for
        a message without text.
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
        """Call with a greeting; set `working` to whether text arrived, and return it."""
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
