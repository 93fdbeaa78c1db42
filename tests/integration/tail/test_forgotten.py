"""A Redis that forgot what it had acknowledged gives an attempt's number twice."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from redis.asyncio import Redis

from darkq import event as ev
from darkq.errors import CursorGone
from darkq.event import AnyEvent, Cursor
from darkq.protocol.keys import JobKeys
from integration.tail.conftest import Lossy, Reader, StartReader
from support.by_hand import Hand, chunk, started
from support.servers import Server
from support.waiting import wait_until


async def _forget_the_attempt(redis: Redis, keys: JobKeys) -> None:
    """Leave the log as it was before the job was claimed."""
    queued = ev.Queued(id="0-1", at_ms=1)
    await redis.delete(keys.events)
    await redis.xadd(keys.events, {b"e": ev.encode(queued)}, "0-1")
    await redis.expire(keys.events, 60)


async def _run_again(hand: Hand, keys: JobKeys) -> None:
    again = ev.Started(id="1-0", attempt=1, model="m", upstream="u", at_ms=2)
    for event in (again, chunk(1, 1, "Two "), chunk(1, 2, "three "), chunk(1, 3, "four")):
        await hand.redis.xadd(keys.events, {b"e": ev.encode(event)}, event.id)
        await hand.redis.publish(keys.live, ev.encode(event))


@pytest.mark.parametrize("all_messages_are_lost", [False, True])
async def test_a_reader_takes_no_second_run_for_the_first(
    hand: Hand, redis: Redis, read: StartReader, live: Lossy, *, all_messages_are_lost: bool
) -> None:
    """Red when `LogReader` does not compare the `started` events: it joins "One " and "three "."""
    claim = await hand.take()
    reader = read(claim.keys)
    await hand.append(claim, started(1), chunk(1, 1, "One "))
    await wait_until("the first words", lambda: reader.text(1) == "One ")
    await _forget_the_attempt(redis, claim.keys)
    live.to_lose = 4 if all_messages_are_lost else 0
    await _run_again(hand, claim.keys)
    await redis.client_kill_filter(_type="pubsub")  # a gap, should nothing have been heard
    with pytest.raises(CursorGone):
        await reader.end()
    assert reader.text(1) == "One "


class FailsOver(Redis):
    """Once armed, its next reply is the last one of the old master: then `fail_over` runs."""

    fail_over: Callable[[], Awaitable[None]] | None = None

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        return await self._reply(super().execute_command(*args, **options))  # type: ignore[no-untyped-call]

    def pipeline(self, *args: Any, **options: Any) -> Any:
        pipe = super().pipeline(*args, **options)
        execute = pipe.execute
        pipe.execute = lambda *args, **options: self._reply(execute(*args, **options))  # type: ignore[method-assign]
        return pipe

    async def _reply(self, replying: Awaitable[Any]) -> Any:
        reply = await replying
        fail_over, self.fail_over = self.fail_over, None
        if fail_over is not None:
            await fail_over()
        return reply


async def test_a_failover_between_two_calls_joins_no_two_runs(
    hand: Hand, redis: Redis, redis_server: Server, live: Lossy
) -> None:
    """The log is forgotten and written anew as soon as a reader has read what began it.

    Red when `started` and the page after the cursor are read by two calls: the first is answered
    by the old master, the second by the new one, and "One " is joined with "three ".
    """
    claim = await hand.take()
    client = FailsOver.from_url(redis_server.url)
    reader = Reader(client, live, claim.keys)
    await hand.append(claim, started(1), chunk(1, 1, "One "))
    await wait_until("the first words", lambda: reader.text(1) == "One ")

    async def fail_over() -> None:
        await _forget_the_attempt(redis, claim.keys)
        await _run_again(hand, claim.keys)

    client.fail_over = fail_over
    await redis.client_kill_filter(_type="pubsub")  # so that the reader reads the log
    with pytest.raises(CursorGone):
        await reader.end()
    assert reader.text(1) == "One "
    await client.aclose()


async def test_a_log_that_its_own_writer_restores_is_read_on(
    hand: Hand, redis: Redis, read: StartReader
) -> None:
    claim = await hand.take()
    reader = read(claim.keys)
    events: list[AnyEvent] = [
        started(1),
        chunk(1, 1, "One "),
        chunk(1, 2, "two "),
        chunk(1, 3, "three"),
    ]
    await hand.append(claim, *events[:2])
    await wait_until("the first words", lambda: reader.text(1) == "One ")
    await _forget_the_attempt(redis, claim.keys)
    await redis.client_kill_filter(_type="pubsub")
    await hand.append(claim, *events)
    await hand.complete(claim, "One two three", Cursor(1, 4))
    await reader.end()
    assert reader.text(1) == "One two three"
