"""A connection spoken to directly: replies in order, errors as replies, and its loss is told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError, ResponseError

from darkq import Settings
from darkq.redis.pool import pool
from darkq.redis.raw import RawConnection, connect
from support.waiting import wait_until


@asynccontextmanager
async def connected(settings: Settings) -> AsyncIterator[AbstractConnection]:
    connection = await connect(pool(settings))
    try:
        yield connection
    finally:
        await connection.disconnect(nowait=True)


async def test_replies_come_in_order_and_an_error_is_one_of_them(settings: Settings) -> None:
    replies: list[Any] = []
    async with connected(settings) as connection:
        line = RawConnection(connection, replies.append)
        line.send(("ECHO", "é"), ("NOSUCH", 1), ("ECHO", b"\0\r\n"), ("ECHO", b"x" * (1 << 20)))
        await wait_until("the replies", lambda: len(replies) == 4)
        assert replies[0] == "é".encode()
        assert isinstance(replies[1], ResponseError)
        assert replies[2:] == [b"\0\r\n", b"x" * (1 << 20)]
        assert not line.lost.done()


async def test_a_loss_is_told_and_nothing_is_sent_any_more(
    settings: Settings, redis: Redis
) -> None:
    async with connected(settings) as connection:
        line = RawConnection(connection, lambda _: None)
        await redis.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await wait_until("the loss", line.lost.done)
        assert isinstance(line.lost.result(), ConnectionError)
        line.send(("ECHO", "nobody"))


async def test_a_loss_before_it_was_taken_over_is_told_too(
    settings: Settings, redis: Redis
) -> None:
    """Red without the look in `RawConnection`: the one who was told is not there any more."""
    async with connected(settings) as connection:
        await redis.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        reader = connection._reader
        assert reader is not None
        await wait_until("the loss", reader.at_eof)
        line = RawConnection(connection, lambda _: None)
        await wait_until("the loss to be told", line.lost.done)
        assert isinstance(line.lost.result(), ConnectionError)


async def test_given_up_for_a_reason_it_is_lost_for_that(settings: Settings) -> None:
    reason = ResponseError("OOM")
    async with connected(settings) as connection:
        line = RawConnection(connection, lambda _: None)
        line.fail(reason)
        line.fail(ConnectionError("later"))
        assert await line.lost is reason


async def test_what_is_not_connected_cannot_be_taken_over(settings: Settings) -> None:
    async with connected(settings) as connection:
        await connection.disconnect(nowait=True)
        with pytest.raises(ConnectionError):
            RawConnection(connection, lambda _: None)
