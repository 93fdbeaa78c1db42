"""A job's text, as a producer asks for it."""

from __future__ import annotations

import asyncio

import pytest
from redis.asyncio import Redis

from darkq import Client, CursorGone, JobCancelled, JobFailed, JobNotFound
from darkq.errors import AttemptSuperseded
from darkq.event import Cursor
from support.by_hand import Hand
from support.waiting import wait_until

from .scenes import Listener, all_of, fail, next_attempt, write, written


class TestText:
    async def test_of_a_finished_job(self, hand: Hand, client: Client) -> None:
        claim = await written(hand, "a", "b")
        await hand.complete(claim, "ab", Cursor(1, 3))
        assert await all_of(client.job(claim.keys.public_id).text()) == "ab"

    async def test_as_it_comes(self, hand: Hand, client: Client) -> None:
        keys = await hand.enqueue()
        listener = Listener(client.job(keys.public_id).text())
        claim = await hand.claim_one()
        await write(hand, claim, "a", "b")
        await wait_until("the text", lambda: listener.text == "ab")
        await hand.complete(claim, "ab", Cursor(1, 3))
        await listener.task

    async def test_it_begins_with_the_latest_attempt(self, hand: Hand, client: Client) -> None:
        claim = await written(hand, "old", "text")
        again = await next_attempt(hand, claim, 3)
        await write(hand, again, "new")
        await hand.complete(again, "new", Cursor(2, 2))
        assert await all_of(client.job(claim.keys.public_id).text()) == "new"

    async def test_attempts_are_never_joined(self, hand: Hand, client: Client) -> None:
        """Red without the check of `Started` in `text`."""
        claim = await written(hand, "old ")
        job = client.job(claim.keys.public_id)
        listener = Listener(job.text())
        await wait_until("the text", lambda: listener.text == "old ")
        again = await next_attempt(hand, claim, 2)
        await write(hand, again, "new", "er")
        with pytest.raises(AttemptSuperseded) as caught:
            await listener.task
        assert (caught.value.attempt, caught.value.cursor) == (2, "2-0")
        await hand.complete(again, "newer", Cursor(2, 3))
        assert await all_of(job.text(after=caught.value.cursor)) == "newer"

    async def test_an_attempt_that_gave_no_text_supersedes_nothing(
        self, hand: Hand, client: Client
    ) -> None:
        claim = await written(hand)
        listener = Listener(client.job(claim.keys.public_id).text())
        await asyncio.sleep(0)
        again = await next_attempt(hand, claim, 1)
        await write(hand, again, "new")
        await hand.complete(again, "new", Cursor(2, 2))
        await listener.task
        assert listener.text == "new"

    @pytest.mark.parametrize(
        ("after", "text"),
        [("1-0", "abc"), ("1-1", "bc"), ("1-3", ""), ("1-4", "")],
    )
    async def test_resumed_in_the_same_attempt(
        self, hand: Hand, client: Client, after: str, text: str
    ) -> None:
        claim = await written(hand, "a", "b", "c")
        await hand.complete(claim, "abc", Cursor(1, 4))
        assert await all_of(client.job(claim.keys.public_id).text(after=after)) == text

    @pytest.mark.parametrize("after", ["1-1", "1-2", "1-3"])
    async def test_resumed_over_a_new_attempt(self, hand: Hand, client: Client, after: str) -> None:
        """Who comes with a cursor has had text before it."""
        claim = await written(hand, "a", "b")
        await write(hand, await next_attempt(hand, claim, 3), "new")
        with pytest.raises(AttemptSuperseded):
            await all_of(client.job(claim.keys.public_id).text(after=after))

    @pytest.mark.parametrize("after", ["0-1", "1-0", ""])
    async def test_resumed_before_any_text(self, hand: Hand, client: Client, after: str) -> None:
        """Red when any cursor counts as text given out: nothing was, so nothing is superseded."""
        claim = await written(hand)
        again = await next_attempt(hand, claim, 1)
        await write(hand, again, "new")
        await hand.complete(again, "new", Cursor(2, 2))
        assert await all_of(client.job(claim.keys.public_id).text(after=after)) == "new"

    async def test_of_a_failed_job(self, hand: Hand, client: Client) -> None:
        claim = await written(hand, "half a")
        await fail(hand, claim, 2)
        listener = Listener(client.job(claim.keys.public_id).text())
        with pytest.raises(JobFailed) as caught:
            await listener.task
        assert listener.text == "half a"
        assert (caught.value.code, caught.value.message) == ("rejected", "no")
        assert caught.value.job_id == claim.keys.public_id

    async def test_of_a_cancelled_job(self, client: Client) -> None:
        job = await client.enqueue("hi")
        await job.cancel()
        with pytest.raises(JobCancelled):
            await all_of(job.text())

    @pytest.mark.parametrize("after", ["x", "1", "1-2-3"])
    async def test_a_cursor_that_is_none(self, client: Client, after: str) -> None:
        job = await client.enqueue("hi")
        with pytest.raises(ValueError, match="not a cursor"):
            await all_of(job.text(after=after))
        with pytest.raises(ValueError, match="not a cursor"):
            await anext(job.events(after=after))

    async def test_of_an_unknown_job(self, client: Client) -> None:
        unknown = client.job(f"0-{'0' * 32}")
        with pytest.raises(JobNotFound):
            await all_of(unknown.text())
        with pytest.raises(JobNotFound):
            await anext(unknown.events())

    async def test_when_the_log_has_expired(self, hand: Hand, redis: Redis, client: Client) -> None:
        claim = await written(hand, "a", "b")
        await hand.complete(claim, "ab", Cursor(1, 3))
        await redis.delete(claim.keys.events)
        job = client.job(claim.keys.public_id)
        assert await all_of(job.text()) == "ab"
        with pytest.raises(CursorGone):
            await all_of(job.text(after="1-1"))
