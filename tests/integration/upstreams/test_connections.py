"""Connections to upstreams are kept, and a service may close one at any moment.

A call that was sent over a kept connection, and of whose answer no byte has come, is sent once more
over a new one. Every other call is sent once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing

import aiohttp
import pytest

from darkq_worker.upstreams import http as connections
from darkq_worker.upstreams.base import (
    ProtocolViolation,
    Request,
    Truncated,
    Unreachable,
    Upstream,
    UpstreamError,
)
from darkq_worker.upstreams.darkai import DarkAIUpstream
from darkq_worker.upstreams.http import make_session
from darkq_worker.upstreams.openai import OpenAIUpstream
from support import darkai_frames
from support.openai_frames import DONE, delta, finish
from support.scripted_http import (
    NEXT_REQUEST,
    RESET,
    STALL,
    ScriptedServer,
    Step,
    chunked,
    head,
)
from support.waiting import wait_until

CHUNKED = head(transfer_encoding="chunked")
LAST_CHUNK = b"0\r\n\r\n"
OPENAI_BODY = delta("Hello") + finish() + DONE
DARKAI_BODY = darkai_frames.BEGIN + darkai_frames.chunk("Hello") + darkai_frames.END
WIRES = {"openai": OPENAI_BODY, "darkai": DARKAI_BODY}


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with make_session() as session:
        yield session


Make = Callable[[ScriptedServer], Upstream]


@pytest.fixture(params=WIRES)
def wire(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def make(session: aiohttp.ClientSession, wire: str) -> Make:
    """Make an upstream of either wire for a server."""

    def make(server: ScriptedServer) -> Upstream:
        if wire == "darkai":
            return DarkAIUpstream(session, url=server.url)
        return OpenAIUpstream(session, name="x", url=server.url, models=["m"])

    return make


@pytest.fixture
def kept(wire: str) -> list[Step]:
    """An answer whose connection is kept."""
    return [CHUNKED, chunked(WIRES[wire]), LAST_CHUNK, NEXT_REQUEST]


@pytest.fixture
def last(wire: str) -> list[Step]:
    """An answer whose connection is closed, though it was promised to be kept."""
    return [CHUNKED, chunked(WIRES[wire]), LAST_CHUNK]


async def ask(upstream: Upstream) -> str:
    text = ""
    async with aclosing(upstream.stream(Request(prompt="Hi"))) as items:
        async for item in items:
            text += item if isinstance(item, str) else ""
    return text


async def test_sequential_calls_share_a_connection(make: Make, kept: list[Step]) -> None:
    async with ScriptedServer(kept) as server:
        upstream = make(server)
        assert [await ask(upstream) for _ in range(3)] == ["Hello"] * 3
    assert [request.connection for request in server.requests] == [1, 1, 1]


async def test_concurrent_calls_share_no_connection(make: Make, kept: list[Step]) -> None:
    gate = asyncio.Event()
    async with ScriptedServer([gate, *kept]) as server:
        upstream = make(server)
        asked = [asyncio.create_task(ask(upstream)) for _ in range(5)]
        await wait_until("five calls", lambda: len(server.requests) == 5)
        gate.set()
        assert await asyncio.gather(*asked) == ["Hello"] * 5
    assert {request.connection for request in server.requests} == {1, 2, 3, 4, 5}


@pytest.mark.parametrize("end", [[], [RESET]], ids=["closed", "reset"])
async def test_stale_kept_connection_is_replaced_without_an_error(
    make: Make, kept: list[Step], end: list[Step]
) -> None:
    """Red where a call is lost with the connection that a service closes under it."""
    async with ScriptedServer(kept, end, kept) as server:
        upstream = make(server)
        assert [await ask(upstream) for _ in range(3)] == ["Hello"] * 3
    assert [request.connection for request in server.requests] == [1, 1, 2, 2]
    assert server.requests[1].body == server.requests[2].body


async def test_connection_closed_between_two_calls_is_not_used(
    make: Make, last: list[Step]
) -> None:
    async with ScriptedServer(last) as server:
        upstream = make(server)
        assert [await ask(upstream) for _ in range(5)] == ["Hello"] * 5
    answered = len(server.requests)
    assert answered == 5, "what was closed before a request came has not heard one"


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ([b"H"], (Unreachable, ProtocolViolation)),
        ([b"H", RESET], (Unreachable, ProtocolViolation)),
        ([b"HTTP/1.1 200 OK\r\n"], (Unreachable, ProtocolViolation)),
        ([b"HTTP/1.1 200 OK\r\n", RESET], (Unreachable, ProtocolViolation)),
        ([CHUNKED], Truncated),
        ([CHUNKED, RESET], Truncated),
        ([CHUNKED, chunked(b"data: ")], Truncated),
        ([CHUNKED, chunked(b"data: "), RESET], Truncated),
    ],
    ids=range(8),
)
async def test_call_is_not_repeated_after_a_byte_of_its_answer(
    make: Make, kept: list[Step], script: Sequence[Step], error: type[UpstreamError]
) -> None:
    """Red where `heard` is not asked: the second call would be answered."""
    async with ScriptedServer(kept, script, kept) as server:
        upstream = make(server)
        assert await ask(upstream) == "Hello"
        with pytest.raises(error):
            await ask(upstream)
    assert len(server.requests) == 2


@pytest.mark.parametrize("end", [[], [RESET]], ids=["closed", "reset"])
async def test_call_over_a_new_connection_is_not_repeated(make: Make, end: list[Step]) -> None:
    async with ScriptedServer(end) as server:
        with pytest.raises(Unreachable):
            await ask(make(server))
    assert len(server.requests) == 1


async def test_repeated_call_uses_a_new_connection_and_is_the_last(
    make: Make, kept: list[Step]
) -> None:
    """A service that was restarted has closed all that were kept: they are not tried in turn."""
    gate = asyncio.Event()
    slow: list[Step] = [gate, *kept]
    async with ScriptedServer(*[slow] * 4, [], []) as server:
        upstream = make(server)
        asked = [asyncio.create_task(ask(upstream)) for _ in range(4)]
        await wait_until("four calls", lambda: len(server.requests) == 4)
        gate.set()
        await asyncio.gather(*asked)
        with pytest.raises(Unreachable):
            await ask(upstream)
    assert len(server.requests) == 6
    assert server.requests[-1].connection == 5


async def test_data_on_an_idle_connection_is_not_an_answer(
    make: Make, wire: str, kept: list[Step]
) -> None:
    """Red where a 408 that a proxy sends before it closes is read as the next answer."""
    late = asyncio.Event()
    other = WIRES[wire].replace(b"Hello", b"stale")
    stale: list[Step] = [CHUNKED + chunked(other) + LAST_CHUNK, NEXT_REQUEST]
    async with ScriptedServer([*kept[:-1], late, *stale], kept) as server:
        upstream = make(server)
        assert await ask(upstream) == "Hello"
        late.set()
        for _ in range(20):  # rounds of the loop, so that it has come
            await asyncio.sleep(0)
        assert await ask(upstream) == "Hello"
    assert [request.connection for request in server.requests] == [1, 2]


async def test_idle_connection_is_closed_after_a_short_time(
    make: Make, kept: list[Step], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "IDLE_CONNECTION_S", 0.02)
    async with make_session() as session, ScriptedServer(kept) as server:
        upstream = OpenAIUpstream(session, name="x", url=server.url, models=["m"])
        darkai = DarkAIUpstream(session, url=server.url)
        each = darkai if b"begin-stream" in kept[1] else upstream  # type: ignore[operator]
        assert await ask(each) == "Hello"
        ends_s = asyncio.get_running_loop().time() + 0.03
        await wait_until("its end", lambda: asyncio.get_running_loop().time() > ends_s)
        assert await ask(each) == "Hello"
    assert [request.connection for request in server.requests] == [1, 2]


async def test_keeps_connections_false_sends_connection_close(
    session: aiohttp.ClientSession,
) -> None:
    script: list[Step] = [CHUNKED, chunked(OPENAI_BODY), LAST_CHUNK, NEXT_REQUEST]
    async with ScriptedServer(script) as server:
        upstream = OpenAIUpstream(
            session, name="x", url=server.url, models=["m"], keeps_connections=False
        )
        for _ in range(2):
            assert await ask(upstream) == "Hello"
    assert [request.connection for request in server.requests] == [1, 2]
    assert {request.headers["connection"] for request in server.requests} == {"close"}


async def test_cancelled_call_closes_its_kept_connection(
    make: Make, kept: list[Step], wire: str
) -> None:
    """Cancellation must reach the service: what is kept is never a call in progress."""
    begun = delta("Hello") if wire == "openai" else darkai_frames.chunk("Hello")
    async with ScriptedServer(kept, [CHUNKED, chunked(begun), STALL], kept) as server:
        upstream = make(server)
        assert await ask(upstream) == "Hello"
        items = upstream.stream(Request(prompt="Hi"))
        assert await anext(items) == "Hello"
        await items.aclose()
        await asyncio.wait_for(server.client_gone.wait(), 5)
        assert await ask(upstream) == "Hello"
    assert [request.connection for request in server.requests] == [1, 1, 2]


async def test_a_call_that_is_cancelled_before_its_answer_is_not_sent_again(
    make: Make, kept: list[Step]
) -> None:
    async with ScriptedServer(kept, [STALL]) as server:
        upstream = make(server)
        assert await ask(upstream) == "Hello"
        task = asyncio.create_task(ask(upstream))
        await wait_until("the second call", lambda: len(server.requests) == 2)
        task.cancel()
        await asyncio.wait_for(server.client_gone.wait(), 5)
        with pytest.raises(asyncio.CancelledError):
            await task
    assert len(server.requests) == 2
