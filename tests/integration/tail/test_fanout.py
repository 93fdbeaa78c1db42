"""One fan-out for all readers of a job: each has every event once and in order, at its own pace."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from darkq import event as ev
from darkq.errors import CursorGone, JobNotFound
from darkq.event import START, AnyEvent, Cursor
from darkq.jobs import fanout, mailbox
from darkq.jobs import tail as log_pages
from darkq.jobs.fanout import Fanouts, Share
from darkq.protocol.keys import JobKeys
from support.by_hand import Hand, chunk, event_ids, silent
from support.servers import Server
from support.waiting import wait_until

from .conftest import Lossy, Reader, Socket
from .scenes import completed, in_mid_stream, next_attempt
from .test_any_story import READERS, Story, places, play, readers, steps

StartSocket = Callable[..., Socket]


@pytest.fixture
async def read(fanouts: Fanouts) -> Any:
    """Start readers of a job; those that still read at the end of the test leave."""
    sockets: list[Socket] = []

    def start(keys: JobKeys, after: Cursor = START) -> Socket:
        sockets.append(Socket(fanouts, keys, after))
        return sockets[-1]

    yield start
    for socket in sockets:
        await socket.leave()
    assert fanouts._fanouts == {}


def all_live(*sockets: Socket) -> Callable[[], bool]:
    return lambda: all(socket.is_live for socket in sockets)


class TestSharing:
    async def test_all_readers_get_the_same_bytes_object(
        self, hand: Hand, read: StartSocket, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Red when a share is made per reader."""
        shares: list[Share] = []
        deliver = Socket.deliver

        def record(self: Socket, share: Share) -> bool:
            shares.append(share)
            return deliver(self, share)

        monkeypatch.setattr(Socket, "deliver", record)
        claim = await in_mid_stream(hand)
        sockets = [read(claim.keys) for _ in range(200)]
        await wait_until("all to be live", all_live(*sockets))
        await hand.append(claim, chunk(1, 4))
        await wait_until("the chunk", lambda: all(s.seen[-1].id == "1-4" for s in sockets))
        assert len(shares) == len(sockets)
        assert len({id(share) for share in shares}) == 1

    async def test_live_readers_read_no_log(
        self, hand: Hand, redis: Redis, read: StartSocket
    ) -> None:
        claim = await in_mid_stream(hand)
        sockets = [read(claim.keys) for _ in range(20)]
        await wait_until("all to be live", all_live(*sockets))
        reads = await _reads(redis)
        for n in range(4, 50):
            await hand.append(claim, chunk(1, n))
        await hand.complete(claim, "x" * 49, Cursor(1, 50))
        for socket in sockets:
            await socket.end()
            assert socket.ids == await event_ids(redis, claim.keys)
        assert await _reads(redis) - reads == len(sockets)  # those of `event_ids`

    async def test_a_reader_may_join_at_every_cursor_while_events_arrive(
        self, hand: Hand, redis: Redis, read: StartSocket
    ) -> None:
        """Red when events of the last log read are not kept for the reader."""
        claim = await in_mid_stream(hand)
        first = read(claim.keys)
        await wait_until("it to be live", all_live(first))
        sockets: list[tuple[Cursor, Socket]] = []
        for n in range(4, 40):
            after = Cursor(1, n - 4)
            sockets += [(cursor, read(claim.keys, cursor)) for cursor in (after, Cursor(0, 1))]
            await hand.append(claim, chunk(1, n))
        await hand.complete(claim, "x" * 39, Cursor(1, 40))
        ids = await event_ids(redis, claim.keys)
        for cursor, socket in sockets:
            await socket.end()
            assert socket.ids == ids[ids.index(str(cursor)) + 1 :]

    async def test_silent_readers_are_pinged(self, hand: Hand, redis: Redis, live: Lossy) -> None:
        """Red without the timer of the fan-out."""
        fanouts = Fanouts(redis, live, ping_after_s=0.02, on_relayed=lambda *_: None)
        claim = await in_mid_stream(hand)
        sockets = [Socket(fanouts, claim.keys) for _ in range(3)]
        await wait_until("pings", lambda: all(socket.pings > 2 for socket in sockets))
        for socket in sockets:
            await socket.leave()

    async def test_relays_are_counted_by_reader(
        self, hand: Hand, redis: Redis, live: Lossy
    ) -> None:
        relayed: list[int] = []
        fanouts = Fanouts(
            redis,
            live,
            ping_after_s=30,
            on_relayed=lambda seconds, readers: relayed.append(readers),
        )
        claim = await in_mid_stream(hand)
        sockets = [Socket(fanouts, claim.keys) for _ in range(fanout.ROUND + 7)]
        await wait_until("all to be live", all_live(*sockets))
        await hand.append(claim, chunk(1, 4))
        await wait_until("the chunk", lambda: sum(relayed) == len(sockets))
        assert max(relayed) == fanout.ROUND
        for socket in sockets:
            await socket.leave()


class TestSlowReaders:
    async def test_one_among_fast_ones_delays_none_and_misses_nothing(
        self, hand: Hand, redis: Redis, live: Lossy, read: StartSocket
    ) -> None:
        """Red when a full socket is written to, or when the others wait for it."""
        claim = await in_mid_stream(hand)
        slow, *fast = sockets = [read(claim.keys) for _ in range(10)]
        await wait_until("all to be live", all_live(*sockets))
        slow.full = True
        for n in range(4, 1000):
            await hand.append(claim, chunk(1, n))
        await wait_until("the fast ones", lambda: all(s.ids[-1] == "1-999" for s in fast))
        assert slow.ids[-1] in ("1-4", "1-5")
        (kept,) = (each for each in _open(slow) if each)
        assert kept._events == []  # the slow one costs no memory
        await slow.empty()
        await wait_until("the slow one", lambda: slow.ids[-1] == "1-999")
        await wait_until("it to be live again", all_live(slow))
        assert live.overflows == 1
        await hand.complete(claim, "x" * 999, Cursor(1, 1000))
        for socket in sockets:
            await socket.end()
            assert socket.ids == await event_ids(redis, claim.keys)

    async def test_a_reader_that_is_full_at_the_end_has_it(
        self, hand: Hand, redis: Redis, read: StartSocket
    ) -> None:
        claim = await in_mid_stream(hand)
        socket = read(claim.keys)
        await wait_until("it to be live", all_live(socket))
        socket.full = True
        await hand.complete(claim, "xxx", Cursor(1, 4))
        await socket.end()
        assert socket.ids == await event_ids(redis, claim.keys)

    async def test_a_ping_that_does_not_fit_makes_a_reader_slow(
        self, hand: Hand, redis: Redis, live: Lossy
    ) -> None:
        fanouts = Fanouts(redis, live, ping_after_s=0.02, on_relayed=lambda *_: None)
        claim = await in_mid_stream(hand)
        socket = Socket(fanouts, claim.keys)
        await wait_until("it to be live", all_live(socket))
        socket.full = True
        await wait_until("it to leave", lambda: not socket.is_live)
        await socket.empty()
        await hand.complete(claim, "xxx", Cursor(1, 4))
        await socket.end()
        assert socket.ids == await event_ids(redis, claim.keys)


class TestMemory:
    @pytest.mark.parametrize(
        ("bound", "value"), [("MAX_EVENTS", 8), ("MAX_BYTES", 3000)], ids=["events", "bytes"]
    )
    async def test_what_is_kept_for_a_reader_that_catches_up_is_bounded(
        self, hand: Hand, redis: Redis, read: StartSocket, monkeypatch: Any, bound: str, value: int
    ) -> None:
        """Red without the bound in `_publish`."""
        monkeypatch.setattr(fanout, bound, value)
        claim = await in_mid_stream(hand)
        fast = read(claim.keys)
        await wait_until("it to be live", all_live(fast))
        slow = read(claim.keys)
        slow.full = True  # from its first page on, so it never joins
        await wait_until("its first page", lambda: slow.sent)
        (open_,) = _open(fast)
        for n in range(4, 60):
            await hand.append(claim, chunk(1, n, "x" * 100))
            assert len(open_._events) <= fanout.MAX_EVENTS
            assert sum(map(len, open_._frames)) == open_._kept_bytes <= fanout.MAX_BYTES
        await wait_until("the fast one", lambda: fast.ids[-1] == "1-59")
        assert open_._events
        await slow.empty()
        await hand.complete(claim, "x", Cursor(1, 60))
        for socket in (fast, slow):
            await socket.end()
            assert socket.ids == await event_ids(redis, claim.keys)

    async def test_an_event_above_the_bound_comes_from_the_log(
        self, hand: Hand, redis: Redis, read: StartSocket, monkeypatch: Any
    ) -> None:
        monkeypatch.setattr(fanout, "MAX_BYTES", 1000)
        claim = await in_mid_stream(hand)
        sockets = [read(claim.keys) for _ in range(3)]
        await wait_until("all to be live", all_live(*sockets))
        sent = [socket.sent for socket in sockets]
        await hand.append(claim, chunk(1, 4, "x" * 2000))
        await hand.append(claim, chunk(1, 5))
        await wait_until("both", lambda: all(s.ids[-1] == "1-5" for s in sockets))
        assert all(socket.sent > before for socket, before in zip(sockets, sent, strict=True))
        await wait_until("all to be live", all_live(*sockets))

    async def test_nothing_is_kept_when_all_are_live(self, hand: Hand, read: StartSocket) -> None:
        """Red when events are kept that all readers have had."""
        claim = await in_mid_stream(hand)
        socket = read(claim.keys)
        await wait_until("it to be live", all_live(socket))
        (open_,) = _open(socket)
        for n in range(4, 30):
            await hand.append(claim, chunk(1, n))
        await wait_until("all", lambda: socket.ids[-1] == "1-29")
        assert (open_._events, open_._frames, open_._kept_bytes) == ([], [], 0)


class TestLeaving:
    async def test_the_last_reader_ends_the_subscription(
        self, hand: Hand, redis: Redis, live: Lossy, fanouts: Fanouts, read: StartSocket
    ) -> None:
        claim = await in_mid_stream(hand)
        sockets = [read(claim.keys) for _ in range(5)]
        await wait_until("all to be live", all_live(*sockets))
        for socket in sockets[1:]:
            await socket.leave()
        await hand.append(claim, chunk(1, 4))
        await wait_until("the chunk", lambda: sockets[0].ids[-1] == "1-4")
        await sockets[0].leave()
        assert (live._channels, fanouts._fanouts) == ({}, {})
        await wait_until("nobody to listen", lambda: silent(redis, claim.keys.live))

    @pytest.mark.parametrize("after", [START, Cursor(1, 2)])
    async def test_leaving_at_any_await_leaves_nothing_behind(
        self, hand: Hand, live: Lossy, fanouts: Fanouts, read: StartSocket, after: Cursor
    ) -> None:
        claim = await in_mid_stream(hand)
        stages = set()
        for turns in range(60):
            socket = read(claim.keys, after)
            for _ in range(turns):
                await asyncio.sleep(0)
            if turns > 40:  # the server needs a moment
                await asyncio.sleep(0.001 * (turns - 40))
            stages.add((len(socket.seen), socket.is_live))
            await socket.leave()
            assert (live._channels, fanouts._fanouts) == ({}, {})
        assert len(stages) > 1, "some left before the first event, some after"


class TestErrors:
    async def test_an_unknown_job(self, read: StartSocket) -> None:
        with pytest.raises(JobNotFound):
            await read(JobKeys.new(0)).end()

    async def test_a_cursor_beyond_the_log(self, hand: Hand, read: StartSocket) -> None:
        claim = await in_mid_stream(hand)
        first = read(claim.keys)
        await wait_until("it to be live", all_live(first))
        with pytest.raises(CursorGone):
            await read(claim.keys, Cursor(9, 9)).end()
        await hand.complete(claim, "xxx", Cursor(1, 4))
        await first.end()

    async def test_a_log_that_has_lost_events_is_an_error_of_each_reader(
        self, hand: Hand, redis: Redis, read: StartSocket
    ) -> None:
        claim = await in_mid_stream(hand)
        sockets = [read(claim.keys) for _ in range(3)]
        await wait_until("all to be live", all_live(*sockets))
        await redis.xtrim(claim.keys.events, maxlen=0)
        await hand.append(claim, chunk(1, 9))
        for socket in sockets:
            with pytest.raises(CursorGone):
                await socket.end()

    async def test_a_message_that_is_no_event_is_a_gap(
        self, hand: Hand, redis: Redis, read: StartSocket
    ) -> None:
        claim = await in_mid_stream(hand)
        socket = read(claim.keys)
        await wait_until("it to be live", all_live(socket))
        for message in (b"{", b'{"type":"chunk","id":"x","text":""}', b'{"type":"chunk","id":1}'):
            await redis.publish(claim.keys.live, message)
        await hand.append(claim, chunk(1, 4))
        await hand.complete(claim, "xxxx", Cursor(1, 5))
        await socket.end()
        assert socket.ids == await event_ids(redis, claim.keys)


class TestAttempts:
    async def test_a_superseded_attempt_is_followed_by_the_next(
        self, hand: Hand, redis: Redis, read: StartSocket
    ) -> None:
        claim = await in_mid_stream(hand)
        sockets = [read(claim.keys) for _ in range(3)]
        await wait_until("all to be live", all_live(*sockets))
        claim = await next_attempt(hand, claim, 4)
        await hand.append(claim, ev.Started(id="2-0", attempt=2, model="m", upstream="u", at_ms=1))
        late = read(claim.keys, Cursor(1, 2))
        await hand.append(claim, chunk(2, 1))
        await hand.complete(claim, "x", Cursor(2, 2))
        ids = await event_ids(redis, claim.keys)
        for socket in sockets:
            await socket.end()
            assert socket.ids == ids
        await late.end()
        assert late.ids == ids[ids.index("1-2") + 1 :]

    async def test_a_finished_job_is_read_from_the_log(
        self, hand: Hand, redis: Redis, read: StartSocket
    ) -> None:
        claim = await completed(hand)
        socket = read(claim.keys)
        await socket.end()
        assert socket.ids == await event_ids(redis, claim.keys)
        assert not socket.is_live


class SocketStory(Story):
    """A story whose readers share a fan-out, and may have full sockets."""

    def __init__(self, redis: Redis, live: Lossy) -> None:
        super().__init__(redis, live)
        self.fanouts = Fanouts(redis, live, ping_after_s=0.005, on_relayed=lambda *_: None)

    def start_reader(self, after: Cursor) -> Reader:
        return Socket(self.fanouts, self.job.keys, after)

    async def fill(self, number: int) -> None:
        if (reader := self.readers[number]) is not None:
            assert isinstance(reader, Socket)
            reader.full = True

    async def empty(self, number: int) -> None:
        if (reader := self.readers[number]) is not None:
            assert isinstance(reader, Socket)
            await reader.empty()

    async def end(self, places: list[int], *, has_history: bool) -> tuple[str, list[AnyEvent]]:
        for number in range(READERS):
            await self.empty(number)
        return await super().end(places, has_history=has_history)


socket_steps = st.one_of(
    steps, st.tuples(st.just("fill"), readers), st.tuples(st.just("empty"), readers)
)


@settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    story=st.lists(socket_steps, min_size=3, max_size=25),
    places=places,
    has_history=st.booleans(),
)
def test_every_reader_of_a_fanout_has_the_whole_story(
    redis_server: Server,
    monkeypatch: pytest.MonkeyPatch,
    story: list[tuple[Any, ...]],
    places: list[int],
    *,
    has_history: bool,
) -> None:
    """Red when a reader joins without the events of its last log read, or at another run's."""
    monkeypatch.setattr(mailbox, "MAX_MESSAGES", 4)
    monkeypatch.setattr(fanout, "MAX_EVENTS", 4)
    monkeypatch.setattr(fanout, "ROUND", 2)
    monkeypatch.setattr(log_pages, "PAGE_EVENTS", 5)
    playing = play(redis_server.url, story, SocketStory, places=places, has_history=has_history)
    asyncio.run(playing)


def _open(socket: Socket) -> list[fanout.Fanout]:
    """Return the fan-outs that are open."""
    frame = socket.task.get_coro().cr_frame  # type: ignore[union-attr]
    return list(frame.f_locals["self"]._fanouts.values())


async def _reads(redis: Redis) -> int:
    return int((await redis.info("commandstats")).get("cmdstat_xrange", {"calls": 0})["calls"])
