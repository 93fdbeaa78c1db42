"""Tenants: whose job it is stands in all that is known of it; their jobs are listed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis

from darkq import Client, InvalidJob, Settings
from darkq.event import Cursor
from darkq.jobs.job_lists import MAX_LISTED
from darkq.protocol.keys import JobKeys, PartitionKeys
from support.by_hand import Hand

names = st.none() | st.text(min_size=1, max_size=5)


@given(names, st.text(min_size=1, max_size=5), names, st.text(min_size=1, max_size=5))
def test_two_tenants_never_share_a_key(
    tenant: str | None, key: str, other_tenant: str | None, other_key: str
) -> None:
    try:
        one, other = (
            PartitionKeys(0).idempotency(key, tenant),
            PartitionKeys(0).idempotency(other_key, other_tenant),
        )
    except UnicodeEncodeError:
        return  # refused before
    assert (one == other) == ((tenant, key) == (other_tenant, other_key))


async def test_a_tenant_stands_in_every_state(client: Client, redis: Redis) -> None:
    hand = Hand(redis)
    jobs = [await client.enqueue("x", tenant="t") for _ in range(4)]
    await jobs[0].cancel()
    claims = {claim.keys.public_id: claim for claim in await hand.claim(slots=2)}
    assert [(await job.status()).tenant for job in jobs] == ["t"] * 4
    assert [(await job.status()).state for job in jobs[1:]] == ["running"] * 2 + ["queued"]
    assert set(claims) == {job.id for job in jobs[1:3]}


@pytest.mark.parametrize("tenant", ["", "a\n", "x" * 201, 7])
async def test_what_is_no_name_is_refused(client: Client, tenant: Any) -> None:
    with pytest.raises(InvalidJob) as caught:
        await client.enqueue("x", tenant=tenant)
    assert caught.value.field == "tenant"


async def test_jobs_are_listed_by_tenant_the_newest_first(
    make_settings: Callable[..., Settings], redis: Redis
) -> None:
    async with Client(settings=make_settings(partitions=3)) as client:
        ids: dict[str | None, list[str]] = {None: [], "a": [], "b": []}
        for _ in range(10):
            for tenant, known in ids.items():
                known.append((await client.enqueue("x", tenant=tenant)).id)
        for tenant, known in ids.items():
            listed = await client.jobs(tenant=tenant)
            assert [status.job_id for status in listed] == known[::-1]
            assert {status.tenant for status in listed} == {tenant}
        assert [s.job_id for s in await client.jobs(tenant="a", limit=3)] == ids["a"][:-4:-1]
        assert await client.jobs(tenant="c") == []


async def test_what_has_expired_is_left_out(client: Client, redis: Redis) -> None:
    gone, kept = await client.enqueue("x"), await client.enqueue("x")
    await gone.cancel()
    keys = JobKeys.parse(gone.id)
    await redis.delete(keys.result, keys.events)
    assert [status.job_id for status in await client.jobs()] == [kept.id]


async def test_a_failed_job_that_runs_again_is_listed_once(client: Client, redis: Redis) -> None:
    hand = Hand(redis)
    claim = await hand.take()
    await hand.fail(claim, Cursor(1, 0))
    await client.job(claim.keys.public_id).retry()
    assert [status.state for status in await client.jobs()] == ["queued"]


async def test_a_list_is_bounded_and_expires(client: Client, redis: Redis) -> None:
    jobs = await client.enqueue_many(["x"] * (MAX_LISTED + 10))
    assert await redis.zcard(PartitionKeys(0).tenant_jobs(None)) == MAX_LISTED
    assert await redis.pttl(PartitionKeys(0).tenant_jobs(None)) > 0
    listed = await client.jobs(limit=5)
    assert [status.job_id for status in listed] == [job.id for job in jobs[:-6:-1]]
