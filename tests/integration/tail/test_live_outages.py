"""The subscriber connection dies, hangs or is refused: it is found out, and comes back."""

from __future__ import annotations

import asyncio
import gc
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError

from darkq import Settings
from darkq.redis import pubsub as subscriber_module
from darkq.redis.pubsub import Live
from darkq.redis.servers import servers_of
from support.by_hand import heard
from support.servers import Server, binaries, running
from support.waiting import wait_until

from .listening import Sink, connection_of, hears, join_and_leave, subscribers


async def test_patience_ends(tmp_path: Path) -> None:
    settings = Settings.model_validate({"redis_url": f"unix://{tmp_path}/nobody"})
    live = Live(servers_of(settings), patience_s=0.1)
    with pytest.raises(ConnectionError, match="no subscriber connection"):
        async with live.subscribed("a", Sink()):
            pytest.fail("there is no Redis")
    assert live._channels == {}
    await live.aclose()


@pytest.fixture
async def own_server(tmp_path: Path) -> AsyncIterator[Server]:
    """A server that a test may stop; continued and stopped at the end."""
    with running(binaries()["valkey"]) as server:
        yield server
        if server.process is not None:
            server.process.send_signal(signal.SIGCONT)


@pytest.fixture
async def own_live(own_server: Server) -> AsyncIterator[Live]:
    live = Live(servers_of(Settings.model_validate({"redis_url": own_server.url})), patience_s=None)
    yield live
    await live.aclose()


async def test_a_connection_that_is_dead_but_not_closed_is_found_by_the_ping(
    own_server: Server, own_live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red without `_ping`: no byte ever says that the server is gone."""
    monkeypatch.setattr(subscriber_module, "_PING_INTERVAL_S", 0.05)
    sink = Sink()
    assert own_server.process is not None
    async with own_live.subscribed("a", sink):
        first, gaps = connection_of(own_live), sink.gaps
        own_server.process.send_signal(signal.SIGSTOP)
        await wait_until("the gap", lambda: sink.gaps > gaps)
        own_server.process.send_signal(signal.SIGCONT)
        await wait_until("another connection", lambda: connection_of(own_live) not in (None, first))
        async with Redis.from_url(own_server.url) as redis:
            await wait_until("a subscription", lambda: heard(redis, "a"))
            await hears(redis, "a", sink)


async def test_the_ping_leaves_a_quiet_connection_alone(
    redis: Redis, live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriber_module, "_PING_INTERVAL_S", 0.1)
    sink = Sink()
    async with live.subscribed("a", sink):
        line, gaps = connection_of(live), sink.gaps
        pings = await _calls(redis, "ping")
        await wait_until("some pings", lambda: _more_calls(redis, "ping", pings + 3))
        assert connection_of(live) is line
        assert sink.gaps == gaps


async def test_it_survives_a_restart_of_the_server(own_server: Server, own_live: Live) -> None:
    sink = Sink()
    async with own_live.subscribed("a", sink):
        gaps = sink.gaps
        own_server.stop()
        await wait_until("the gap", lambda: sink.gaps > gaps)
        own_server.start()
        async with Redis.from_url(own_server.url) as redis:
            await wait_until("a subscription", lambda: heard(redis, "a"))
            await hears(redis, "a", sink)
    assert sink.gaps >= gaps + 2


async def test_a_server_that_accepts_and_never_answers_does_not_hold_it_for_ever(
    redis_server: Server, redis: Redis, tmp_path: Path
) -> None:
    """Red without the timeout around the handshake: only the first connection is mute."""
    path, connections = str(tmp_path / "proxy.sock"), 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        if connections == 1:
            await reader.read()  # until it is closed
        else:
            upstream = await asyncio.open_unix_connection(str(redis_server.socket))
            await asyncio.gather(_copy(reader, upstream[1]), _copy(upstream[0], writer))
        writer.close()

    async with await asyncio.start_unix_server(serve, path):
        settings = Settings.model_validate({"redis_url": f"unix://{path}", "redis_timeout_s": 0.2})
        live = Live(servers_of(settings), patience_s=5)
        sink = Sink()
        async with live.subscribed("a", sink):
            await hears(redis, "a", sink)
        assert connections == 2
        await live.aclose()


async def test_closing_closes_the_connection_and_can_be_repeated(redis: Redis, live: Live) -> None:
    async with live.subscribed("a", Sink()):
        assert await subscribers(redis) == 1
        await live.aclose()
        await live.aclose()
        await wait_until("the connection to be gone", lambda: _no_subscriber(redis))


async def test_closing_while_it_connects_leaves_nothing_behind(own_server: Server) -> None:
    """An unclosed transport would warn."""
    assert own_server.process is not None
    own_server.process.send_signal(signal.SIGSTOP)
    live = Live(servers_of(Settings.model_validate({"redis_url": own_server.url})), patience_s=None)
    joining = asyncio.create_task(join_and_leave(live, "a"))
    await asyncio.sleep(0.05)  # it waits in the handshake: there is nothing to see from outside
    joining.cancel()
    await asyncio.wait([joining])
    await live.aclose()
    gc.collect()


@pytest.mark.parametrize("protocol", [2, 3])
async def test_whatever_protocol_the_url_asks_for(
    redis_server: Server, redis: Redis, protocol: int
) -> None:
    url = f"{redis_server.url}?protocol={protocol}"
    live = Live(servers_of(Settings.model_validate({"redis_url": url})), patience_s=2)
    sink = Sink()
    async with live.subscribed("a", sink):
        await hears(redis, "a", sink)
    await live.aclose()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


async def _no_subscriber(redis: Redis) -> bool:
    return await subscribers(redis) == 0


async def _calls(redis: Redis, command: str) -> int:
    stats = await redis.info("commandstats")
    return int(stats.get(f"cmdstat_{command}", {"calls": 0})["calls"])


async def _more_calls(redis: Redis, command: str, than: int) -> bool:
    return await _calls(redis, command) > than
