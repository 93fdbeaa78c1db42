"""What a person sees of a tenant's jobs: the beginning of prompts, in each state of a job."""

from __future__ import annotations

from typing import Any

import pytest

from darkq import Client, JobFailed, JobNotFound
from darkq.protocol.keys import JobKeys
from darkq.protocol.record import KEPT_CHARS


async def test_a_prompt_is_whole_before_the_end_and_its_beginning_is_kept_after_it(
    client: Client, working: Any
) -> None:
    text = "ü" * (KEPT_CHARS + 500)
    job = await client.enqueue(text)
    stored = await client.job_lists.prompt(job.id)
    assert stored is not None
    assert (stored.messages[0].text, stored.is_whole) == (text, True)
    assert text.startswith((await client.job_lists.beginnings([job.id]))[job.id].prompt)
    await working(results_keep_prompts=True)
    await job.result(10)
    stored = await client.job_lists.prompt(job.id)
    assert stored is not None
    assert (stored.messages[0].text, stored.is_whole) == (text[:KEPT_CHARS], False)
    assert (await client.job_lists.beginnings([job.id]))[job.id].prompt == text[:KEPT_CHARS]


async def test_a_failed_job_has_its_whole_prompt(client: Client, working: Any) -> None:
    await working()
    job = await client.enqueue("[fault: status=400] x")
    with pytest.raises(JobFailed):
        await job.result(10)
    stored = await client.job_lists.prompt(job.id)
    assert stored is not None
    assert stored.is_whole
    assert await client.job_lists.count_failed(60) == 1
    assert await client.job_lists.count_failed(0.001) == 0


async def test_of_a_cancelled_job_nothing_is_kept(client: Client) -> None:
    job = await client.enqueue("x")
    await job.cancel()
    assert await client.job_lists.prompt(job.id) is None
    assert await client.job_lists.beginnings([job.id]) == {job.id: ("", "")}


async def test_records_that_cannot_be_read_hide_no_others(client: Client, redis: Any) -> None:
    good, spoilt, wrong = [await client.enqueue("x") for _ in range(3)]
    await redis.set(JobKeys.parse(spoilt.id).job, "no JSON", ex=60)
    await redis.delete(JobKeys.parse(wrong.id).job)
    await redis.hset(JobKeys.parse(wrong.id).job, "a", "b")
    await redis.expire(JobKeys.parse(wrong.id).job, 60)
    found = await client.job_lists.beginnings([wrong.id, spoilt.id, good.id])
    assert found == {wrong.id: ("", ""), spoilt.id: ("", ""), good.id: ("x", "")}
    assert await client.job_lists.prompt(spoilt.id) is None
    with pytest.raises(JobNotFound):
        await client.job_lists.prompt("nonsense")
