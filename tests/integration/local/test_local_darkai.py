"""The local DarkAI on the wire: bytes as DarkAI sends them, and each fault as a client sees it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any

import pytest

from darkq_local.faults import Cut, Fault, InvalidFault, Refusal, split_marker
from darkq_local.local_darkai import LocalDarkAI
from darkq_local.models.base import ModelBusy, PromptTooLong, Turn
from darkq_local.models.markov import Markov
from support.waiting import wait_until

PIECES = ("Spring", " comes", " 😀", " soon.")
TEXT = "".join(PIECES)
EVENTS = ["begin-stream", *["text-chunk"] * len(PIECES), "stream-end", "final-response"]


class Script:
    """A model that says what it is told; `forever` makes it go on until it is stopped."""

    kind = "script"
    name = "script"

    def __init__(
        self,
        *pieces: str,
        forever: bool = False,
        error: Exception | None = None,
        silence_s: float = 0,
    ) -> None:
        self.pieces = pieces or PIECES
        self.forever = forever
        self.error = error
        self.silence_s = silence_s
        self.asked: list[tuple[str, Sequence[Turn]]] = []
        self.running = 0

    async def generate(self, query: str, history: Sequence[Turn] = ()) -> AsyncGenerator[str, None]:
        self.asked.append((query, history))
        self.running += 1
        try:
            await asyncio.sleep(self.silence_s)
            for piece in self.pieces:
                yield piece
            while self.forever:
                await asyncio.sleep(0.001)
                yield " more"
            if self.error is not None:
                raise self.error
        finally:
            self.running -= 1

    async def aclose(self) -> None:
        pass


class Reply:
    """One HTTP response as it came off the socket."""

    def __init__(self, raw: bytes, *, was_reset: bool = False) -> None:
        head, _, rest = raw.partition(b"\r\n\r\n")
        self.status = int(head.split(b" ", 2)[1])
        self.headers = dict(
            line.decode().lower().split(": ", 1) for line in head.split(b"\r\n")[1:]
        )
        self.was_reset = was_reset
        self.writes: list[bytes] = []
        self.ended_cleanly = "content-length" in self.headers
        self.body = rest if self.ended_cleanly else self._unchunk(rest)

    def _unchunk(self, rest: bytes) -> bytes:
        while rest:
            size, _, rest = rest.partition(b"\r\n")
            if int(size, 16) == 0:
                self.ended_cleanly = True
                break
            self.writes.append(rest[: int(size, 16)])
            rest = rest[int(size, 16) + 2 :]
        return b"".join(self.writes)

    @property
    def events(self) -> list[dict[str, Any]]:
        found = []
        for line in self.body.decode("utf-8-sig").splitlines():
            with contextlib.suppress(ValueError, TypeError, KeyError):
                payload = json.loads(line.removeprefix("data:"))
                found.append({"event": payload["event"], **payload["data"]})
        return found

    @property
    def names(self) -> list[str]:
        return [event["event"] for event in self.events]


def request_bytes(body: object, headers: dict[str, str] | None = None) -> bytes:
    payload = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = ["POST /chat HTTP/1.1", "Host: localhost", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    lines.append(f"Content-Length: {len(payload)}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + payload


ASK = request_bytes({"query": "x"})
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@contextlib.asynccontextmanager
async def connection(port: int, request: bytes) -> AsyncIterator[Streams]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


def port_of(url: str) -> int:
    return int(url.rsplit(":", 1)[1].split("/")[0])


async def chat(
    server: LocalDarkAI, body: object = None, headers: dict[str, str] | None = None
) -> Reply:
    """Send one request; read until the server closes the connection."""
    request = request_bytes({"query": "hello"} if body is None else body, headers)
    raw = bytearray()
    was_reset = False
    async with connection(port_of(server.url), request) as (reader, _), asyncio.timeout(10):
        try:
            while data := await reader.read(65536):
                raw += data
        except ConnectionResetError:
            was_reset = True
    return Reply(bytes(raw), was_reset=was_reset)


async def with_fault(fault: str, model: Script | None = None) -> Reply:
    async with LocalDarkAI(model or Script(), plan=[Fault.parse(fault)]) as server:
        return await chat(server)


# The wire


async def test_an_answer_is_byte_for_byte_what_darkai_sends() -> None:
    async with LocalDarkAI(Script("Hi", " 😀")) as server:
        reply = await chat(server, {"query": "größe 🌱", "model": "gpt-4o", "history": []})
    frames = [
        r'{"event": "begin-stream", "data": {"event_type": "begin-stream", '
        r'"query": "gr\u00f6\u00dfe \ud83c\udf31"}}',
        r'{"event": "text-chunk", "data": {"event_type": "text-chunk", "text": "Hi"}}',
        r'{"event": "text-chunk", "data": {"event_type": "text-chunk", "text": " \ud83d\ude00"}}',
        r'{"event": "stream-end", "data": {"event_type": "stream-end"}}',
        r'{"event": "final-response", "data": {"event_type": "final-response", '
        r'"message": "Hi \ud83d\ude00"}}',
    ]
    assert reply.body.decode("ascii") == "".join(f"data: {frame}\r\n\r\n" for frame in frames)
    assert reply.status == 200
    assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert reply.ended_cleanly


@pytest.mark.parametrize(
    "model", ["", "llama-3-70b", "gpt-4o", "gpt-3.5-turbo", "llama-3-405b", "llama-3.1-70b"]
)
async def test_every_name_of_darkais_is_served(model: str) -> None:
    async with LocalDarkAI(Script()) as server:
        assert (await chat(server, {"query": "x", "model": model})).names == EVENTS


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({}, "query"),
        ({"query": 5}, "query"),
        ({"query": None}, "query"),
        ({"query": "x", "model": "gpt-5"}, "model"),
        ({"query": "x", "history": [{"role": "system", "content": "TOP-SECRET"}]}, "role"),
        ({"query": "x", "history": [{"role": "TOP-SECRET", "content": ""}]}, "role"),
        ({"query": "x", "history": [{"role": "user"}]}, "content"),
        ({"query": "x", "history": "TOP-SECRET"}, "history"),
        (b"TOP-SECRET", "JSON"),
        (b'{"query": "\xff"}', "JSON"),
        (b"[]", "object"),
    ],
)
async def test_a_bad_body_is_refused_without_an_echo(body: object, reason: str) -> None:
    model = Script()
    async with LocalDarkAI(model) as server:
        reply = await chat(server, body)
    assert reply.status == 422
    assert reply.headers["content-type"].startswith("application/json")
    assert reason in json.loads(reply.body)["detail"][0]["msg"]
    assert b"TOP-SECRET" not in reply.body
    assert model.asked == []
    assert server.exchanges[0].outcome == "refused"


async def test_the_model_gets_the_query_and_the_history() -> None:
    model = Script()
    history = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    async with LocalDarkAI(model) as server:
        await chat(server, {"query": "c", "history": history, "new_field": 1})
    turns = (Turn(role="user", content="a"), Turn(role="assistant", content="b"))
    assert model.asked == [("c", turns)]


async def test_pings_go_on_while_the_model_is_silent() -> None:
    async with LocalDarkAI(Script(silence_s=0.3), ping_interval_s=0.1) as server:
        reply = await chat(server)
    before_the_text = reply.body.split(b'"text-chunk"')[0]
    assert before_the_text.count(b": ping - 2") >= 2
    assert b"+00:00\r\n\r\n" in before_the_text
    assert reply.names == EVENTS


@pytest.mark.parametrize(
    ("error", "detail"),
    [
        (ModelBusy("busy"), "Model is at capacity. Please try again later."),
        (
            PromptTooLong(3000, 2048),
            "the conversation has 3000 tokens; the local model reads 2048",
        ),
        (ValueError("TOP-SECRET"), "Network Error. Please try again."),
    ],
)
async def test_a_failure_of_the_model_is_an_error_event(
    error: Exception, detail: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with LocalDarkAI(Script("a", error=error)) as server:
        reply = await chat(server)
    assert reply.names == ["begin-stream", "text-chunk", "error"]
    assert reply.events[-1]["detail"] == detail
    assert b"\r\n\r\nevent: error\r\ndata: {" in reply.body
    assert server.exchanges[0].outcome == "failed"
    assert "TOP-SECRET" not in caplog.text


async def test_healthz_names_the_model() -> None:
    async with LocalDarkAI(Markov()) as server:
        get = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        async with connection(port_of(server.url), get) as (reader, _):
            reply = Reply(await reader.read())
    name = "Markov chain (a toy, not a language model)"
    assert json.loads(reply.body) == {"model": name, "kind": "markov"}


async def test_nothing_of_a_query_or_an_answer_is_logged(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    async with LocalDarkAI(Script("ANSWERED"), plan=[None, Fault.parse("reset")]) as server:
        await chat(server, {"query": "TOP-SECRET"})
        await chat(server, {"query": "TOP-SECRET"})
        await chat(server, b'{"query": TOP-SECRET')
    said = caplog.text + "".join(capfd.readouterr())
    assert "TOP-SECRET" not in said
    assert "ANSWERED" not in said


# What a client that leaves sees, and what the server remembers


async def test_a_client_that_leaves_stops_the_model_at_once() -> None:
    model = Script(forever=True)
    async with LocalDarkAI(model) as server:
        async with connection(port_of(server.url), ASK) as (reader, _):
            await reader.readuntil(b" more")
            exchange = server.exchanges[0]
            assert (server.open_connections, model.running, exchange.outcome) == (1, 1, "running")
        await wait_until("the end of the exchange", lambda: exchange.ended_s is not None)
        assert (server.open_connections, model.running) == (0, 0)
    assert exchange.outcome == "client left"
    assert exchange.chunks_sent > 0


async def test_a_client_that_leaves_while_the_model_is_silent_stops_it_too() -> None:
    model = Script(silence_s=60)
    async with LocalDarkAI(model) as server:
        async with connection(port_of(server.url), ASK) as (reader, _):
            await reader.readuntil(b"begin-stream")
        exchange = server.exchanges[0]
        await wait_until("the end of the exchange", lambda: exchange.ended_s is not None)
        assert (exchange.outcome, model.running) == ("client left", 0)


async def test_the_server_remembers_its_requests() -> None:
    async with LocalDarkAI(Script(), plan=[None, Fault.parse("truncate=2")]) as server:
        await chat(server)
        await chat(server)
        await chat(server)
    assert server.requests_seen == 3
    assert [exchange.outcome for exchange in server.exchanges] == ["complete", "fault", "complete"]
    assert [exchange.chunks_sent for exchange in server.exchanges] == [4, 2, 4]


async def test_stopping_the_server_cuts_off_running_answers() -> None:
    model = Script(forever=True)
    server = LocalDarkAI(model)
    async with contextlib.AsyncExitStack() as running:
        await running.enter_async_context(server)
        async with connection(port_of(server.url), ASK) as (reader, _):
            await reader.readuntil(b" more")
            async with asyncio.timeout(3):
                await running.aclose()
            assert (server.exchanges[0].outcome, model.running) == ("stopped", 0)


# Faults


async def test_reset() -> None:
    reply = await with_fault("reset=2")
    assert reply.was_reset
    assert reply.names == ["begin-stream", "text-chunk", "text-chunk"]


async def test_truncate_ends_cleanly_and_says_nothing() -> None:
    reply = await with_fault("truncate=2")
    assert reply.ended_cleanly
    assert not reply.was_reset
    assert reply.names == ["begin-stream", "text-chunk", "text-chunk"]


async def test_a_cut_past_the_end_comes_after_the_last_chunk() -> None:
    assert (await with_fault("truncate=99")).names == EVENTS[:-2]


async def test_a_cut_after_no_chunks_does_not_ask_the_model() -> None:
    model = Script()
    assert (await with_fault("truncate=0", model)).names == ["begin-stream"]
    assert model.running == 0


@pytest.mark.parametrize(("fault", "pings"), [("stall=2", False), ("hang=2", True)])
async def test_a_stalled_connection_stays_open(fault: str, pings: bool) -> None:
    plan = [Fault.parse(fault)]
    async with LocalDarkAI(Script(), plan=plan, ping_interval_s=0.05) as server:
        async with connection(port_of(server.url), ASK) as (reader, _):
            raw = await reader.readuntil(b" comes")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.3):
                    while data := await reader.read(1000):
                        raw += data
            assert server.exchanges[0].outcome == "running"
            assert not reader.at_eof()
        exchange = server.exchanges[0]
        await wait_until("the end of the exchange", lambda: exchange.ended_s is not None)
    assert Reply(raw).names == ["begin-stream", "text-chunk", "text-chunk"]
    assert (b": ping" in raw) == pings
    assert exchange.outcome == "client left"


async def test_error_event() -> None:
    reply = await with_fault("error=3")
    assert reply.names == ["begin-stream", *["text-chunk"] * 3, "error"]
    assert reply.events[-1]["detail"] == "Model is at capacity. Please try again later."
    assert (await with_fault("error=0:Oh: no")).events[-1]["detail"] == "Oh: no"


@pytest.mark.parametrize(("fault", "status"), [("429", 429), ("429-in-200", 200)])
async def test_rate_limits(fault: str, status: int) -> None:
    reply = await with_fault(fault)
    assert reply.status == status
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert reply.body.startswith(b'event: error\r\ndata: {"event": "error"')
    assert reply.names == ["error"]
    assert "Rate limit exceeded" in reply.events[0]["detail"]


@pytest.mark.parametrize("status", [403, 502, 520])
async def test_html_pages(status: int) -> None:
    reply = await with_fault(f"html={status}")
    assert reply.status == status
    assert reply.headers["content-type"].startswith("text/html")
    assert reply.headers["server"] == "cloudflare"
    assert reply.body.startswith(b"<!DOCTYPE html>")


async def test_other_statuses() -> None:
    reply = await with_fault("status=402")
    assert (reply.status, reply.headers["content-type"].split(";")[0]) == (402, "application/json")


async def test_slow() -> None:
    started_s = time.monotonic()
    assert (await with_fault("slow=0.1")).names == EVENTS
    assert time.monotonic() - started_s >= 0.1 * len(PIECES)


@pytest.mark.parametrize("size", [1, 7])
async def test_split_changes_the_writes_and_not_the_bytes(size: int) -> None:
    whole, split = await with_fault(""), await with_fault(f"split={size}")
    assert split.body == whole.body
    assert max(len(write) for write in split.writes) == size
    assert max(len(write) for write in whole.writes) > 50


async def test_empty() -> None:
    reply = await with_fault("empty")
    assert reply.names == ["begin-stream", "stream-end", "final-response"]
    assert reply.events[-1]["message"] == ""


async def test_final_only() -> None:
    reply = await with_fault("final-only")
    assert reply.events == [
        {"event": "final-response", "event_type": "final-response", "message": TEXT}
    ]


async def test_malformed_lines_stand_among_the_good_ones() -> None:
    reply = await with_fault("malformed")
    assert reply.names == EVENTS
    for line in ("data: {not json", 'data: {"event": "text-chunk"}', "data:"):
        assert f"\r\n\r\n{line}\r\n\r\n".encode() in reply.body


async def test_swap() -> None:
    reply = await with_fault("swap")
    assert reply.names[-2:] == ["final-response", "stream-end"]
    assert reply.events[-2]["message"] == TEXT
    assert reply.events[-1]["thread_id"] == 1


async def test_dialects() -> None:
    whole = (await with_fault("")).body
    assert (await with_fault("lf")).body == whole.replace(b"\r\n", b"\n")
    assert (await with_fault("cr")).body == whole.replace(b"\r\n", b"\r")
    assert (await with_fault("bom")).body == b"\xef\xbb\xbf" + whole
    raw = (await with_fault("raw-utf8;lf")).body
    assert '" 😀"}}\n\n'.encode() in raw
    assert b"\\u" not in raw


# Asking for a fault


async def test_a_fault_by_header_or_by_marker() -> None:
    model = Script()
    query = "[fault: truncate=1; bom] hello"
    async with LocalDarkAI(model, faults=True) as server:
        by_header = await chat(server, headers={"X-DarkQ-Fault": "truncate=1;bom"})
        by_marker = await chat(server, {"query": query})
        healthy = await chat(server)
    assert by_header.names == by_marker.names == ["begin-stream", "text-chunk"]
    assert by_header.body.startswith(b"\xef\xbb\xbf")
    assert by_marker.events[0]["query"] == query
    assert [query for query, _ in model.asked] == ["hello"] * 3
    assert healthy.names == EVENTS


async def test_faults_are_off_unless_switched_on() -> None:
    model = Script()
    query = "[fault: truncate=1] hello"
    async with LocalDarkAI(model) as server:
        reply = await chat(server, {"query": query}, headers={"x-darkq-fault": "reset"})
    assert reply.names == EVENTS
    assert model.asked[0][0] == query


async def test_an_unknown_fault_is_refused() -> None:
    async with LocalDarkAI(Script(), faults=True) as server:
        reply = await chat(server, headers={"x-darkq-fault": "explode"})
    assert reply.status == 400
    assert "unknown fault 'explode'; known: reset, " in json.loads(reply.body)["detail"]


def test_faults_parse() -> None:
    assert Fault.parse("") == Fault()
    assert Fault.parse("reset=3; slow=0.5") == Fault(cut=Cut("reset", 3), pause_s=0.5)
    assert Fault.parse("stall") == Fault(cut=Cut("stall", 1))
    assert Fault.parse("html=520") == Fault(refusal=Refusal("html", 520))
    assert split_marker("[fault: 429] hi") == ("429", "hi")
    assert split_marker("hi [fault: 429]") == (None, "hi [fault: 429]")


@pytest.mark.parametrize("text", ["reset=x", "reset=-1", "slow", "slow=nan", "split=0", "swap=1"])
def test_faults_that_make_no_sense(text: str) -> None:
    with pytest.raises(InvalidFault):
        Fault.parse(text)


# As a process


async def test_as_a_process_it_says_where_it_is_and_stops_on_sigterm() -> None:
    args = ["-m", "darkq_cli", "local-darkai", "--model", "markov", "--max-chunks=5", "--faults"]
    process = await asyncio.create_subprocess_exec(
        sys.executable, *args, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    assert process.stdout is not None
    try:
        line = (await asyncio.wait_for(process.stderr.readline(), 20)).decode()
        assert line.startswith("local DarkAI: Markov chain (a toy, not a language model) at http")
        ask = request_bytes({"query": "[fault: stall] TOP-SECRET"})
        async with connection(port_of(line), ask) as (reader, _):
            await reader.readuntil(b"text-chunk")
            process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(process.wait(), 10) == 0
        assert await process.stderr.read() == b""
        assert await process.stdout.read() == b""
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
