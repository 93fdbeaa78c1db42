"""Redis loses its latest writes: a crash with `everysec`, or a replica that had not heard of them.

The server is taken back to an earlier moment: `Past` dumps all keys there, and restores them later.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from contextlib import AsyncExitStack, aclosing, suppress

import pytest
from redis.asyncio import Redis

from darkq import BatchTaken, Client, CursorGone, Finished, Job, Line, Settings
from darkq.batches import batch as batches
from darkq.batches import lease as batch_lease
from darkq.batches.lease import Part
from darkq.batches.results import Position
from darkq.event import Cursor
from darkq.protocol.keys import BatchKeys, PartitionKeys
from support.by_hand import Hand, chunk, started
from support.past import Past
from support.waiting import wait_until

JOB = Job.create("hello", priority="bulk")
LINES = 30


def lines(*numbers: int) -> list[Line]:
    return [Line(number=n, custom_id=f"c{n}", job=JOB) for n in numbers]


async def answer(hand: Hand, *, slots: int = 1, text: str = "") -> None:
    """Run so many jobs to their end; each answer is another text."""
    for claim in await hand.claim(slots=slots, bulk_slots=slots):
        await hand.append(claim, started(claim.attempt), chunk(claim.attempt, 1))
        text = secrets.token_hex(4)
        await hand.complete(claim, text, Cursor(claim.attempt, 2))


async def page_of(batch: batches.Batch) -> list[Finished]:
    async with asyncio.timeout(5), aclosing(batch.collected()) as pages:
        return await anext(pages)


async def shuffle(redis: Redis, keys: BatchKeys, first: int) -> None:
    """Put one line's job before all others in the queue."""
    name = "darkq:{0}:bulk"
    [(_, least)] = await redis.zrange(name, 0, 0, withscores=True)
    await redis.zadd(name, {keys.job(first).arq_id: least - 1})


async def test_an_end_that_was_lost_is_not_acknowledged_under_its_old_number(
    client: Client, redis: Redis
) -> None:
    """Red when ends are acknowledged by number alone: the answer of line 2 is thrown away."""
    hand, past = Hand(redis), Past(redis)
    async with client.batch() as batch:
        keys = BatchKeys.parse(batch.id)
        await batch.add_many(lines(1, 2))
        await shuffle(redis, keys, 1)
        await past.keep()
        await answer(hand)
        (x,) = await page_of(batch)
        await past.come_back()
        await shuffle(redis, keys, 2)
        await answer(hand, slots=2)
        with pytest.raises(CursorGone):
            await batch.acknowledge([x])
        assert (await batch.status()).acknowledged == 0
        page = await page_of(batch)
        assert [end.number for end in page] == [2, 1]
        await batch.acknowledge(page)
        assert (await batch.status()).acknowledged == 2


async def test_what_was_not_lost_of_a_page_is_acknowledged(client: Client, redis: Redis) -> None:
    hand, past = Hand(redis), Past(redis)
    async with client.batch() as batch:
        await batch.add_many(lines(1, 2, 3))
        await answer(hand)
        await past.keep()
        await answer(hand, slots=2)
        page = await page_of(batch)
        await past.come_back()
        with pytest.raises(CursorGone):
            await batch.acknowledge(page)
        assert (await batch.status()).acknowledged == 1
        await answer(hand, slots=2)
        rest = await page_of(batch)
        assert sorted(end.number for end in rest) == [2, 3]


async def test_a_reader_notices_even_when_as_many_new_ends_came_as_were_lost(
    client: Client, redis: Redis
) -> None:
    """Red when a reader only compares numbers: it would never see the second of the new ends."""
    hand, past = Hand(redis), Past(redis)
    async with client.batch() as batch:
        await batch.add_many(lines(1, 2, 3, 4))
        await answer(hand)
        await past.keep()
        await answer(hand)
        cursors = [end.cursor for end in await page_of(batch)]
        await past.come_back()
        await answer(hand, slots=3)
        for stream in (batch.events(cursors[1]), batch.tail(cursors[1])):
            async with asyncio.timeout(5):
                with pytest.raises(CursorGone):
                    async for _ in stream:
                        pass
        async with aclosing(batch.events(cursors[0])) as ends:
            assert Position.parse((await anext(ends)).cursor).number == 2


async def test_a_cursor_from_before_does_not_hide_ends_that_were_not_taken(
    client: Client, redis: Redis
) -> None:
    """Red when `after` is a number alone: line 2 is taken for line 1, and never yielded."""
    hand, past = Hand(redis), Past(redis)
    async with client.batch() as batch:
        keys = BatchKeys.parse(batch.id)
        await batch.add_many(lines(1, 2))
        await shuffle(redis, keys, 1)
        await past.keep()
        await answer(hand)
        (x,) = await page_of(batch)
        await past.come_back()
        await shuffle(redis, keys, 2)
        await answer(hand, slots=2)
    async with client.batch(batch.id) as batch:
        rest = [end.number async for end in batch.run(["hello"] * 2, after=x.cursor)]
    assert sorted(rest) == [1, 2]


@pytest.mark.parametrize("number", range(4))
async def test_run_loses_no_line_whatever_redis_forgets(
    client: Client, redis: Redis, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Red when lost lines are not added again, when a lost `closed` is not repeated, or when
    `CursorGone` ends the run."""
    monkeypatch.setattr(batches, "SILENCE_S", 0.05)
    seed = secrets.randbits(32)
    print("seed", seed, number)
    chance, hand, past = random.Random(seed), Hand(redis), Past(redis)
    taken: list[int] = []
    async with client.batch(window=8) as batch, asyncio.TaskGroup() as tasks:
        await past.keep()

        async def consume() -> None:
            taken.extend([end.number async for end in batch.run(["hello"] * LINES)])

        consumer = tasks.create_task(consume())
        losses = 0
        while not consumer.done():
            step = chance.random()
            if step < 0.15:
                await past.keep()
            elif step < 0.3 and losses < 12:
                losses += 1
                await past.come_back()
            else:
                with suppress(AssertionError):  # its claim was forgotten in between
                    await answer(hand, slots=chance.randrange(1, 5))
            await asyncio.sleep(chance.choice([0, 0.005, 0.02]))
    assert set(taken) == set(range(1, LINES + 1))
    assert losses > 0 or len(taken) == LINES


async def test_a_lost_end_of_the_input_is_said_to_who_closed_it(
    client: Client, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red when the reader waits on for an end that only its own runner could bring about."""
    monkeypatch.setattr(batches, "SILENCE_S", 0.05)
    hand, past = Hand(redis), Past(redis)
    async with client.batch() as batch:
        await batch.add_many(lines(1, 2))
        await past.keep()
        await batch.add_many(lines(3))
        assert await batch.close_input(least=3)
        await past.come_back()
        await answer(hand, slots=2)
        await batch.acknowledge(await page_of(batch))
        with pytest.raises(CursorGone):
            await page_of(batch)
        assert not await batch.close_input(least=3)
        await batch.add_many(lines(1, 2, 3))
        assert await batch.close_input(least=3)
        await answer(hand)
        await batch.acknowledge(await page_of(batch))
        assert [page async for page in batch.collected()] == []


async def test_a_lost_lease_ends_the_run(
    client: Client, settings: Settings, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red when the heartbeat only ends: the run would wait for ends that another one takes."""
    monkeypatch.setattr(batch_lease, "LEASE_S", 0.3)
    batch = client.batch()
    async with Client(settings=settings) as other, AsyncExitStack() as stack:

        async def lose() -> None:
            async with batch:
                await redis.delete(BatchKeys.parse(batch.id).runner)
                await stack.enter_async_context(other.batch(batch.id))
                _ = [end async for end in batch.run(["hello"])]

        async with asyncio.timeout(5) as limit:
            with pytest.raises(BatchTaken):
                await lose()
        assert not limit.expired()
        task = asyncio.current_task()
        assert task is not None
        assert not task.cancelling()
        assert (await batch.status()).runner is not None


@pytest.mark.parametrize("refusal", ["OOM", "NOREPLICAS", "WRONGTYPE"])
async def test_a_lease_outlives_every_refusal(
    client: Client, redis: Redis, monkeypatch: pytest.MonkeyPatch, refusal: str
) -> None:
    """Red when only some errors of Redis are survived: the lease runs out while the run goes on."""
    monkeypatch.setattr(batch_lease, "LEASE_S", 0.3)
    async with client.batch() as batch:
        keys = BatchKeys.parse(batch.id)
        await refuse(redis, refusal)
        await asyncio.sleep(0.4)  # several heartbeats: they fail meanwhile
        await mend(redis, refusal)
        await redis.delete(keys.runner)  # only a heartbeat brings it back
        await wait_until("the lease is renewed", lambda: redis.exists(keys.runner))


async def refuse(redis: Redis, how: str) -> None:
    if how == "OOM":
        await redis.config_set("maxmemory", 1)
    elif how == "NOREPLICAS":
        await redis.config_set("min-replicas-to-write", 1)
    else:
        await redis.set(PartitionKeys(0).batches, "foreign", ex=60)


async def mend(redis: Redis, how: str) -> None:
    await redis.config_set("maxmemory", 0)
    await redis.config_set("min-replicas-to-write", 0)
    if how == "WRONGTYPE":
        await redis.delete(PartitionKeys(0).batches)


async def test_a_page_stored_as_a_part_is_acknowledged_whole_or_not_at_all(
    client: Client, redis: Redis
) -> None:
    """Red when a part counts whose ends were lost, or were acknowledged with another part."""
    hand, past = Hand(redis), Past(redis)
    async with client.batch() as batch:
        await batch.add_many(lines(1, 2, 3))
        await answer(hand)
        await past.keep()
        await answer(hand)
        page = await page_of(batch)
        await past.come_back()
        with pytest.raises(CursorGone):
            await batch.acknowledge(page, part=Part("lost", 60))
        assert (await batch.status()).acknowledged == 0
        await batch.acknowledge(page[:1], part=Part("first", 60))
        await batch.acknowledge(page[:1], part=Part("first", 60))  # its reply was lost
        await answer(hand)
        (_, second) = [page[0], *await page_of(batch)]
        with pytest.raises(CursorGone):
            await batch.acknowledge([page[0], second], part=Part("overlapping", 60))
        names = await redis.zrange(BatchKeys.parse(batch.id).parts, 0, -1)
        assert (names, (await batch.status()).acknowledged) == ([b"first"], 1)
