"""One subscriber connection for many: honest about every loss, and gone when nobody listens."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from redis.asyncio import Redis

from darkq import Settings
from darkq.redis.pubsub import Channel, Live, Subscriber
from darkq.redis.servers import servers_of
from support.by_hand import silent
from support.waiting import wait_until

from .listening import Sink, hears, join_and_leave, listeners, subscribers


async def test_from_the_moment_it_enters_every_message_arrives(redis: Redis, live: Live) -> None:
    sink = Sink()
    async with live.subscribed("a", sink):
        sent = [b"%d" % n for n in range(300)]
        for message in sent:
            await redis.publish("a", message)
        await wait_until("all messages", lambda: sink.messages == sent)


async def test_sinks_of_a_channel_share_it_and_channels_share_the_connection(
    redis: Redis, live: Live
) -> None:
    sinks = [Sink() for _ in range(6)]
    async with contextlib.AsyncExitStack() as stack:
        for n, sink in enumerate(sinks):
            await stack.enter_async_context(live.subscribed(f"c{n % 2}", sink))
        assert await subscribers(redis) == 1
        assert await listeners(redis, "c0") == 1
        await redis.publish("c0", b"even")
        await redis.publish("c1", b"odd")
        await wait_until("all messages", lambda: all(sink.messages for sink in sinks))
    assert [sink.messages for sink in sinks] == [[b"even"], [b"odd"]] * 3


async def test_the_last_to_leave_unsubscribes(redis: Redis, live: Live) -> None:
    async with live.subscribed("a", Sink()):
        async with live.subscribed("a", Sink()):
            pass
        assert await listeners(redis, "a") == 1
    await wait_until("nobody to listen", lambda: silent(redis, "a"))
    assert live._channels == {}


class Wire:
    """A line that does nothing until it is told."""

    def __init__(self) -> None:
        self.sent: list[bytes | str] = []

    def send(self, *commands: tuple[bytes | str, ...]) -> None:
        self.sent += [command[0] for command in commands]


async def test_a_reply_of_the_channels_first_life_does_not_confirm_its_second(
    monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    """Between them nobody listens. Red without `_joins_due`."""
    monkeypatch.setattr(Subscriber, "_run", lambda _: asyncio.sleep(60))
    live, wire, sink = Live(servers_of(settings), patience_s=5), Wire(), Sink()
    subscriber = live._subscriber_of(Channel("a"))
    monkeypatch.setattr(subscriber, "_connection", wire)
    first = asyncio.create_task(join_and_leave(live, "a"))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])
    async with contextlib.AsyncExitStack() as stack:
        second = asyncio.create_task(stack.enter_async_context(live.subscribed("a", sink)))
        await asyncio.sleep(0)
        assert wire.sent == ["SUBSCRIBE", "UNSUBSCRIBE", "SUBSCRIBE"]
        for reply in (b"subscribe", b"unsubscribe"):
            subscriber._dispatch([reply, b"a", 1])
            await asyncio.wait([second], timeout=0.01)
            assert not second.done()
        subscriber._dispatch([b"subscribe", b"a", 1])
        await asyncio.wait_for(second, 1)
        subscriber._dispatch([b"message", b"a", b"hello"])
        assert sink.messages == [b"hello"]
    assert subscriber._joins_due == {}
    await live.aclose()


async def test_leaving_and_joining_in_haste(redis: Redis, live: Live) -> None:
    for _ in range(50):
        hasty = asyncio.create_task(join_and_leave(live, "a"))
        await asyncio.sleep(0)
        hasty.cancel()
        await asyncio.wait([hasty])
        sink = Sink()
        async with live.subscribed("a", sink):
            (subscriber,) = live._subscribers.values()
            assert subscriber._joins_due == {}
            assert await redis.publish("a", b"hello") == 1
            await hears(redis, "a", sink)
            assert sink.messages[0] == b"hello"
    await wait_until("nobody to listen", lambda: silent(redis, "a"))
    assert live._channels == {}


async def test_many_that_come_and_go_at_once(redis: Redis, live: Live) -> None:
    async def visit(n: int) -> None:
        for turn in range(5):
            async with live.subscribed(f"c{(n + turn) % 3}", Sink()):
                await asyncio.sleep(0.001 * (n % 3))

    visits = [asyncio.create_task(visit(n)) for n in range(40)]
    for visit_ in visits[::4]:
        await asyncio.sleep(0)
        visit_.cancel()
    results = await asyncio.gather(*visits, return_exceptions=True)
    assert {type(result) for result in results} <= {type(None), asyncio.CancelledError}
    for channel in ("c0", "c1", "c2"):
        await wait_until("nobody to listen", lambda c=channel: silent(redis, c))  # type: ignore[misc]
    assert live._channels == {}


async def test_a_killed_connection_is_a_gap_twice_and_then_all_is_well(
    redis: Redis, live: Live
) -> None:
    """Once when it is lost, and once when the channel is subscribed anew."""
    sink = Sink()
    async with live.subscribed("a", sink):
        before = sink.gaps
        assert await redis.client_kill_filter(_type="pubsub") == 1
        await wait_until("both gaps", lambda: sink.gaps == before + 2)
        await hears(redis, "a", sink)
        assert await subscribers(redis) == 1


async def test_who_joins_while_the_connection_is_away_waits_for_it(
    redis: Redis, live: Live
) -> None:
    sink = Sink()
    async with live.subscribed("a", Sink()):
        for n in range(10):
            await redis.client_kill_filter(_type="pubsub")
            async with live.subscribed(f"b{n}", sink):
                assert await redis.publish(f"b{n}", b"x") in (0, 1)
                await hears(redis, f"b{n}", sink)


async def test_once_closed_it_starts_no_reader_that_nobody_owns(live: Live) -> None:
    await live.aclose()
    with pytest.raises(RuntimeError, match="closed"):
        async with live.subscribed("a", Sink()):
            pass
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "darkq-live"]
