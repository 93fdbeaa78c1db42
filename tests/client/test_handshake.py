"""A connection that is accepted and dies before Redis has said a word."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from darkq import Client, RedisUnavailable, Settings
from faults.proxy import FaultProxy
from support.servers import Server

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
