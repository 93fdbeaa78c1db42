"""Connections that die at an awkward moment: while they are greeted, between two calls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
import uvloop
from redis.exceptions import ConnectionError

from darkq import Client, RedisUnavailable, Settings
from darkq.redis.pool import pool
from faults.proxy import FaultProxy
from support.servers import Server
from support.waiting import wait_until

MakeSettings = Callable[..., Settings]


async def test_a_connection_that_dies_in_its_handshake_is_made_anew(
    redis_server: Server, make_settings: MakeSettings
) -> None:
    """Red without `_PatientHandshake`: the first cut is told as `RedisUnavailable`."""
    async with FaultProxy(redis_server.socket) as proxy:
        client = Client(settings=make_settings(redis_url=proxy.url))
        proxy.cut_after(1, "reply")
        assert (await (await client.enqueue("hello")).status()).state == "queued"
        await client.aclose()


async def test_but_not_for_longer_than_patience_lasts(
    tmp_path: Path, make_settings: MakeSettings
) -> None:
    async with FaultProxy(tmp_path / "no-server") as proxy:
        settings = make_settings(redis_url=proxy.url, redis_patience_s=0.1)
        async with Client(settings=settings) as client:
            with pytest.raises(RedisUnavailable):
                await client.enqueue("hello")


def test_a_reset_is_a_lost_connection_under_uvloop_too(
    redis_server: Server, make_settings: MakeSettings
) -> None:
    """Red when `_Cancellable` lets uvloop's `RuntimeError` out: a heartbeat dies of it."""

    async def write_after_a_reset() -> None:
        async with FaultProxy(redis_server.socket) as proxy:
            connections = pool(make_settings(redis_url=proxy.url))
            connection = connections.make_connection()
            await connection.connect()
            transport = connection._writer.transport
            proxy.abort()
            await wait_until("the reset to be seen", transport.is_closing)
            with pytest.raises(ConnectionError):
                await connection.send_command("PING", check_health=False)
            await connections.aclose()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(write_after_a_reset())
