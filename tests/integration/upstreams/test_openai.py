"""OpenAI's wire over real connections: what is asked, every way to fail, time, and letting go."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

import aiohttp
import pytest

from darkq.event import Usage
from darkq.protocol.options import OPTIONS, Options, check_options
from darkq_worker.upstreams.base import (
    EmptyAnswer,
    End,
    NotReady,
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
from darkq_worker.upstreams.openai import OpenAIUpstream
from support.http_proxy import HttpProxy
from support.openai_frames import DONE, delta, error, finish, usage
from support.scripted_http import (
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
KEY = "sk-very-secret-key"
BODY = delta(None) + delta("Hello, ") + delta("world") + finish() + usage(3, 2) + DONE
CHUNKED = {"transfer_encoding": "chunked"}
HTML = {"content_type": "text/html; charset=UTF-8"}
JSON = {"content_type": "application/json"}


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        yield session


def make(session: aiohttp.ClientSession, server: ScriptedServer, **options: Any) -> OpenAIUpstream:
    url = server.url.replace("/chat", "/v1/")
    defaults: dict[str, Any] = {"name": "other", "api_key": KEY, "models": ["m", "n"]}
    return OpenAIUpstream(session, url=url, **{**defaults, **options})


async def ask(upstream: Upstream, **wishes: Any) -> tuple[str, End]:
    """Read a whole answer."""
    text = ""
    async with aclosing(upstream.stream(Request(**{"prompt": PROMPT, **wishes}))) as items:
        async for item in items:
            if isinstance(item, End):
                assert [late async for late in items] == []
                return text, item
            assert isinstance(item, str)
            assert item
            text += item
    raise AssertionError("a stream must not stop without an End")


# The request


async def test_request_has_the_expected_headers_and_body(session: aiohttp.ClientSession) -> None:
    async with ScriptedServer([head(), BODY]) as server:
        upstream = make(session, server, aliases={"small": "n"})
        text, end = await ask(upstream, model="small", options=Options(temperature=0.5))
    assert text == "Hello, world"
    assert end == End(usage=Usage(prompt_tokens=3, completion_tokens=2))
    (request,) = server.requests
    assert (request.method, request.target) == ("POST", "/v1/chat/completions")
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.headers["accept-encoding"] == "identity"
    assert request.headers["connection"] == "close", "this session could not tell a dead one"
    assert request.json["model"] == "n"
    assert request.json["temperature"] == 0.5
    assert request.json["stream_options"] == {"include_usage": True}


async def test_without_a_key_there_is_no_authorization(session: aiohttp.ClientSession) -> None:
    async with ScriptedServer([head(), BODY]) as server:
        await ask(make(session, server, api_key=None))
    assert "authorization" not in server.requests[0].headers


async def test_upstream_protocol(session: aiohttp.ClientSession) -> None:
    upstream: Upstream = OpenAIUpstream(session, name="x", url="http://h/v1", models=["m"])
    assert (upstream.name, upstream.kind, upstream.default_model) == ("x", "openai", "m")
    assert upstream.options == OPTIONS
    with pytest.raises(UnknownModel, match="unknown model 'z'; known: m"):
        upstream.resolve_model("z")
    with pytest.raises(UnknownModel):
        upstream.resolve_model("m:latest")


async def test_service_without_stream_options_is_called_without_them(
    session: aiohttp.ClientSession,
) -> None:
    refusal = b'{"error": {"message": "Unknown parameter: \'stream_options\'"}}'
    refused: list[Step] = [head("400 Bad", **JSON), refusal]
    answer = delta("a") + finish()
    async with ScriptedServer(refused, [head(), answer]) as server:
        upstream = make(session, server)
        for _ in range(2):
            assert await ask(upstream) == ("a", End())
    asked = ["stream_options" in request.json for request in server.requests]
    assert asked == [True, False, False], "it is remembered"


async def test_refused_fields_are_remembered_per_model(session: aiohttp.ClientSession) -> None:
    """Red where one model that refuses `stream_options` ends usage for all of a router."""
    refusal = b'{"detail": [{"loc": ["body", "stream_options"], "msg": "Extra inputs"}]}'
    refused: list[Step] = [head("422 Bad", **JSON), refusal]
    async with ScriptedServer([head(), BODY], refused, [head(), BODY]) as server:
        upstream = make(session, server)
        for model in ("m", "n", "m", "n"):
            await ask(upstream, model=model)
    asked = [(each.json["model"], "stream_options" in each.json) for each in server.requests]
    assert asked == [("m", True), ("n", True), ("n", False), ("m", True), ("n", False)]


@pytest.mark.parametrize(
    ("given", "words", "taken"),
    [
        (
            "max_tokens",
            "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.",
            "max_completion_tokens",
        ),
        (
            "max_completion_tokens",
            "Unrecognized request argument supplied: max_completion_tokens",
            "max_tokens",
        ),
    ],
)
async def test_token_limit_is_sent_under_the_accepted_name(
    session: aiohttp.ClientSession, given: str, words: str, taken: str
) -> None:
    refused: list[Step] = [head("400 Bad", **JSON), said(words)]
    async with ScriptedServer(refused, [head(), BODY]) as server:
        upstream = make(session, server)
        for _ in range(2):
            await ask(upstream, options=check_options({given: 7}))
    words_sent = [
        {name: value for name, value in each.json.items() if name.startswith("max_")}
        for each in server.requests
    ]
    assert words_sent == [{given: 7}, {taken: 7}, {taken: 7}], "it is remembered"


async def test_refusal_of_both_token_limit_names_fails_after_two_calls(
    session: aiohttp.ClientSession,
) -> None:
    words = "'max_tokens' or 'max_completion_tokens' is too large"
    async with ScriptedServer([head("400 Bad", **JSON), said(words)]) as server:
        with pytest.raises(Rejected, match="too large"):
            await ask(make(session, server), options=Options(max_tokens=7))
    assert len(server.requests) == 2


async def test_other_400_is_not_repeated(session: aiohttp.ClientSession) -> None:
    refusal = b'{"error": {"message": "stream_options and all else are bad"}}'
    async with ScriptedServer([head("400 Bad", **JSON), refusal]) as server:
        with pytest.raises(Rejected):
            await ask(make(session, server))
    assert len(server.requests) == 2


async def test_upstream_refuses_unsupported_options(
    session: aiohttp.ClientSession,
) -> None:
    async with ScriptedServer([head(), BODY]) as server:
        darkai = DarkAIUpstream(session, url=server.url)
        with pytest.raises(Rejected, match="cannot honour the option seed; it honours: none"):
            await ask(darkai, options=Options(seed=1))
    assert server.requests == []


# The answer


async def test_chunks_are_yielded_as_they_arrive(session: aiohttp.ClientSession) -> None:
    first, second = asyncio.Event(), asyncio.Event()
    script: list[Step] = [head(), delta("a"), first, delta("b"), second, finish() + DONE]
    async with (
        ScriptedServer(script) as server,
        aclosing(make(session, server).stream(Request(prompt=PROMPT))) as items,
    ):
        assert await anext(items) == "a"
        first.set()
        assert await anext(items) == "b"
        second.set()
        assert await anext(items) == End()


async def test_answer_in_single_bytes_is_decoded(session: aiohttp.ClientSession) -> None:
    body = chunked(*[bytes([byte]) for byte in BODY]) + b"0\r\n\r\n"
    async with ScriptedServer([head(**CHUNKED), body]) as server:
        assert (await ask(make(session, server)))[0] == "Hello, world"


@pytest.mark.parametrize(
    "rest", [[RESET], [STALL], [Repeat(b": ping\n\n", 0.02)], [b"data: " + b"a" * 9000, STALL]]
)
async def test_data_after_a_complete_text_does_not_fail_it(
    session: aiohttp.ClientSession, rest: list[Step], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("darkq_worker.upstreams.openai.USAGE_TIMEOUT_S", 0.1)
    gate = asyncio.Event()
    script: list[Step] = [head(), delta("a"), finish(), gate, *rest]
    async with ScriptedServer(script) as server:
        asyncio.get_running_loop().call_later(0.02, gate.set)
        asked = ask(make(session, server, max_line_bytes=4000))
        assert await asyncio.wait_for(asked, 5) == ("a", End())


async def test_reset_at_every_byte_completes_or_fails(session: aiohttp.ClientSession) -> None:
    """Nothing is told as complete before its `finish_reason`, and nothing is lost after it."""
    body = delta("Hello") + finish() + DONE
    ends = len(delta("Hello") + finish()) - 1
    for cut in range(len(body) + 1):
        script: list[Step] = [head(content_length="9999"), body[:cut]]
        async with ScriptedServer([*script, RESET] if cut % 2 else script) as server:
            try:
                text, _ = await ask(make(session, server))
            except (Truncated, Unreachable):
                assert cut <= ends or cut % 2, cut  # a reset may overtake what was sent
            else:
                assert (text, cut > ends) == ("Hello", True), cut


async def test_a_damaged_frame_is_quoted_in_the_failure_and_not_in_the_log(
    session: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    broken = b"data: {an answer's text\r\n\r\n"
    with caplog.at_level(logging.DEBUG):
        async with ScriptedServer([head(), delta("a") + broken + finish() + DONE]) as server:
            with pytest.raises(Truncated, match=r"cannot be read: \{an answer's text"):
                await ask(make(session, server))
    assert "an answer's text" not in caplog.text


async def test_unknown_finish_reason_is_logged_once(
    session: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    async with ScriptedServer([head(), delta("a") + finish("brand new") + DONE]) as server:
        upstream = make(session, server)
        for _ in range(3):
            assert await ask(upstream) == ("a", End(finish_reason="brand_new"))
    records = [record for record in caplog.records if record.name.startswith("darkq")]
    assert [record.getMessage() for record in records] == [
        "unknown finish reason upstream=other reason=brand_new"
    ]


# Failures: exact class, and when to come again

Case = tuple[Sequence[Step], type[UpstreamError], float | None, int | None]


def said(message: str, **fields: Any) -> bytes:
    return json.dumps({"error": {"message": message, **fields}}).encode()


FAILURES: dict[str, Case] = {
    "429": ([head("429 Slow", **JSON), said("slow down")], RateLimited, None, 429),
    "429 with seconds": ([head("429 Slow", retry_after="17")], RateLimited, 17.0, 429),
    "429 with milliseconds": (
        [head("429 Slow", retry_after="17", retry_after_ms="250")],
        RateLimited,
        0.25,
        429,
    ),
    "429 with nonsense": (
        [head("429 Slow", retry_after="3", retry_after_ms="x")],
        RateLimited,
        3.0,
        429,
    ),
    "503 with seconds": ([head("503 Busy", retry_after="5")], Overloaded, 5.0, 503),
    "500": ([head("500 Oops", **JSON), said("oops")], Overloaded, None, 500),
    "401": ([head("401 No", **JSON), said(f"bad key: {KEY}")], Rejected, None, 401),
    "400": ([head("400 Bad", **JSON), said(f"no: {PROMPT}")], Rejected, None, 400),
    "404 of a model": (
        [head("404 No", **JSON), said("The model `m` does not exist")],
        UnknownModel,
        None,
        None,
    ),
    "400 of a model": (
        [head("400 Bad", **JSON), said("m is not a valid model ID")],
        UnknownModel,
        None,
        None,
    ),
    "422 with a list": (
        [head("422 No", **JSON), b'{"detail": [{"loc": ["body", "n"], "msg": "field required"}]}'],
        Rejected,
        None,
        422,
    ),
    "429 with a wait in its words": (
        [head("429 Slow", **JSON), said("Please try again in 1.5s.")],
        RateLimited,
        1.5,
        429,
    ),
    "404": ([head("404 No", **JSON), b'{"detail": "Not Found"}'], Rejected, None, 404),
    "error inside": (
        [head(retry_after="9"), delta("a"), error("rate limit", code=429)],
        RateLimited,
        9.0,
        200,
    ),
    "error with a key inside": ([head(), error(f"bad {KEY}")], UpstreamError, None, 200),
    "EOF before an end": ([head(), delta("a")], Truncated, None, 200),
    "EOF before anything": ([head()], Truncated, None, 200),
    "EOF inside a chunk": ([head(**CHUNKED), chunked(delta("a"))], Truncated, None, 200),
    "reset": ([head(), delta("a"), RESET], Truncated, None, 200),
    "reset before an answer": ([RESET], Unreachable, None, None),
    "closed before an answer": ([], Unreachable, None, None),
    "empty success": ([head(), finish() + DONE], EmptyAnswer, None, 200),
    "only reasoning": ([head(), finish("length") + DONE], Rejected, None, 200),
    "HTML with a 502": ([head("502 Bad", **HTML), b"<html>"], Overloaded, None, 502),
    "HTML with a 200": ([head(**HTML), b"<html>" + BODY], ProtocolViolation, None, 200),
    "JSON with a 200": ([head(**JSON), b"{}"], ProtocolViolation, None, 200),
    "redirect": ([head("307 No", location="http://127.0.0.1:1/x")], ProtocolViolation, None, 307),
    "compressed": ([head(content_encoding="gzip"), BODY], ProtocolViolation, None, 200),
    "no HTTP": ([b"220 smtp.example ESMTP\r\n\r\n"], ProtocolViolation, None, None),
    "a long line": ([head(), delta("a" * 5000)], ProtocolViolation, None, 200),
    "a line without end": (
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
            await ask(make(session, server, max_line_bytes=4000))
    failure = caught.value
    assert type(failure) is kind
    assert failure.retry_after_s == retry_after_s
    assert failure.status == status
    assert len(server.requests) == 1
    assert 0 < len(failure.message) < 300
    for private in (PROMPT, KEY, "html>", "127.0.0.1"):
        assert private not in failure.message


async def test_list_of_faults_is_quoted_by_location_and_message(
    session: aiohttp.ClientSession,
) -> None:
    """Red when only a `detail` that is a string is read."""
    async with ScriptedServer(FAILURES["422 with a list"][0]) as server:
        with pytest.raises(Rejected, match=r"body\.n: field required"):
            await ask(make(session, server))


async def test_keep_alives_alone_end_in_a_timeout_that_names_its_setting(
    session: aiohttp.ClientSession,
) -> None:
    """Red where somebody whose job is queued upstream hears that nothing came."""
    for ping in (b": keep-alive\n\n", b"data: : PROCESSING\n\n", b"event: ping\ndata: {}\n\n"):
        async with ScriptedServer([head(), Repeat(ping, 0.02)]) as server:
            with pytest.raises(TimedOut, match=r"but keep-alives.*OTHER__IDLE_TIMEOUT_S"):
                await asyncio.wait_for(ask(make(session, server, idle_timeout_s=0.2)), 5)


@pytest.mark.parametrize(
    "script", [[STALL], [head(), delta("a"), STALL], [head(), Repeat(b": ping\n\n", 0.02)]]
)
async def test_silence_ends_in_the_idle_timeout(
    session: aiohttp.ClientSession, script: list[Step]
) -> None:
    async with ScriptedServer(script) as server:
        with pytest.raises(TimedOut, match=r"nothing came for 0\.2 s"):
            await asyncio.wait_for(ask(make(session, server, idle_timeout_s=0.2)), 5)
        await asyncio.wait_for(server.client_gone.wait(), 5)


async def test_time_of_a_slow_reader_is_not_idle_time_of_the_service(
    session: aiohttp.ClientSession,
) -> None:
    """Red where the idle clock runs while nobody waits for bytes."""
    first, gate = asyncio.Event(), asyncio.Event()
    script: list[Step] = [head(), first, delta("a"), gate, delta("b") + finish() + DONE]
    loop = asyncio.get_running_loop()
    loop.call_later(0.05, first.set)
    async with (
        ScriptedServer(script) as server,
        aclosing(make(session, server, idle_timeout_s=0.2).stream(Request(prompt="x"))) as items,
    ):
        assert await anext(items) == "a"
        busy_until_s = loop.time() + 0.3
        await wait_until("its end", lambda: loop.time() > busy_until_s)
        loop.call_later(0.05, gate.set)
        assert await anext(items) == "b"


async def test_total_timeout_ends_an_active_answer(session: aiohttp.ClientSession) -> None:
    async with ScriptedServer([head(), Repeat(delta("a"), 0.02)]) as server:
        with pytest.raises(TimedOut, match=r"not complete within 0\.3 s"):
            await asyncio.wait_for(ask(make(session, server, timeout_s=0.3)), 5)


async def test_closing_closes_the_connection_before_it_returns(
    session: aiohttp.ClientSession,
) -> None:
    async with ScriptedServer([head(), delta("a"), STALL]) as server:
        items = make(session, server).stream(Request(prompt=PROMPT))
        assert await anext(items) == "a"
        await items.aclose()
        await asyncio.wait_for(server.client_gone.wait(), 5)


async def test_proxy_of_a_request_is_used(session: aiohttp.ClientSession) -> None:
    async with ScriptedServer([head(), BODY]) as server, HttpProxy() as proxy:
        assert (await ask(make(session, server), proxy=proxy.url))[0] == "Hello, world"
        assert proxy.targets


# Models that the service lists

LISTED: list[Step] = [head(**JSON), b'{"data": [{"id": "b"}, {"id": "a"}]}']


async def test_models_are_requested_if_none_are_configured(
    session: aiohttp.ClientSession,
) -> None:
    async with ScriptedServer(LISTED) as server:
        upstream = make(session, server, models=())
        for model in (None, "b"):
            with pytest.raises(NotReady):
                upstream.resolve_model(model)
        await upstream.list_models()
    assert upstream.models == ("b", "a")
    assert upstream.resolve_model(None) == upstream.default_model == "b"
    (request,) = server.requests
    assert (request.method, request.target, request.body) == ("GET", "/v1/models", b"")
    assert request.headers["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize(
    ("script", "listing", "resolving"),
    [
        ([head("503 Busy")], Overloaded, NotReady),
        ([RESET], Unreachable, NotReady),
        ([head("401 No", **JSON), said("bad")], Rejected, Rejected),
        ([head("404 No")], Rejected, Rejected),
        ([b"220 smtp.example ESMTP\r\n\r\n"], ProtocolViolation, NotReady),
        ([head(**HTML), b"<html>"], ProtocolViolation, ProtocolViolation),
        ([head(**JSON), b"{}"], ProtocolViolation, ProtocolViolation),
        ([head(**JSON), Repeat(b" " * 100_000, 0)], ProtocolViolation, ProtocolViolation),
    ],
)
async def test_missing_model_list_raises_by_its_cause(
    session: aiohttp.ClientSession,
    script: list[Step],
    listing: type[UpstreamError],
    resolving: type[UpstreamError],
) -> None:
    async with ScriptedServer(script) as server:
        upstream = make(session, server, models=())
        with pytest.raises(listing):
            await upstream.list_models()
        with pytest.raises(resolving):
            upstream.resolve_model("m")


async def test_listed_model_is_found_by_its_short_name(
    session: aiohttp.ClientSession,
) -> None:
    """Red where `llama3.2` is unknown to an Ollama that lists `llama3.2:latest`."""
    listed = b'[{"id": "nomic-embed-text:latest"}, {"id": "llama3.2:latest"}, {"id": "a/b"}]'
    async with ScriptedServer([head(**JSON), listed], [head(), BODY]) as server:
        upstream = make(session, server, models=())
        await upstream.list_models()
        for name in ("llama3.2", None, "a/b:nitro", "not-listed"):
            await ask(upstream, model=name)
    asked = [request.json["model"] for request in server.requests[1:]]
    assert asked == ["llama3.2:latest", "llama3.2:latest", "a/b:nitro", "not-listed"]


async def test_list_without_a_chat_model_has_no_default(
    session: aiohttp.ClientSession,
) -> None:
    async with ScriptedServer([head(**JSON), b'[{"id": "nomic-embed-text"}]']) as server:
        upstream = make(session, server, models=())
        await upstream.list_models()
    with pytest.raises(Rejected, match="DARKQ_UPSTREAMS__OTHER__MODELS"):
        upstream.resolve_model(None)


async def test_model_list_with_any_content_type_is_read(session: aiohttp.ClientSession) -> None:
    async with ScriptedServer([head(content_type="text/plain"), LISTED[1]]) as server:
        upstream = make(session, server, models=())
        await upstream.list_models()
    assert upstream.models == ("b", "a")


async def test_probe_requests_the_models_first(session: aiohttp.ClientSession) -> None:
    async with ScriptedServer(LISTED, [head(), BODY]) as server:
        await make(session, server, models=()).probe(timeout_s=5)
    assert [request.method for request in server.requests] == ["GET", "POST"]
    assert server.requests[1].json["model"] == "b"


async def test_probe_is_bounded_by_its_timeout(session: aiohttp.ClientSession) -> None:
    for models in (["m"], []):
        async with ScriptedServer([STALL]) as server:
            with pytest.raises(TimedOut, match=r"within 0\.2 s"):
                await asyncio.wait_for(make(session, server, models=models).probe(timeout_s=0.2), 5)
