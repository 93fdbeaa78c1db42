"""A job's events from any point: the log first, then live, each exactly once and in order."""

from __future__ import annotations

import asyncio

import pytest
from redis.asyncio import Redis

from darkq import event as ev
from darkq.errors import CursorGone, JobNotFound
from darkq.event import START, Chunk, Completed, Cursor
from darkq.jobs import tail as event_log
from darkq.jobs import tail as log_pages
from darkq.jobs.cancel import cancel
from darkq.protocol.keys import JobKeys
from darkq.protocol.record import encode
from support.by_hand import Hand, chunk, event_ids, heard, result_record, started
from support.waiting import wait_until

from .conftest import StartReader
from .scenes import completed, in_mid_stream


async def test_from_the_queue_to_the_end(hand: Hand, redis: Redis, read: StartReader) -> None:
    keys = await hand.enqueue()
    reader = read(keys)
    await wait_until("the first event", lambda: reader.ids == ["0-1"])
    claim = await hand.claim_one()
    await hand.append(claim, started(1), chunk(1, 1, "a"))
    await wait_until("more", lambda: reader.ids == ["0-1", "1-0", "1-1"])
    await hand.append(claim, chunk(1, 2, "b"))
    await wait_until("more", lambda: reader.ids[-1] == "1-2")
    await hand.complete(claim, "ab", Cursor(1, 3))
    await reader.end()
    assert reader.ids == await event_ids(redis, keys)
    assert reader.text(1) == "ab"


@pytest.mark.parametrize("chunks", [0, 1, 6, 7, 8, 30])
async def test_who_comes_after_the_end_gets_it_all(
    hand: Hand, redis: Redis, read: StartReader, monkeypatch: pytest.MonkeyPatch, chunks: int
) -> None:
    """Also when the log is some pages long, or ends with one."""
    monkeypatch.setattr(log_pages, "PAGE_EVENTS", 5)
    claim = await completed(hand, chunks)
    reader = read(claim.keys)
    await reader.end()
    assert reader.ids == await event_ids(redis, claim.keys)
    assert reader.batches == -(-(chunks + 3) // 5)


@pytest.mark.parametrize("at", range(6))
async def test_resuming_anywhere_gives_the_rest(
    hand: Hand, redis: Redis, read: StartReader, at: int
) -> None:
    claim = await completed(hand)
    ids = await event_ids(redis, claim.keys)
    reader = read(claim.keys, Cursor.parse(ids[at]))
    await reader.end()
    assert reader.ids == ids[at + 1 :]


async def test_resuming_in_mid_stream(hand: Hand, read: StartReader) -> None:
    claim = await in_mid_stream(hand)
    reader = read(claim.keys, Cursor(1, 3))
    await hand.append(claim, chunk(1, 4))
    await wait_until("the new chunk", lambda: reader.ids == ["1-4"])


async def test_a_new_attempt_is_followed_live(hand: Hand, read: StartReader) -> None:
    claim = await in_mid_stream(hand)
    reader = read(claim.keys, Cursor(1, 2))
    await wait_until("what is there", lambda: reader.ids == ["1-3"])
    await hand.release(claim, ev.Retrying(id="1-4", attempt=1, reason="r", retry_in_s=0, at_ms=1))
    again = await hand.claim_one()
    await hand.append(again, started(2), chunk(2, 1))
    await hand.complete(again, "x", Cursor(2, 2))
    await reader.end()
    assert reader.ids == ["1-3", "1-4", "2-0", "2-1", "2-2"]


async def test_a_cancelled_job_ends_its_readers(hand: Hand, read: StartReader) -> None:
    keys = await hand.enqueue()
    reader = read(keys)
    await wait_until("the first event", lambda: reader.ids == ["0-1"])
    await cancel(hand.redis, keys, result_ttl_s=60)
    await reader.end()
    assert reader.ids == ["0-1", "1-0"]


class TestNothingIsThere:
    async def test_an_unknown_job_is_not_found_at_once(self, read: StartReader) -> None:
        for after in (START, Cursor(1, 4)):
            with pytest.raises(JobNotFound):
                await read(JobKeys.new(0), after).end(1)

    async def test_a_job_that_waits_without_a_log_is_waited_for(
        self, hand: Hand, redis: Redis, read: StartReader
    ) -> None:
        """Its log was evicted, or has never been: the result will tell."""
        claim = await hand.take()
        await redis.delete(claim.keys.events)
        reader = read(claim.keys)
        await wait_until("it to listen", lambda: heard(redis, claim.keys.live))
        assert not reader.task.done()
        await hand.complete(claim, "text", Cursor(1, 1))
        await reader.end()
        assert isinstance(reader.seen[-1], Completed)
        assert reader.text(1) == "text"

    async def test_the_record_gone_but_still_queued(
        self, hand: Hand, redis: Redis, read: StartReader
    ) -> None:
        keys = await hand.enqueue()
        await redis.delete(keys.job)
        reader = read(keys)
        await wait_until("the first event", lambda: reader.ids == ["0-1"])
        assert not reader.task.done()


class TestTheLogHasExpired:
    async def test_the_whole_text_stands_in_for_it(
        self, hand: Hand, redis: Redis, read: StartReader
    ) -> None:
        claim = await completed(hand)
        await redis.delete(claim.keys.events)
        reader = read(claim.keys)
        await reader.end()
        only, end = reader.seen
        assert isinstance(only, Chunk)
        assert isinstance(end, Completed)
        assert (only.text, only.merged) == ("xxx", 1)
        assert only.cursor < end.cursor

    @pytest.mark.parametrize("after", [Cursor(0, 1), Cursor(1, 2), Cursor(1, 4), Cursor(9, 9)])
    async def test_a_cursor_is_of_no_use(
        self, hand: Hand, redis: Redis, read: StartReader, after: Cursor
    ) -> None:
        claim = await completed(hand)
        await redis.delete(claim.keys.events)
        with pytest.raises(CursorGone) as caught:
            await read(claim.keys, after).end()
        assert (caught.value.job_id, caught.value.cursor) == (claim.keys.public_id, str(after))

    async def test_of_a_failed_job_the_end_is_left(
        self, hand: Hand, redis: Redis, read: StartReader
    ) -> None:
        from darkq.protocol.record import Failure

        claim = await in_mid_stream(hand)
        failure = Failure(type="JobFailed", code="c", message="m")
        record = encode(result_record(claim.keys, failure))
        await hand.finish(claim, ev.Failed(id="1-4", code="c", message="m", at_ms=1), result=record)
        await redis.delete(claim.keys.events)
        reader = read(claim.keys)
        await reader.end()
        assert reader.seen == [ev.Failed(id="1-0", code="c", message="m", at_ms=3)]


class TestTheEnd:
    async def test_the_terminal_events_own_cursor_ends_at_once(
        self, hand: Hand, read: StartReader
    ) -> None:
        claim = await completed(hand)
        reader = read(claim.keys, Cursor(1, 4))
        await reader.end(1)
        assert reader.seen == []

    @pytest.mark.parametrize("after", [Cursor(1, 5), Cursor(2, 0), Cursor(7, 1)])
    async def test_a_cursor_beyond_it_is_gone(
        self, hand: Hand, read: StartReader, after: Cursor
    ) -> None:
        claim = await completed(hand)
        with pytest.raises(CursorGone):
            await read(claim.keys, after).end(1)

    async def test_a_cursor_beyond_the_log_of_a_running_job_is_gone_at_once(
        self, hand: Hand, read: StartReader
    ) -> None:
        """Red when only a terminal event or a long silence makes the reader look."""
        claim = await in_mid_stream(hand)
        with pytest.raises(CursorGone):
            await read(claim.keys, Cursor(1, 9)).end(1)

    async def test_who_was_reading_when_redis_forgot_waits_for_the_worker_to_write_again(
        self, hand: Hand, read: StartReader, redis: Redis, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Red when a cursor beyond the log is gone for those who were reading, too."""
        monkeypatch.setattr(event_log, "SILENCE_S", 0.02)
        claim = await in_mid_stream(hand)
        reader = read(claim.keys)
        entries = await redis.xrange(claim.keys.events)
        ids = await event_ids(redis, claim.keys)
        await wait_until("it to have read it all", lambda: reader.ids == ids)
        await redis.delete(claim.keys.events)
        for event_id, fields in entries[:-1]:
            await redis.xadd(claim.keys.events, fields, id=event_id)
        await redis.pexpire(claim.keys.events, 60_000)
        await asyncio.sleep(0.2)  # several silences: the wait itself is what is tested
        last = Cursor.parse(ids[-1])
        await hand.append(claim, chunk(last.attempt, last.seq))
        await hand.complete(claim, "x", Cursor(last.attempt, last.seq + 1))
        await reader.end()
        assert reader.ids == await event_ids(redis, claim.keys)

    async def test_what_redis_forgot_and_got_again_is_not_seen_twice(
        self, hand: Hand, read: StartReader, redis: Redis
    ) -> None:
        claim = await in_mid_stream(hand, 5)
        reader = read(claim.keys)
        await wait_until("all of it", lambda: reader.ids[-1:] == ["1-5"])
        await redis.delete(claim.keys.events)  # …and come back without the last two
        for event in (*reader.seen[:-2], *reader.seen[-2:]):
            await redis.xadd(claim.keys.events, {"e": ev.encode(event)}, id=event.id)
            await redis.publish(claim.keys.live, ev.encode(event))
        await redis.expire(claim.keys.events, 60)
        await hand.complete(claim, "xxxxx", Cursor(1, 6))
        await reader.end()
        assert reader.ids == ["0-1", *(f"1-{n}" for n in range(7))]
