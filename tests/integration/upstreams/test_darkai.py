"""DarkAI over real connections: what is asked, every way to fail, time, and letting go."""

from __future__ import annotations

import asyncio
import gzip
import logging
import re
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import aclosing
from email.utils import formatdate
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import uvloop

from darkq.protocol.prompt import Message
from darkq_worker.upstreams.base import (
    EmptyAnswer,
    End,
    Overloaded,
    ProtocolViolation,
    RateLimited,
    Rejected,
    Request,
    TimedOut,
    Truncated,
    UnknownModel,
    Unreachable,
    Upstream,
    UpstreamError,
)
from darkq_worker.upstreams.darkai import DarkAIUpstream
from support.blocking_http import BlockingServer
from support.darkai_frames import BEGIN, END, PING, chunk, error, final
from support.http_proxy import HttpProxy
from support.scripted_http import (
    NEXT_REQUEST,
    RESET,
    STALL,
    Repeat,
    ScriptedServer,
    Step,
    chunked,
    head,
)
from support.waiting import wait_until

PROMPT = "a very secret prompt about spring"
RECORDED = (Path(__file__).parents[2] / "data" / "darkai_stream.txt").read_bytes()
ANSWER = [BEGIN + chunk("Hello, ") + chunk("world") + END + final("Hello, world")]
CHUNKED = {"transfer_encoding": "chunked"}
HTML = {"content_type": "text/html; charset=UTF-8"}


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        yield session


async def ask(
    session: aiohttp.ClientSession,
    url: str,
    request: Request | None = None,
    pieces: list[str] | None = None,
    **options: Any,
) -> list[str]:
    """Read a whole answer; `pieces` keeps what came before an error."""
    pieces = [] if pieces is None else pieces
    upstream = DarkAIUpstream(session, url=url, **options)
    async with aclosing(upstream.stream(request or Request(prompt=PROMPT))) as items:
        async for item in items:
            if isinstance(item, End):
                assert [late async for late in items] == []
                return pieces
            assert isinstance(item, str)
            assert item
            pieces.append(item)
    raise AssertionError("a stream must not stop without an End")


# The request


async def test_request_has_the_expected_headers_and_body(session: aiohttp.ClientSession) -> None:
    async with ScriptedServer([head(), *ANSWER]) as server:
        await ask(session, server.url, Request(prompt="Привет 🌸", model="gpt-4o"))
    (request,) = server.requests
    assert (request.method, request.target) == ("POST", "/chat")
    assert request.json == {"query": "Привет 🌸", "model": "gpt-4o"}
    assert request.headers["accept"] == "text/event-stream"
    assert request.headers["content-type"] == "application/json"
    assert request.headers["accept-encoding"] == "identity"
    assert request.headers["user-agent"].startswith("Mozilla/5.0 ")


@pytest.mark.parametrize(
    ("model", "sent"),
    [
        (None, "llama-3-70b"),
        ("", "llama-3-70b"),
        ("llama-3-70b", "llama-3-70b"),
        ("llama-3.1-70b", "llama-3-70b"),
        ("gpt-3.5-turbo", "gpt-3.5-turbo"),
    ],
)
async def test_model_and_aliases_are_sent(
    session: aiohttp.ClientSession, model: str | None, sent: str
) -> None:
    messages = (Message("system", "Be brief."), Message("user", "Hello"))
    async with ScriptedServer([head(), *ANSWER]) as server:
        await ask(session, server.url, Request(prompt=messages, model=model))
    query = "System: Be brief.\nUser: Hello\nAssistant:"
    assert server.requests[0].json == {"query": query, "model": sent}


async def test_upstream_protocol(session: aiohttp.ClientSession) -> None:
    upstream: Upstream = DarkAIUpstream(session)
    assert upstream.name == "darkai"
    assert upstream.default_model == "llama-3-70b"
    assert list(upstream.models) == ["llama-3-70b", "gpt-4o", "gpt-3.5-turbo"]
    assert upstream.resolve_model("llama-3.1-70b") == "llama-3-70b"


@pytest.mark.parametrize(
    ("request_", "kind", "reason"),
    [
        (
            Request(prompt=PROMPT, model="gpt-5"),
            UnknownModel,
            "'gpt-5'; known: llama-3-70b, gpt-4o",
        ),
        (Request(prompt=()), Rejected, "no messages"),
        (Request(prompt="\ud83d"), Rejected, "surrogate"),
    ],
)
async def test_invalid_request_is_refused_before_sending(
    session: aiohttp.ClientSession, request_: Request, kind: type[UpstreamError], reason: str
) -> None:
    async with ScriptedServer([head(), *ANSWER]) as server:
        with pytest.raises(kind, match=reason) as caught:
            await ask(session, server.url, request_)
    assert not caught.value.retryable
    assert server.requests == []


# The answer


async def test_recorded_answer(session: aiohttp.ClientSession) -> None:
    async with ScriptedServer([head(), RECORDED]) as server:
        text = "".join(await ask(session, server.url))
    assert text.startswith("Весна идёт, весне дорогу! 🌸\n")


async def test_chunks_are_yielded_as_they_arrive(session: aiohttp.ClientSession) -> None:
    first, second = asyncio.Event(), asyncio.Event()
    script: list[Step] = [head(), chunk("a"), first, chunk("b"), second, END]
    async with (
        ScriptedServer(script) as server,
        aclosing(DarkAIUpstream(session, url=server.url).stream(Request(prompt=PROMPT))) as items,
    ):
        assert await anext(items) == "a"
        first.set()
        assert await anext(items) == "b"
        second.set()
        assert await anext(items) == End()


async def test_answer_in_single_bytes_is_decoded(session: aiohttp.ClientSession) -> None:
    body = chunked(*[bytes([byte]) for byte in ANSWER[0]]) + b"0\r\n\r\n"
    async with ScriptedServer([head(**CHUNKED), body]) as server:
        assert await ask(session, server.url) == ["Hello, ", "world"]


async def test_content_type_may_be_missing(session: aiohttp.ClientSession) -> None:
    async with ScriptedServer([head(content_type=""), *ANSWER]) as server:
        assert await ask(session, server.url) == ["Hello, ", "world"]


@pytest.mark.parametrize(
    "content_type", ["application/json", "application/x-ndjson", "text/plain", "text/html"]
)
async def test_events_are_read_under_any_content_type(
    session: aiohttp.ClientSession, content_type: str
) -> None:
    """Red where the answer is judged by its head: proxies write what they like there."""
    for before in (b"", b"\xef\xbb\xbf", b"\r\n\n", b": ping\n\n"):
        script = [head(content_type=content_type), before, *ANSWER]
        async with ScriptedServer(script) as server:
            assert await ask(session, server.url) == await answer_of(session)


async def answer_of(session: aiohttp.ClientSession) -> list[str]:
    async with ScriptedServer([head(), *ANSWER]) as server:
        return await ask(session, server.url)


@pytest.mark.parametrize("content_type", ["application/json", "text/event-stream"])
async def test_whole_answer_as_json_is_accepted(
    session: aiohttp.ClientSession, content_type: str
) -> None:
    data = b'{"event": "final-response", "data": {"message": "Hello"}}'
    async with ScriptedServer([head(content_type=content_type), data]) as server:
        assert await ask(session, server.url) == ["Hello"]


async def test_finished_answer_keeps_the_connection_for_the_next_call(
    session: aiohttp.ClientSession,
) -> None:
    script: list[Step] = [head(**CHUNKED), chunked(*ANSWER), b"0\r\n\r\n", NEXT_REQUEST]
    async with ScriptedServer(script) as server:
        for _ in range(3):
            assert await ask(session, server.url) == ["Hello, ", "world"]
        assert [request.connection for request in server.requests] == [1, 1, 1]


async def test_rest_of_an_answer_is_read_for_a_short_time(session: aiohttp.ClientSession) -> None:
    gate = asyncio.Event()
    first: list[Step] = [head(**CHUNKED), chunked(chunk("a") + END), gate, b"0\r\n\r\n"]
    async with ScriptedServer([*first, NEXT_REQUEST], first) as server:
        asyncio.get_running_loop().call_later(0.01, gate.set)
        for _ in range(2):
            assert await ask(session, server.url) == ["a"]
        assert [request.connection for request in server.requests] == [1, 1]


async def test_server_that_never_closes_does_not_delay_the_end(
    session: aiohttp.ClientSession,
) -> None:
    async with ScriptedServer([head(), chunk("a") + END, STALL]) as server:
        assert await ask(session, server.url) == ["a"]
        await asyncio.wait_for(server.client_gone.wait(), 5)


async def test_malformed_lines_are_logged_once_without_content(
    session: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    broken = b"data: {secret text\r\n\r\n"
    script = [head(), broken + chunk("a") + broken, chunk("b") + broken + END]
    with caplog.at_level(logging.DEBUG):
        async with ScriptedServer(script) as server:
            assert await ask(session, server.url) == ["a", "b"]
    records = [record for record in caplog.records if record.name.startswith("darkq")]
    assert [record.getMessage() for record in records] == [
        "malformed lines skipped upstream=darkai lines=3"
    ]
    assert "secret" not in caplog.text


# Failures: exact class, whether to retry, and when

Case = tuple[Sequence[Step], type[UpstreamError], float | None, int | None]

RATE_LIMIT = error("Rate limit exceeded, please try again after a short break.")
CAPACITY = error("Model is at capacity. Please try again later.")
VALIDATION = (
    b'{"detail":[{"type":"missing","loc":["body","query"],"msg":"Field required",'
    b'"input":{"query":"a very secret prompt about spring"}}]}'
)

JSON_RATE_LIMIT = b'{"detail": "Rate limit exceeded, please try again after a short break."}'
JSON = {"content_type": "application/json"}
TEXT = {"content_type": "text/plain; charset=utf-8"}
NO_EVENTS = (ProtocolViolation, None, 200)

FAILURES: dict[str, Case] = {
    "429 with an SSE body": ([head("429 Slow"), RATE_LIMIT], RateLimited, None, 429),
    "429 with seconds": ([head("429 Slow", retry_after="17"), RATE_LIMIT], RateLimited, 17.0, 429),
    "429 with too many seconds": (
        [head("429 Slow", retry_after="9999999")],
        RateLimited,
        6 * 3600.0,
        429,
    ),
    "429 with a past date": (
        [head("429 Slow", retry_after="Wed, 21 Oct 2015 07:28:00 GMT")],
        RateLimited,
        0.0,
        429,
    ),
    "429 with nonsense": ([head("429 Slow", retry_after="soon")], RateLimited, None, 429),
    "rate limit inside a 200": ([head(), RATE_LIMIT], RateLimited, None, 200),
    "rate limit inside a 200, with seconds": (
        [head(retry_after="9"), RATE_LIMIT],
        RateLimited,
        9.0,
        200,
    ),
    "at capacity": ([head(), BEGIN, chunk("a"), CAPACITY], Overloaded, None, 200),
    "at capacity, and then an end": (
        [head(), BEGIN + chunk("a") + CAPACITY + END + final("a")],
        Overloaded,
        None,
        200,
    ),
    "network error": (
        [head(), BEGIN + chunk("a"), error("Network Error. Please try again.")],
        UpstreamError,
        None,
        200,
    ),
    "an error that repeats the prompt": (
        [head(), BEGIN, error(f"Cannot answer {PROMPT!r}")],
        UpstreamError,
        None,
        200,
    ),
    "a refusal that repeats the prompt": (
        [head("400 Bad", "application/json"), b'{"detail":"no: %s"}' % PROMPT.encode()],
        Rejected,
        None,
        400,
    ),
    "EOF before an end": ([head(), BEGIN + chunk("a")], Truncated, None, 200),
    "EOF before anything": ([head()], Truncated, None, 200),
    "EOF inside an event": ([head(), chunk("a") + END[:-2]], Truncated, None, 200),
    "EOF inside an HTTP chunk": ([head(**CHUNKED), chunked(chunk("a"))], Truncated, None, 200),
    "EOF before the promised length": (
        [head(content_length="9999"), chunk("a")],
        Truncated,
        None,
        200,
    ),
    "reset inside the answer": ([head(), chunk("a"), RESET], Truncated, None, 200),
    "reset inside an HTTP chunk": (
        [head(**CHUNKED), chunked(chunk("a")), RESET],
        Truncated,
        None,
        200,
    ),
    "reset before an answer": ([RESET], Unreachable, None, None),
    "closed before an answer": ([], Unreachable, None, None),
    "closed inside the head": ([b"HTTP/1.1 200 OK\r\nContent-"], Unreachable, None, None),
    "empty success": ([head(), BEGIN + END + final("")], EmptyAnswer, None, 200),
    "empty success of a newer server": ([head(), BEGIN + final("") + END], EmptyAnswer, None, 200),
    "end and nothing else": ([head(), BEGIN + END], EmptyAnswer, None, 200),
    "422": (
        [head("422 Unprocessable Entity", "application/json"), VALIDATION],
        Rejected,
        None,
        422,
    ),
    "402": ([head("402 Payment Required", **HTML), b"<html>pay</html>"], Rejected, None, 402),
    "400": ([head("400 Bad", "application/json"), b'{"detail":"no"}'], Rejected, None, 400),
    "Cloudflare's 403": ([head("403 No", **HTML), b"<html>"], ProtocolViolation, None, 403),
    "Cloudflare's 502": ([head("502 Bad", **HTML), b"<html>"], Overloaded, None, 502),
    "Cloudflare's 520": ([head("520 Huh", **HTML), b"<html>"], Overloaded, None, 520),
    "503 with seconds": ([head("503 Busy", retry_after="5")], Overloaded, 5.0, 503),
    "HTML with a 200": ([head(**HTML), b"<html>" + ANSWER[0]], ProtocolViolation, None, 200),
    "a page under the type of events": ([head(), b"\n <html>" + ANSWER[0]], *NO_EVENTS),
    "JSON that is no error with a 200": ([head(**JSON), b'{"models": ["a"]}'], *NO_EVENTS),
    "JSON that breaks off with a 200": ([head(**JSON), b'{"detail": "Rate li'], *NO_EVENTS),
    "words that are no events": ([head(**TEXT), b"upstream connect error"], *NO_EVENTS),
    "a JSON error under the type of events": ([head(), JSON_RATE_LIMIT], RateLimited, None, 200),
    "a JSON error as plain text": ([head(**TEXT), JSON_RATE_LIMIT], RateLimited, None, 200),
    "a JSON error as JSON": ([head(**JSON), JSON_RATE_LIMIT], RateLimited, None, 200),
    "a JSON error in pieces": (
        [
            head(**CHUNKED),
            *(chunked(JSON_RATE_LIMIT[n : n + 1]) for n in range(40)),
            chunked(JSON_RATE_LIMIT[40:]),
        ],
        RateLimited,
        None,
        200,
    ),
    "a JSON error, and then an end": ([head(), JSON_RATE_LIMIT + END], RateLimited, None, 200),
    "a JSON error whose connection stays": (
        [head(**TEXT), JSON_RATE_LIMIT, STALL],
        RateLimited,
        None,
        200,
    ),
    "a JSON error with seconds": (
        [head(retry_after="9"), JSON_RATE_LIMIT],
        RateLimited,
        9.0,
        200,
    ),
    "a JSON error that names its wait": (
        [head(), b'{"error": {"message": "slow down", "code": 429, "retry_after": 7}}'],
        RateLimited,
        7.0,
        200,
    ),
    "a JSON error that no retry can help": (
        [head(), b'{"error": {"message": "No endpoints found", "code": 404}}'],
        Rejected,
        None,
        200,
    ),
    "a JSON error that repeats the prompt": (
        [head(**TEXT), b'{"detail": "cannot answer %s"}' % PROMPT.encode()],
        UpstreamError,
        None,
        200,
    ),
    "an error frame as JSON": (
        [head(**JSON), b'{"event": "error", "data": {"detail": "Model is at capacity."}}'],
        Overloaded,
        None,
        200,
    ),
    "an empty answer as JSON": (
        [head(**JSON), b'{"event": "final-response", "data": {"message": ""}}'],
        EmptyAnswer,
        None,
        200,
    ),
    "204": ([head("204 No Content")], ProtocolViolation, None, 204),
    "redirect": (
        [head("302 Found", location="http://127.0.0.1:1/elsewhere")],
        ProtocolViolation,
        None,
        302,
    ),
    "compressed": (
        [head(content_encoding="gzip"), gzip.compress(ANSWER[0])],
        ProtocolViolation,
        None,
        200,
    ),
    "no HTTP": ([b"220 smtp.example ESMTP\r\n\r\n"], ProtocolViolation, None, None),
    "no HTTP chunks": ([head(**CHUNKED) + b"zz\r\n" + ANSWER[0]], ProtocolViolation, None, None),
    "a line past the bound": ([head(), chunk("a" * 5000)], ProtocolViolation, None, 200),
    "a line past the bound, without end": (
        [head(), Repeat(b"data: " + b"a" * 1000, 0.001)],
        ProtocolViolation,
        None,
        200,
    ),
}


@pytest.mark.parametrize("name", FAILURES)
async def test_failed_answers_raise_their_error_class(
    session: aiohttp.ClientSession, name: str
) -> None:
    script, kind, retry_after_s, status = FAILURES[name]
    async with ScriptedServer(script) as server:
        with pytest.raises(UpstreamError) as caught:
            await ask(session, server.url, max_line_bytes=4000)
    error = caught.value
    assert type(error) is kind
    assert error.retryable is (kind is not Rejected)
    assert error.retry_after_s == retry_after_s
    assert error.status == status
    assert len(server.requests) == 1
    assert error.message
    assert len(error.message) < 300
    for private in (PROMPT, "html>", "127.0.0.1", "elsewhere"):
        assert private not in error.message


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("429 with an SSE body", "HTTP 429 Too Many Requests: Rate limit exceeded, please"),
        ("a JSON error as plain text", "the upstream reports: Rate limit exceeded, please"),
        ("a JSON error that no retry can help", "the upstream reports: No endpoints found"),
        ("a page under the type of events", "HTTP 200, but an HTML page instead of events"),
        ("words that are no events", "HTTP 200, but something else instead of events"),
        ("at capacity", "the upstream reports: Model is at capacity. Please try again later."),
        ("422", "HTTP 422 .*: ['body', 'query']: Field required"),
        ("Cloudflare's 520", "HTTP 520, with an HTML page"),
        ("redirect", "HTTP 302 Found, a redirect, which is not followed"),
    ],
)
async def test_failure_message_has_the_reason(
    session: aiohttp.ClientSession, name: str, reason: str
) -> None:
    async with ScriptedServer(FAILURES[name][0]) as server:
        pattern = re.escape(reason).replace(r"\.\*", ".*")
        with pytest.raises(UpstreamError, match=pattern):
            await ask(session, server.url)


async def test_text_before_an_error_is_yielded(session: aiohttp.ClientSession) -> None:
    pieces: list[str] = []
    async with ScriptedServer([head(), BEGIN + chunk("a") + chunk("b") + CAPACITY]) as server:
        with pytest.raises(Overloaded):
            await ask(session, server.url, pieces=pieces)
    assert pieces == ["a", "b"]


async def test_retry_after_as_a_date(session: aiohttp.ClientSession) -> None:
    date = formatdate(time.time() + 100, usegmt=True)
    async with ScriptedServer([head("429 Slow", retry_after=date)]) as server:
        with pytest.raises(RateLimited) as caught:
            await ask(session, server.url)
    assert caught.value.retry_after_s is not None
    assert 90 < caught.value.retry_after_s <= 100


async def test_redirect_is_not_followed(session: aiohttp.ClientSession) -> None:
    async with ScriptedServer([head(), *ANSWER]) as elsewhere:
        for status in ("301 Moved", "307 Temporary", "308 Permanent"):
            async with ScriptedServer([head(status, location=elsewhere.url)]) as server:
                with pytest.raises(ProtocolViolation):
                    await ask(session, server.url)
        assert elsewhere.requests == []


async def test_endless_error_body_is_read_in_part(session: aiohttp.ClientSession) -> None:
    script: list[Step] = [head("500 Oops"), Repeat(b"x" * 10_000, 0.001)]
    async with ScriptedServer(script) as server:
        with pytest.raises(Overloaded):
            await asyncio.wait_for(ask(session, server.url), 4)
        await asyncio.wait_for(server.client_gone.wait(), 5)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://127.0.0.1:1/chat", "connection refused"),
        ("http://nowhere.invalid/chat", "host name is not known"),
    ],
)
async def test_connection_errors_are_unreachable_with_a_reason(
    session: aiohttp.ClientSession, url: str, reason: str
) -> None:
    with pytest.raises(Unreachable, match=reason) as caught:
        await ask(session, url)
    assert caught.value.retryable
    assert caught.value.retry_after_s is None
    assert "127.0.0.1" not in caught.value.message


async def test_server_without_tls_is_unreachable(session: aiohttp.ClientSession) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 This is a plain port\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(Unreachable, match="no connection: TLS failed"):
            await ask(session, f"https://127.0.0.1:{port}/chat")


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/chat", "http://[::1/chat"])
async def test_invalid_url_is_rejected(session: aiohttp.ClientSession, url: str) -> None:
    with pytest.raises(Rejected, match="URL"):
        await ask(session, url)


# Time


@pytest.mark.parametrize(
    "script",
    [
        [STALL],
        [head(), STALL],
        [head(), BEGIN + chunk("a"), STALL],
        [head(), BEGIN, Repeat(PING, 0.02)],
        [head(), BEGIN + END, Repeat(PING, 0.02)],
    ],
    ids=["no head", "no body", "after a chunk", "only pings", "pings after an empty end"],
)
async def test_silence_ends_in_the_idle_timeout(
    session: aiohttp.ClientSession, script: Sequence[Step]
) -> None:
    async with ScriptedServer(script) as server:
        with pytest.raises(TimedOut, match=r"nothing came for 0\.2 s") as caught:
            await asyncio.wait_for(ask(session, server.url, idle_timeout_s=0.2), 5)
        assert caught.value.retryable
        await asyncio.wait_for(server.client_gone.wait(), 5)


async def test_idle_timeout_ends_a_wait_without_an_aiohttp_timeout(
    session: aiohttp.ClientSession,
) -> None:
    """A broken HTTP chunk makes aiohttp close the connection, but it wakes no reader."""
    gate = asyncio.Event()
    script: list[Step] = [head(**CHUNKED), chunked(chunk("a")), gate, b"zz\r\n", STALL]
    async with ScriptedServer(script) as server:
        upstream = DarkAIUpstream(session, url=server.url, idle_timeout_s=0.2)
        async with aclosing(upstream.stream(Request(prompt=PROMPT))) as items:
            assert await anext(items) == "a"
            gate.set()
            with pytest.raises(TimedOut):
                await asyncio.wait_for(anext(items), 5)


async def test_total_timeout_ends_an_active_answer(session: aiohttp.ClientSession) -> None:
    async with ScriptedServer([head(), Repeat(chunk("a"), 0.02)]) as server:
        pieces: list[str] = []
        with pytest.raises(TimedOut, match=r"not complete within 0\.4 s"):
            await ask(session, server.url, pieces=pieces, timeout_s=0.4, idle_timeout_s=0.3)
        assert len(pieces) > 2
        await asyncio.wait_for(server.client_gone.wait(), 5)


async def test_total_timeout_applies_before_the_response_headers(
    session: aiohttp.ClientSession,
) -> None:
    """Red if the deadline does not hold, or leaves the task marked as cancelled."""
    async with ScriptedServer([STALL]) as server:
        with pytest.raises(TimedOut, match=r"not complete within 0\.2 s"):
            await ask(session, server.url, timeout_s=0.2)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_frames_of_any_type_restart_the_idle_clock(session: aiohttp.ClientSession) -> None:
    script: list[Step] = [head(), Repeat(BEGIN, 0.05, times=10), *ANSWER]
    async with ScriptedServer(script) as server:
        assert await ask(session, server.url, idle_timeout_s=0.3) == ["Hello, ", "world"]


async def test_time_of_a_slow_reader_is_not_idle_time(session: aiohttp.ClientSession) -> None:
    gate = asyncio.Event()
    async with ScriptedServer([head(), chunk("a"), gate, chunk("b") + END]) as server:
        upstream = DarkAIUpstream(session, url=server.url, idle_timeout_s=0.1)
        async with aclosing(upstream.stream(Request(prompt=PROMPT))) as items:
            assert await anext(items) == "a"
            await asyncio.sleep(0.3)
            gate.set()
            assert [item async for item in items] == ["b", End()]


# Letting go


Runner = Callable[[Coroutine[Any, Any, None]], None]
RUNNERS = pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
PARTIAL = head() + BEGIN + chunk("a")


@RUNNERS
def test_cancelling_the_reader_closes_the_connection_before_it_returns(run: Runner) -> None:
    server = BlockingServer(PARTIAL)
    server.start()

    async def main() -> None:
        async with aiohttp.ClientSession() as session:
            pieces: list[str] = []
            task = asyncio.create_task(ask(session, server.url, pieces=pieces))
            await wait_until("text", lambda: pieces)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert server.client_gone.wait(5)  # blocks the loop: what is not closed stays open

    run(main())
    server.join(5)


@RUNNERS
def test_cancelling_before_the_response_headers_closes_the_connection(run: Runner) -> None:
    server = BlockingServer(b"")
    server.start()

    async def main() -> None:
        async with aiohttp.ClientSession() as session:
            task = asyncio.create_task(ask(session, server.url))
            await wait_until("the request", server.has_request.is_set)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert server.client_gone.wait(5)

    run(main())
    server.join(5)


@RUNNERS
def test_closing_the_iterator_closes_the_connection_before_it_returns(run: Runner) -> None:
    server = BlockingServer(PARTIAL)
    server.start()

    async def main() -> None:
        async with aiohttp.ClientSession() as session:
            items = DarkAIUpstream(session, url=server.url).stream(Request(prompt=PROMPT))
            assert await anext(items) == "a"
            await items.aclose()
            assert server.client_gone.wait(5)

    run(main())
    server.join(5)


@pytest.mark.parametrize(
    "script",
    [[head("403 No", **HTML), STALL], [head(**HTML), b"<", STALL], [head(), b"<", STALL]],
)
async def test_refusal_closes_the_connection(
    session: aiohttp.ClientSession, script: list[Step]
) -> None:
    async with ScriptedServer(script) as server:
        with pytest.raises(ProtocolViolation):
            await ask(session, server.url)
        await asyncio.wait_for(server.client_gone.wait(), 5)


# Proxies


async def test_proxy_of_the_deployment_is_used(session: aiohttp.ClientSession) -> None:
    async with ScriptedServer([head(), *ANSWER]) as server, HttpProxy("user:pass") as proxy:
        assert await ask(session, server.url, proxy=proxy.url) == ["Hello, ", "world"]
        assert proxy.targets == [server.url]


async def test_proxy_of_a_request_has_precedence(session: aiohttp.ClientSession) -> None:
    async with ScriptedServer([head(), *ANSWER]) as server, HttpProxy() as proxy:
        request = Request(prompt=PROMPT, proxy=proxy.url)
        assert await ask(session, server.url, request, proxy="http://127.0.0.1:1")
        assert proxy.targets == [server.url]


@pytest.mark.parametrize("url", ["http://nowhere.invalid/chat", "https://nowhere.invalid/chat"])
async def test_refusing_proxy_fails_the_call(session: aiohttp.ClientSession, url: str) -> None:
    async with HttpProxy("user:right") as proxy:
        wrong = proxy.url.replace("right", "wrong")
        with pytest.raises(Rejected, match="HTTP 407") as caught:
            await ask(session, url, proxy=wrong)
    assert caught.value.status == 407
    assert "wrong" not in str(caught.value)


async def test_missing_proxy_is_unreachable(session: aiohttp.ClientSession) -> None:
    with pytest.raises(Unreachable, match="to the proxy: connection refused") as caught:
        await ask(session, "http://nowhere.invalid/", proxy="http://user:secret@127.0.0.1:1")
    assert "secret" not in str(caught.value)


# The probe


async def test_probe_returns_with_the_first_text(session: aiohttp.ClientSession) -> None:
    async with ScriptedServer([head(), BEGIN + chunk("H"), STALL]) as server:
        await DarkAIUpstream(session, url=server.url).probe(timeout_s=5)
        await asyncio.wait_for(server.client_gone.wait(), 5)
        assert server.requests[0].json == {"query": "Hi", "model": "llama-3-70b"}


@pytest.mark.parametrize(
    ("script", "kind"),
    [
        ([head(), BEGIN, STALL], TimedOut),
        ([head("502 Bad")], Overloaded),
        ([head(), BEGIN + END + final("")], EmptyAnswer),
    ],
)
async def test_failed_probe_raises_its_error(
    session: aiohttp.ClientSession, script: Sequence[Step], kind: type[UpstreamError]
) -> None:
    async with ScriptedServer(script) as server:
        with pytest.raises(UpstreamError) as caught:
            await DarkAIUpstream(session, url=server.url).probe(timeout_s=0.3)
    assert type(caught.value) is kind
