"""DarkAI: one POST, one stream of events. `darkai_wire` decodes it, `http` transports it.

A call may take `timeout_s` in total, and fails after `idle_timeout_s` without an event. Comments
are not events: the server sends one every 15 s, whatever its model does. That proves a live
connection, but a hanging model would keep the slot of a worker for the whole `timeout_s`.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Mapping
from types import MappingProxyType
from typing import Final

import aiohttp
import msgspec

from darkq.telemetry.logging import LogEvent
from darkq_worker.upstreams.base import (
    End,
    Rejected,
    Request,
    UnknownModel,
    check_request,
    format_prompt,
    greet,
)
from darkq_worker.upstreams.darkai_wire import MAX_LINE_BYTES, AnswerDecoder, error_detail
from darkq_worker.upstreams.http import HttpStream, find_refusal, prepare_headers
from darkq_worker.upstreams.http_errors import http_error, parse_retry_after, quotable

DEFAULT_URL: Final = "https://darkai.foundation/chat"
DEFAULT_MODEL: Final = "llama-3-70b"
MODELS: Final = (DEFAULT_MODEL, "gpt-4o", "gpt-3.5-turbo")
MODEL_ALIASES: Final[Mapping[str, str]] = MappingProxyType({"llama-3.1-70b": "llama-3-70b"})

_HEADERS: Final = prepare_headers(
    {
        "accept": "text/event-stream",
        "content-type": "application/json",
        "user-agent": "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
    }
)
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
        self._session = session
        self._url = url
        self._proxy = proxy
        self._timeout_s = timeout_s
        self._idle_timeout_s = idle_timeout_s
        self._max_line_bytes = max_line_bytes
        self._sends_trace = sends_trace

    def resolve_model(self, model: str | None) -> str:
        """Return the canonical name of a model, an alias or None. Raises `UnknownModel`."""
        return resolve_model(model)

    async def stream(self, request: Request) -> AsyncGenerator[str | End, None]:
        """Yield the answer's text as it arrives, then one `End`. See `Upstream.stream`."""
        check_request(self, request)
        prompt = format_prompt(request.prompt)
        async with self._post(prompt, request) as http:
            retry_after_s = parse_retry_after(http.header("retry-after"))
            await _check(http, prompt, retry_after_s)
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

    def _post(self, prompt: str, request: Request) -> HttpStream:
        fields = {"query": prompt, "model": resolve_model(request.model)}
        try:
            body = msgspec.json.encode(fields)
        except UnicodeEncodeError:
            raise Rejected("the prompt has a lone surrogate, which is not valid in UTF-8") from None
        return HttpStream(
            self._session,
            self._url,
            body=body,
            headers=_HEADERS,
            proxy=request.proxy or self._proxy,
            timeout_s=self._timeout_s,
            idle_timeout_s=self._idle_timeout_s,
            idle_setting="DARKQ_DARKAI_IDLE_TIMEOUT_S",
            sends_trace=self._sends_trace,
        )


async def _check(http: HttpStream, prompt: str, retry_after_s: float | None) -> None:
    """Raise `UpstreamError` unless it is an uncompressed 200. `AnswerDecoder` checks the rest."""
    refusal = await find_refusal(http)
    if refusal is not None:
        detail = quotable(error_detail(refusal.body), prompt)
        raise http_error(
            refusal.status, is_html=refusal.is_html, detail=detail, retry_after_s=retry_after_s
        )
