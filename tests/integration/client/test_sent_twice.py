"""A script whose reply was lost is sent again: what it does is done once.

Every script that a producer or a gateway calls is sent twice here, and the second reply counts:
that is what a client hears whose first reply was lost.
"""

from __future__ import annotations

from typing import Any

import pytest
from redis.asyncio import Redis

from darkq import CannotRetry, Client, JobNotFound
from darkq.event import Cancelled, Cursor, Queued
from darkq.protocol.keys import BatchKeys, JobKeys, PartitionKeys, api_key_use
from darkq.redis.scripts.script import Command, Script
from support.by_hand import Hand


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Send each script twice; the set says which were."""
    names: set[str] = set()
    once = Script.run

    async def twice(self: Script, redis: Redis, command: Command) -> Any:
        names.add(self.name)
        await once(self, redis, command)
        return await once(self, redis, command)

    monkeypatch.setattr(Script, "run", twice)
    return names


async def test_a_producers_scripts(client: Client, redis: Redis, sent: set[str]) -> None:
    """Red when enqueue stores a job twice, or a cancelled one is cancelled anew."""
    first = await client.enqueue("one", tenant="alice", idempotency_key="17")
    assert not first.duplicate
    many = await client.enqueue_many(["two", "three"])
    assert await redis.zcard(PartitionKeys(0).queue("interactive")) == 3
    assert await redis.zcard(PartitionKeys(0).tenant_jobs("alice")) == 1
    assert [await redis.xlen(JobKeys.parse(job.id).events) for job in (first, *many)] == [1] * 3
    assert (await first.cancel()).state == "cancelled"
    events = [event async for event in first.events()]
    assert [type(event) for event in events] == [Queued, Cancelled]
    with pytest.raises(JobNotFound):  # as after the first: nothing is left
        await first.delete()
    assert not await redis.exists(JobKeys.parse(first.id).events)
    async with client.batch(name="b") as batch:
        await batch.add_many([])
        await batch.add("a line")
        await batch.close_input()
    keys = BatchKeys.parse(batch.id)
    assert (await batch.status()).added == await redis.zcard(keys.lines) == 1
    assert (await batch.cancel()).cancelled == 1
    assert sent == {"enqueue", "cancel", "forget", "batch_renew_lease", "batch_close"}


async def test_a_failed_job_is_revived_once(
    client: Client, redis: Redis, request: pytest.FixtureRequest
) -> None:
    """The second reply says that it waits already, which is so."""
    hand = Hand(redis)
    claim = await hand.take()
    await hand.fail(claim, Cursor(1, 0))
    sent: set[str] = request.getfixturevalue("sent")
    with pytest.raises(CannotRetry, match="it is queued"):
        await client.job(claim.keys.public_id).retry()
    assert await redis.zcard(PartitionKeys(0).queue("interactive")) == 1
    assert await redis.get(claim.keys.retry) == b"2"
    assert "revive" in sent


async def test_a_gateways_script(client: Client, redis: Redis, sent: set[str]) -> None:
    """Red when apikey_enter.lua does not note a call: its own place refuses it the second time."""
    key, _ = await client.api_keys.create("alice", rate_per_s=2, concurrency=2)
    for call in ("one", "two"):
        assert (await client.api_keys.enter(key, call, lease_s=30)).outcome == "entered"
    assert await redis.zcard(api_key_use(key.id)[1]) == 2
    assert sent == {"apikey_enter"}
