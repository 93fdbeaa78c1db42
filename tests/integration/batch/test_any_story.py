"""Any order of adding, working, failing, cancelling, expiring, taking and dying: it adds up."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress

import pytest
from redis.asyncio import Redis

from darkq import BatchFull, Client, Finished, Job, Line, LineEnded
from darkq.batches.batch import Batch
from darkq.batches.results import Position
from darkq.event import Cursor
from darkq.protocol.keys import BatchKeys
from support.by_hand import Hand, chunk, started

LINES = 40
WINDOW = 12
JOB = Job.create("hello", priority="bulk")


class Story:
    """One batch, its runner, its workers and a follower, one random step at a time."""

    def __init__(self, redis: Redis, client: Client, chance: random.Random) -> None:
        self.redis, self.client, self.chance = redis, client, chance
        self.hand = Hand(redis)
        self.batch: Batch = client.batch(window=WINDOW)
        self.keys = BatchKeys.parse(self.batch.id)
        self.taken: Counter[int] = Counter()
        self.followed: list[LineEnded] = []

    async def add(self) -> None:
        """Add lines from anywhere to anywhere: some are there, some have ended."""
        first = self.chance.randrange(1, LINES + 1)
        last = min(LINES, first + self.chance.randrange(8))
        with suppress(BatchFull):
            await self.batch.add_many(
                Line(number=n, custom_id=str(n), job=JOB) for n in range(first, last + 1)
            )

    async def work(self) -> None:
        """Claim some, and end them one way or another."""
        for claim in await self.hand.claim(bulk_slots=self.chance.randrange(1, 6), slots=5):
            await self.hand.append(claim, started(claim.attempt), chunk(claim.attempt, 1))
            if self.chance.random() < 0.2:
                await self.hand.release(claim)
            elif self.chance.random() < 0.2:
                await self.hand.fail(claim, Cursor(claim.attempt, 2))
            else:
                await self.hand.complete(claim, "x", Cursor(claim.attempt, 2))
                assert await self.hand.finish(claim) == 0, "it has ended"

    async def cancel_one(self) -> None:
        waiting = await self.redis.zrangebyscore(self.keys.lines, 0, 0)
        if waiting:
            job = self.keys.job(int(self.chance.choice(waiting)))
            if await self.redis.exists(job.job):
                await self.client.job(job.public_id).cancel()

    async def expire_one(self) -> None:
        results = await self.redis.keys("arq:result:*")
        if results:
            await self.redis.delete(self.chance.choice(sorted(results)))

    async def take(self) -> None:
        """Take a page, or some of it; the rest stays."""
        if await self._unacknowledged():
            async with aclosing(self.batch.collected()) as pages:
                page = await anext(pages)
            page = page[: self.chance.randrange(len(page) + 1)]
            await self.batch.acknowledge(page)
            self._count(page)

    async def die(self) -> None:
        """The runner is killed between two steps; another takes over."""
        await self.batch.__aexit__()
        self.batch = await self.client.batch(self.batch.id).__aenter__()

    async def follow(self) -> None:
        """Come back with a cursor, and leave with another."""
        wanted = await self._ended() - len(self.followed)
        if wanted:
            after = self.followed[-1].cursor if self.followed else None
            async with aclosing(self.client.batch(self.batch.id).events(after)) as ends:
                for _ in range(self.chance.randrange(1, wanted + 1)):
                    self.followed.append(await anext(ends))

    async def check(self) -> None:
        status = await self.batch.status()
        open_lines = await self.redis.zcount(self.keys.lines, 0, 0)
        known = await self.redis.zcard(self.keys.lines)
        assert known <= WINDOW
        assert status.outstanding == open_lines
        assert known - open_lines == await self._unacknowledged()
        assert status.added - known == sum(self.taken.values())
        assert status.acknowledged <= await self._ended()

    async def end(self) -> None:
        """Everything is added, worked on and taken."""
        while sum(self.taken.values()) < LINES:
            await self.add()
            await self.work()
            await self.take()
            await self.check()
        await self.batch.close_input()
        assert (await self.batch.status()).state == "completed"
        assert [page async for page in self.batch.collected()] == []

    def _count(self, page: list[Finished]) -> None:
        self.taken.update(end.number for end in page if end.outcome != "missing")

    async def _unacknowledged(self) -> int:
        return await self._ended() - (await self.batch.status()).acknowledged

    async def _ended(self) -> int:
        (ended,) = await self.redis.hmget(self.keys.batch, ["ended"])  # type: ignore[misc]
        return int(ended or 0)


@pytest.mark.parametrize("number", range(6))
async def test_every_line_ends_once_is_taken_once_and_leaves_nothing(
    redis: Redis, client: Client, job_keys: Callable[[], Awaitable[list[bytes]]], number: int
) -> None:
    seed = random.randrange(1 << 32)
    print("seed", seed)
    chance = random.Random(seed)
    story = Story(redis, client, chance)
    story.batch = await story.batch.__aenter__()
    steps = [
        *(story.add, story.add, story.work, story.take, story.follow),
        *(story.cancel_one, story.expire_one, story.die),
    ]
    for _ in range(60):
        await chance.choice(steps)()
        await story.check()
    await story.end()
    await story.batch.__aexit__()
    assert story.taken == Counter(range(1, LINES + 1))
    numbers = [Position.parse(end.cursor).number for end in story.followed]
    assert numbers == list(range(1, len(story.followed) + 1))
    assert await job_keys() == []
