"""Any service that speaks OpenAI's wire. That is `openai_wire`, the transport `http_stream`.

Its models are those that were configured, else those that it lists itself: `list_models` asks,
and until it has been answered, `resolve_model` raises `NotReady`.

Timeouts are those of DarkAI: a call may take `timeout_s` in all, and be silent for
`idle_timeout_s`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from http import HTTPStatus
from types import MappingProxyType

import aiohttp

from darkq.logs import LogLine
from darkq.options import OPTIONS
from darkq_worker.upstreams.base import (
    End,
    NotReady,
    ProtocolViolation,
    Rejected,
    Request,
    TimedOut,
    UnknownModel,
    UpstreamError,
    greet,
)
from darkq_worker.upstreams.http_failure import http_error, parse_retry_after, quotable
from darkq_worker.upstreams.http_stream import HttpStream
from darkq_worker.upstreams.openai_errors import hidden, refusal_detail
from darkq_worker.upstreams.openai_request import parse_models, request_body, text_of
from darkq_worker.upstreams.openai_wire import (
    MAX_LINE_BYTES,
    AnswerDecoder,
)
from darkq_worker.upstreams.refusal import Refusal, find_refusal

USAGE_TIMEOUT_S = 2.0
LIST_TIMEOUT_S = 15.0
MAX_LIST_BYTES = 4 << 20
_log = logging.getLogger(__name__)


class OpenAIUpstream:
    """The `Upstream` for an OpenAI-compatible service.

    `url` is the base, like `http://127.0.0.1:11434/v1`. `models` come first and the first is the
    default; without any the service is asked. `session` stays its caller's and should have no
    limit of connections.
    """

    kind = "openai"
    options = OPTIONS

    def __init__(
        self,
        session: aiohttp.ClientSession,
        *,
        name: str,
        url: str,
        api_key: str | None = None,
        models: Sequence[str] = (),
        aliases: Mapping[str, str] = MappingProxyType({}),
        proxy: str | None = None,
        timeout_s: float = 600.0,
        idle_timeout_s: float = 120.0,
        max_line_bytes: int = MAX_LINE_BYTES,
        sends_trace: bool = False,
    ) -> None:
        self.name = name
        self.models = tuple(models)
        self.lists_models = not models
        self._session = session
        self._url = url.rstrip("/")
        self._api_key = api_key or ""
        self._aliases = aliases
        self._proxy = proxy
        self._timeout_s = timeout_s
        self._idle_timeout_s = idle_timeout_s
        self._max_line_bytes = max_line_bytes
        self._sends_trace = sends_trace
        self._is_listed = bool(models)
        self._no_list: UpstreamError | None = None
        self._wants_usage = True

    @property
    def default_model(self) -> str:
        return self.models[0] if self.models else ""

    def resolve_model(self, model: str | None) -> str:
        """Return the canonical name of a model, an alias or None.

        Raises `UnknownModel`, `NotReady`, and `Rejected` where the service lists no models.
        """
        if not self._is_listed:
            if self._no_list is None or self._no_list.retryable:
                raise NotReady(f"the models of {self.name} are not known yet")
            raise Rejected(f"{self.name} does not list its models: {self._no_list.message}")
        name = self._aliases.get(model, model) if model else self.default_model
        if name not in self.models or not name:
            raise UnknownModel(name, self.models)
        return name

    async def list_models(self) -> None:
        """Ask the service for its models. Raises `UpstreamError`; those known before stay."""
        try:
            async with self._call("/models", None, None, LIST_TIMEOUT_S) as http:
                if refusal := await find_refusal(http, wanted="application/json"):
                    raise self._refused(http, refusal)
                body = b""
                while chunk := await http.read():
                    body += chunk
                    if len(body) > MAX_LIST_BYTES:
                        raise ProtocolViolation("the list of models is too long", status=200)
        except UpstreamError as error:
            self._no_list = error
            raise
        self.models = tuple(parse_models(body))
        self._is_listed = True

    async def stream(self, request: Request) -> AsyncGenerator[str | End, None]:
        """Yield the answer's text as it arrives, then one `End`. See `Upstream.stream`."""
        model = self.resolve_model(request.model)
        prompt = text_of(request.prompt)
        async with AsyncExitStack() as stack:
            http, awaits_usage = await self._ask(stack, request, model, prompt)
            answer = AnswerDecoder(
                prompt=prompt,
                secret=self._api_key,
                awaits_usage=awaits_usage,
                retry_after_s=_asked_wait_s(http),
                max_line_bytes=self._max_line_bytes,
            )
            try:
                while not answer.has_ended:
                    if chunk := await http.read():
                        for text in answer.feed(chunk):
                            yield text
                    else:
                        answer.feed_eof()
                    if answer.got_frame:
                        http.restart_idle_clock()
                await _read_usage(http, answer)
            finally:
                if answer.malformed:
                    facts = {"upstream": self.name, "lines": answer.malformed}
                    _log.warning(LogLine("skipped malformed lines", **facts))
        yield answer.end

    async def probe(self, *, timeout_s: float) -> None:
        """Ask for a greeting; return with its first word. Raises `UpstreamError`.

        It costs one call of the upstream's rate limit, after one for its models where they are
        not known.
        """
        try:
            async with asyncio.timeout(timeout_s):
                if not self._is_listed:
                    await self.list_models()
                await greet(self, timeout_s=timeout_s)
        except TimeoutError:
            raise TimedOut(f"no text came within {timeout_s:g} s") from None

    async def _ask(
        self, stack: AsyncExitStack, request: Request, model: str, prompt: str
    ) -> tuple[HttpStream, bool]:
        """Begin an answer; return it, and whether it will tell the usage.

        A service that does not know `stream_options` is asked again without, and remembered.
        """
        while True:
            awaits_usage = self._wants_usage
            body = request_body(self._url, request, model, awaits_usage=awaits_usage)
            call = self._call("/chat/completions", body, request.proxy, self._timeout_s)
            http = await stack.enter_async_context(call)
            refusal = await find_refusal(http)
            if refusal is None:
                return http, awaits_usage
            if not awaits_usage or not _is_about_usage(refusal):
                raise self._refused(http, refusal, model=model, prompt=prompt)
            self._wants_usage = False
            await stack.aclose()

    def _call(
        self, path: str, body: bytes | None, proxy: str | None, timeout_s: float
    ) -> HttpStream:
        headers = {
            "accept": "text/event-stream" if body else "application/json",
            "user-agent": "darkq",
            # llama.cpp promises to keep a connection, and closes it once it has streamed: the
            # next call over it would be lost.
            "connection": "close",
        }
        if body:
            headers["content-type"] = "application/json"
        if self._api_key:
            headers["authorization"] = f"Bearer {self._api_key}"
        return HttpStream(
            self._session,
            self._url + path,
            body=body,
            headers=headers,
            proxy=proxy or self._proxy,
            timeout_s=timeout_s,
            idle_timeout_s=self._idle_timeout_s,
            sends_trace=self._sends_trace,
        )

    def _refused(
        self, http: HttpStream, refusal: Refusal, *, model: str = "", prompt: str = ""
    ) -> UpstreamError:
        said = refusal_detail(refusal.body)
        if refusal.status == HTTPStatus.NOT_FOUND and model and "model" in said.detail.lower():
            return UnknownModel(model, [name for name in self.models if name != model])
        detail = quotable(hidden(said.detail, self._api_key), prompt)
        return http_error(
            refusal.status,
            is_html=refusal.is_html,
            detail=detail,
            retry_after_s=_asked_wait_s(http),
        )


async def _read_usage(http: HttpStream, answer: AnswerDecoder) -> None:
    """Read what follows the text, for a moment. The text is whole, whatever comes of this."""
    with suppress(UpstreamError, TimeoutError):
        async with asyncio.timeout(USAGE_TIMEOUT_S):
            while not answer.is_complete and (chunk := await http.read()):
                for _ in answer.feed(chunk):
                    pass
    if answer.is_complete:
        await http.finish()


def _asked_wait_s(http: HttpStream) -> float | None:
    """How long the service asks to stay away, in seconds."""
    wait_ms = parse_retry_after(http.header("retry-after-ms"), unit_s=0.001)
    return parse_retry_after(http.header("retry-after")) if wait_ms is None else wait_ms


def _is_about_usage(refusal: Refusal) -> bool:
    is_invalid = refusal.status in (HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY)
    return is_invalid and (b"stream_options" in refusal.body or b"include_usage" in refusal.body)
