"""Who waits for a job: any order of coming, leaving and coming back."""

from __future__ import annotations

import asyncio

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from darkq import Client
from darkq.protocol.keys import JobKeys
from darkq.serving.request_dedup import Held
from support.waiting import wait_until

# A caller comes, leaves for good, or is lost with its gateway: then its lease must run out.
STEPS = st.lists(
    st.tuples(st.sampled_from(["comes", "stays away"]), st.integers(0, 3)), max_size=14
)


@given(story=STEPS)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_a_job_is_cancelled_when_its_last_caller_has_stayed_away(
    client: Client, story: list[tuple[str, int]]
) -> None:
    """Red when one caller holds the job, who came last: `is_last` must look at all of them."""
    job_id = JobKeys.new(0).public_id
    here: dict[int, Held] = {}
    over = False
    for what, who in story:
        if what == "comes":
            held = await client.reattachments.hold("ab" * 32, job_id)
            assert (held is None) == over
            if held is not None:
                await client.reattachments.is_last(here.pop(who)) if who in here else None
                here[who] = held
        elif who in here:
            last = await client.reattachments.is_last(here.pop(who))
            assert last == (not here)
            over = over or last


async def test_a_caller_that_has_left_counts_until_its_grace_is_over(client: Client) -> None:
    """Red when `leave` removes the caller at once."""
    job_id = JobKeys.new(0).public_id
    first = await client.reattachments.hold("ab" * 32, job_id)
    second = await client.reattachments.hold("cd" * 32, job_id)
    assert first is not None
    assert second is not None
    await client.reattachments.leave(first, grace_s=60)
    assert not await client.reattachments.is_last(second), "the first may come back"


async def test_a_caller_whose_gateway_died_counts_until_its_lease_is_over(
    client: Client, redis: Redis
) -> None:
    job_id = JobKeys.new(0).public_id
    lost = await client.reattachments.hold("ab" * 32, job_id)
    other = await client.reattachments.hold("ab" * 32, job_id)
    assert lost is not None
    assert other is not None
    await client.reattachments.leave(lost, grace_s=0.05)  # stands for the rest of a lease
    key = JobKeys.parse(job_id).waiters

    async def is_over() -> bool:
        seconds, micros = await redis.time()
        score = await redis.zscore(key, lost.holder)
        return score is None or score < seconds * 1000 + micros / 1000

    await wait_until("the lease to end", is_over)
    await asyncio.gather(*(client.reattachments.renew(other) for _ in range(3)))
    assert await client.reattachments.is_last(other)
