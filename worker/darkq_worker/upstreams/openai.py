"""Upstreams with OpenAI's API. `openai_wire` decodes the answers, `http` transports them.

The models are the configured ones, or those that the service lists: `list_models` requests them,
and before its response, `resolve_model` raises `NotReady`. A service may accept models that it does
not list. So a job for this service only may name an unlisted model, unless models are
configured.

Services differ in the fields that they accept. If one refuses `stream_options`, a field without any
effect on the answer, or the name of the token limit, the call is repeated without it or with the
other name. What succeeded is remembered for the model.

A call may take `timeout_s` in total, and `idle_timeout_s` without data.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from types import MappingProxyType

import aiohttp

from darkq.protocol.options import OPTIONS
from darkq.redis.backoff import backoff_s
from darkq.telemetry.logging import LogEvent, describe_error
from darkq_worker.pieces import AnyPiece
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
from darkq_worker.upstreams.http import (
    CallConnector,
    HttpService,
    HttpStream,
    Refusal,
    find_refusal,
)
from darkq_worker.upstreams.http_errors import http_error, parse_retry_after, quotable
from darkq_worker.upstreams.openai_errors import hide_secret, refusal_detail
from darkq_worker.upstreams.openai_models import default_model, find_listed, parse_models
from darkq_worker.upstreams.openai_request import build_body, find_refused, join_prompt
from darkq_worker.upstreams.openai_wire import MAX_LINE_BYTES, AnswerDecoder

USAGE_TIMEOUT_S = 2.0
LIST_TIMEOUT_S = 15.0
MAX_LIST_BYTES = 4 << 20
MAX_REMEMBERED = 1000
REFRESH_S = 300.0
_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 60.0
_log = logging.getLogger(__name__)
_worker_log = logging.getLogger("darkq.worker")


class OpenAIUpstream:
    """The `Upstream` for an OpenAI-compatible service.

    `url` is the base, like `http://127.0.0.1:11434/v1`. The first of `models` is the default;
    without any, the service lists them. The caller keeps `session`, made by `make_session`: any
    other one keeps no connections.
    """

    kind = "openai"
    options = OPTIONS
    takes_chat_requests = True

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
        keeps_connections: bool = True,
        sends_trace: bool = False,
    ) -> None:
        self.name = name
        self.models = tuple(models)
        self.lists_models = not models
        self._url = url.rstrip("/")
        self._api_key = api_key or ""
        self._aliases = aliases
        self._max_line_bytes = max_line_bytes
        self._variable = f"DARKQ_UPSTREAMS__{name.upper()}"
        service = self._service = HttpService(
            session=session,
            proxy=proxy,
            timeout_s=timeout_s,
            idle_timeout_s=idle_timeout_s,
            idle_setting=f"{self._variable}__IDLE_TIMEOUT_S",
            # llama.cpp announces to keep a connection, and closes it after each stream: only our
            # connector detects a stale one.
            keeps_connections=keeps_connections and isinstance(session.connector, CallConnector),
            sends_trace=sends_trace,
        )
        key = {"authorization": f"Bearer {self._api_key}"} if self._api_key else {}
        common = {"user-agent": "darkq", **key}
        self._list_headers = service.prepare_headers({"accept": "application/json", **common})
        self._chat_headers = service.prepare_headers(
            {"accept": "text/event-stream", "content-type": "application/json", **common}
        )
        self._is_listed = bool(models)
        self._no_list: UpstreamError | None = None
        self._refused: dict[str, frozenset[str]] = {}  # by model: fields that it does not accept
        self._unknown_reasons: set[str] = set()  # each is logged once

    @property
    def default_model(self) -> str:
        """The first configured model, or the first listed chat model."""
        return default_model(self.models) if self.lists_models else self.models[0]

    def knows(self, model: str) -> bool:
        """Return True if a name is exactly one of `models` or an alias."""
        return model in self.models or model in self._aliases

    def resolve_model(self, model: str | None) -> str:
        """Return the canonical name of a model, an alias or None; see `find_listed`.

        Raises `UnknownModel`, `NotReady` while the service is unavailable, `Rejected` if it lists
        no models, and `ProtocolViolation` if its list cannot be read.
        """
        if not self._is_listed:
            raise self._unlisted()
        name = self._aliases.get(model, model) if model else self.default_model
        if not name:
            remedy = f"name one in {self._variable}__MODELS"
            raise Rejected(f"{self.name} lists no model for chats: {remedy}")
        if name in self.models:
            return name
        if self.lists_models and (found := find_listed(name, self.models)) is not None:
            return found
        raise UnknownModel(name, self.models)

    def resolve_unlisted(self, model: str | None) -> str:
        """Resolve a model; return an unlisted name unchanged, unless models are configured."""
        try:
            return self.resolve_model(model)
        except (Rejected, ProtocolViolation):
            if model and self.lists_models:
                return model
            raise

    def _unlisted(self) -> UpstreamError:
        """Return why the models are not known. A list that cannot be read is not an outage."""
        error, remedy = self._no_list, f"name them in {self._variable}__MODELS"
        if isinstance(error, ProtocolViolation) and error.status is not None:
            return ProtocolViolation(
                f"{self.name} lists its models unreadably: {error.message}; {remedy}",
                status=error.status,
            )
        if error is None or error.retryable:
            return NotReady(f"the models of {self.name} are not known yet")
        return Rejected(f"{self.name} does not list its models: {error.message}; {remedy}")

    async def list_models(self) -> None:
        """Request the list of models. Raises `UpstreamError`, and keeps the known ones then."""
        try:
            async with HttpStream(
                self._service,
                f"{self._url}/models",
                body=None,
                headers=self._list_headers,
                timeout_s=LIST_TIMEOUT_S,
            ) as http:
                if refusal := await find_refusal(http):
                    raise self._refused_call(http, refusal)
                body = b""
                while chunk := await http.read():
                    body += chunk
                    if len(body) > MAX_LIST_BYTES:
                        raise ProtocolViolation("the list of models is too long", status=200)
                models = parse_models(body)
        except UpstreamError as error:
            self._no_list = error
            raise
        self.models = tuple(models)
        self._is_listed = True

    async def stream(self, request: Request) -> AsyncGenerator[AnyPiece | End, None]:
        """Yield the answer's pieces as they arrive, then one `End`. See `Upstream.stream`."""
        model = self.resolve_unlisted(request.model)
        prompt = join_prompt(request.prompt)
        http = await self._ask(request, model, prompt)
        try:
            answer = AnswerDecoder(
                prompt=prompt,
                secret=self._api_key,
                model=model,
                models=self.models,
                retry_after_s=_asked_wait_s(http),
                max_line_bytes=self._max_line_bytes,
            )
            rest_ends_at: float | None = None
            while not answer.is_complete:
                if not answer.has_ended:
                    rest_ends_at = None
                    chunk = await http.read()
                else:  # usage may follow, or text, if the stop was not the end
                    rest_ends_at = rest_ends_at or http.time() + USAGE_TIMEOUT_S
                    if (rest := await _read_rest(http, rest_ends_at)) is None:
                        break
                    chunk = rest
                for piece in answer.feed(chunk) if chunk else answer.feed_eof():
                    yield piece
                if answer.got_frame:
                    http.restart_idle_clock()
            if answer.is_complete:
                await http.finish()
        finally:
            await http.aclose()
        if (reason := answer.unknown_reason) and reason not in self._unknown_reasons:
            if len(self._unknown_reasons) < MAX_REMEMBERED:
                self._unknown_reasons.add(reason)
            _log.warning(LogEvent("unknown finish reason", upstream=self.name, reason=reason))
        yield answer.end

    async def probe(self, *, timeout_s: float) -> None:
        """Call with a greeting; return when text arrives. Raises `UpstreamError`.

        Costs one call of the upstream's rate limit, and before that one for its models if they are
        not known.
        """
        try:
            async with asyncio.timeout(timeout_s):
                if not self._is_listed:
                    await self.list_models()
                await greet(self, timeout_s=timeout_s)
        except TimeoutError:
            raise TimedOut(f"no text came within {timeout_s:g} s") from None

    async def _ask(self, request: Request, model: str, prompt: str) -> HttpStream:
        """Start an answer. If the service refuses an optional field, call again without it."""
        known = refused = self._refused.get(model, frozenset())
        while True:
            body = build_body(self._url, request, model, refused=refused)
            http = HttpStream(
                self._service,
                f"{self._url}/chat/completions",
                body=body,
                headers=self._chat_headers,
                proxy=request.proxy,
            )
            await http.open()
            async with AsyncExitStack() as stack:
                stack.push_async_callback(http.aclose)
                refusal = await find_refusal(http)
                if refusal is None:
                    stack.pop_all()  # the caller closes it
                    break
                more = find_refused(refusal.status, refusal.body, body, refused)
                if more is None:
                    raise self._refused_call(http, refusal, model=model, prompt=prompt)
            refused |= {more}
        if refused != known:
            if len(self._refused) >= MAX_REMEMBERED:
                self._refused.clear()
            self._refused[model] = refused
        return http

    def _refused_call(
        self, http: HttpStream, refusal: Refusal, *, model: str = "", prompt: str = ""
    ) -> UpstreamError:
        said = refusal_detail(refusal.body)
        detail = quotable(hide_secret(said.detail, self._api_key), prompt)
        if model and said.is_about_model(refusal.status):
            known = [name for name in self.models if name != model]
            return UnknownModel(model, known, said=detail)
        asked_s = _asked_wait_s(http)
        return http_error(
            refusal.status,
            is_html=refusal.is_html,
            detail=detail,
            retry_after_s=said.wait_s if asked_s is None else asked_s,
        )


async def refresh_models(upstreams: Iterable[object]) -> None:
    """Keep the model lists of those upstreams up to date that have none configured.

    Runs until cancelled.
    """
    async with asyncio.TaskGroup() as tasks:
        for upstream in upstreams:
            if isinstance(upstream, OpenAIUpstream) and upstream.lists_models:
                tasks.create_task(_refresh(upstream), name=f"darkq-models-{upstream.name}")


async def _refresh(upstream: OpenAIUpstream) -> None:
    name, failures = upstream.name, 0
    while True:
        known = upstream.models
        try:
            await upstream.list_models()
        except Exception as error:  # no response of a service may end the worker
            reason = {"exception": describe_error(error)}
            if isinstance(error, UpstreamError):
                reason = {"code": error.code, "reason": error.message}
            _worker_log.warning(LogEvent("model list failed", upstream=name, **reason))
            pause_s = backoff_s(failures, first_s=_FIRST_PAUSE_S, most_s=_LONGEST_PAUSE_S)
            await asyncio.sleep(pause_s)
            failures += 1
            continue
        if upstream.models != known:
            found = {"models": len(upstream.models), "default": upstream.default_model or "none"}
            _worker_log.info(LogEvent("model list updated", upstream=name, **found))
        failures = 0
        await asyncio.sleep(REFRESH_S)


async def _read_rest(http: HttpStream, ends_at: float) -> bytes | None:
    """Return data after a complete text; None if nothing arrives in time."""
    try:
        async with asyncio.timeout_at(ends_at):
            return await http.read()
    except (UpstreamError, TimeoutError):
        return None


def _asked_wait_s(http: HttpStream) -> float | None:
    in_ms = parse_retry_after(http.header("retry-after-ms"), unit_s=0.001)
    return parse_retry_after(http.header("retry-after")) if in_ms is None else in_ms
