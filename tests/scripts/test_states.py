"""ARCHITECTURE.md says what each script does to a job in each state: this is compared here.

A refusal must also change nothing in Redis.
"""

# mypy: disable-error-code="misc"

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import pytest
from redis.asyncio import Redis

from darkq import event as ev
from darkq.event import AnyEvent, Cursor
from darkq.jobs import cancel as cancellation
from darkq.protocol.keys import JobKeys, PartitionKeys
from darkq.redis import scripts
from darkq_worker.leases import Claim
from support.by_hand import TTL_MS, Hand, chunk, put, snapshot, started
from support.repository import ROOT

from .test_transfer_arrive import arrive, moving_job
from .test_transfer_depart import hold_up

ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text()
REFUSALS = {
    "duplicate", "nothing", "lost", "refused", "gone", "unknown", "finished", "again", "known"
}  # fmt: skip


class Job(NamedTuple):
    """A job in a state, and what its last holder knows: its claim, and the event that is next.

    A job that no worker has held has a made-up holder.
    """

    keys: JobKeys
    claim: Claim
    next_event: AnyEvent


def unheld(keys: JobKeys) -> Job:
    return Job(keys, Claim(keys, 0, 1, "hand:1", 0, 0, False, b""), started(1))


async def absent(redis: Redis) -> Job:
    return unheld(JobKeys.new(0))


async def queued(redis: Redis) -> Job:
    return unheld(await Hand(redis).enqueue())


async def running(redis: Redis) -> Job:
    claim = await Hand(redis).take()
    await Hand(redis).append(claim, started(1))
    return Job(claim.keys, claim, chunk(1, 1))


async def put_off(redis: Redis) -> Job:
    job = await running(redis)
    await Hand(redis).release(job.claim, job.next_event, delay_ms=60_000, burns=True)
    return job


async def lapsed(redis: Redis) -> Job:
    job = await running(redis)
    await redis.delete(job.keys.in_progress)
    await redis.zadd(job.claim.queue, {job.keys.arq_id: 1})
    return job


async def cancelling(redis: Redis) -> Job:
    job = await running(redis)
    assert await cancel(redis, job) == "running"
    return job


async def completed(redis: Redis) -> Job:
    job = await running(redis)
    await Hand(redis).complete(job.claim, "text", Cursor(1, 1))
    return job


async def failed(redis: Redis) -> Job:
    job = await running(redis)
    await Hand(redis).fail(job.claim, Cursor(1, 1))
    return job


async def cancelled(redis: Redis) -> Job:
    job = await queued(redis)
    await cancellation.cancel(redis, job.keys, result_ttl_s=60)
    return job


async def moving(redis: Redis) -> Job:
    job = await queued(redis)
    await hold_up(redis)
    assert await scripts.transfer_depart(redis, "interactive", [job.keys]) == ["departed"]
    await redis.delete("darkq:{0}:control")
    return job


async def enqueue(redis: Redis, job: Job) -> str:
    (receipt,) = await put(redis, job.keys)
    return receipt.verdict


async def claim(redis: Redis, job: Job) -> str:
    claims = await Hand(redis, "other").claim()
    return "claimed" if claims else "nothing"


async def renew(redis: Redis, job: Job) -> str:
    lost, to_cancel = await Hand(redis).leases.renew([job.claim])
    return "lost" if lost else "cancel" if to_cancel else "renewed"


async def append(redis: Redis, job: Job) -> str:
    return "refused" if await Hand(redis).append(job.claim, job.next_event) else "appended"


async def finish(redis: Redis, job: Job) -> str:
    end = ev.Completed(id=job.next_event.id, at_ms=1)
    return "ended" if await Hand(redis).finish(job.claim, end) else "refused"


async def release(redis: Redis, job: Job) -> str:
    released = await Hand(redis).release(job.claim, job.next_event, delay_ms=0)
    return "released" if released else "refused"


async def make_due(redis: Redis, job: Job) -> str:
    turn = scripts.Turn(job.keys.arq_id.encode(), 0, 1)
    return "gone" if await scripts.make_due(redis, 0, [turn]) else "due"


async def cancel(redis: Redis, job: Job) -> str:
    attempt = int(await redis.get(job.keys.retry) or 0)
    event = ev.Cancelled(id=f"{attempt + 1}-0", at_ms=1)
    return await scripts.cancel(
        redis,
        job.keys,
        attempt=attempt,
        result=b"cancelled",
        result_ttl_s=TTL_MS / 1000,
        event_id=event.id,
        event=ev.encode(event),
    )


async def revive(redis: Redis, job: Job) -> str:
    event = ev.Queued(id="2-0", at_ms=1)
    return await scripts.revive(
        redis,
        job.keys,
        job.claim.queue,
        known=await redis.get(job.keys.result) or b"none",
        attempt=2,
        job_ttl_s=TTL_MS / 1000,
        queue_max_jobs=100,
        event_id=event.id,
        event=ev.encode(event),
    )


async def forget(redis: Redis, job: Job) -> str:
    return "deleted" if await scripts.forget(redis, job.keys) else "refused"


async def change_priority(redis: Redis, job: Job) -> str:
    record = await redis.get(job.keys.job) or b"none"
    changed = scripts.ChangedRecord(job.keys, record, b"changed")
    (outcome,) = await scripts.change_priority(
        redis, "interactive", "bulk", 0, [changed], queue_max_jobs=100
    )
    return outcome


async def transfer_depart(redis: Redis, job: Job) -> str:
    (outcome,) = await scripts.transfer_depart(redis, "interactive", [job.keys])
    return outcome


async def transfer_arrive(redis: Redis, job: Job) -> str:
    return await arrive(redis, moving_job(job.keys))


async def transfer_forget(redis: Redis, job: Job) -> str:
    (outcome,) = await scripts.transfer_forget(
        redis, "interactive", [job.keys], cancels_passed_on=False
    )
    return "deleted" if outcome == "gone" else outcome


async def transfer_give_back(redis: Redis, job: Job) -> str:
    returned = await scripts.transfer_give_back(redis, "interactive", [job.keys])
    return "queued" if returned else "refused"


STATES: list[Callable[[Redis], Awaitable[Job]]] = [
    absent, queued, put_off, running, lapsed, cancelling, completed, failed, cancelled, moving,
]  # fmt: skip
CALLS: list[Callable[[Redis, Job], Awaitable[str]]] = [
    enqueue, claim, renew, append, finish, release, make_due, cancel, revive, forget,
    change_priority, transfer_depart, transfer_arrive, transfer_forget, transfer_give_back,
]  # fmt: skip


def table() -> dict[str, dict[str, str]]:
    """Read the cells of the table: by script, then by state."""
    text = ARCHITECTURE[ARCHITECTURE.index("\n### Job states and scripts\n") :]
    rows = re.findall(r"^\| (.+) \|$", text[: text.index("\n### Two ways")], re.MULTILINE)
    head, *body = [[cell.strip() for cell in row.split(" | ")] for row in rows]
    return {name.strip("`"): dict(zip(head[1:], cells, strict=True)) for name, *cells in body}


def test_the_table_has_each_script_and_each_state() -> None:
    found = table()
    assert list(found) == [call.__name__ for call in CALLS]
    for name, cells in found.items():
        assert list(cells) == [state.__name__.replace("_", " ") for state in STATES], name


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
async def test_each_script_does_to_a_job_in_a_state_what_the_table_says(
    redis: Redis, state: Callable[[Redis], Awaitable[Job]]
) -> None:
    """Red when a cell of the table is another word."""
    said, outcomes = {}, {}
    for call in CALLS:
        name = call.__name__
        said[name] = table()[name][state.__name__.replace("_", " ")]
        await redis.flushall()
        job = await state(redis)
        if call is transfer_depart:
            await hold_up(redis)
        before = await snapshot(redis)
        outcomes[name] = await call(redis, job)
        if outcomes[name] in REFUSALS and call is not claim:  # which notes its worker as idle
            assert await snapshot(redis) == before, f"{name} was refused, and changed something"
    assert outcomes == said


def steps(title: str) -> list[tuple[str, str]]:
    """Read the scripts and their outcomes from a part of the picture of a cancel."""
    text = ARCHITECTURE[ARCHITECTURE.index("\n### Two ways of a cancel\n") :]
    picture = text.split("```")[1]
    part = picture[picture.index(title) :].removeprefix(title).split("\n\nthe job ")[0]
    return re.findall(r"(\w+)\.lua → (\w+)", part)


async def test_a_waiting_job_is_cancelled_as_the_picture_says(redis: Redis) -> None:
    for state in (queued, put_off):
        job = await state(redis)
        assert steps("the job waits") == [("cancel", await cancel(redis, job))]
        assert await redis.get(job.keys.result) == b"cancelled"
        assert not await redis.exists(PartitionKeys(0).queue("interactive"), job.keys.job)


async def test_a_running_job_is_cancelled_as_the_picture_says(redis: Redis) -> None:
    job = await running(redis)
    done = [("cancel", await cancel(redis, job)), ("renew", await renew(redis, job))]
    await redis.delete(job.keys.in_progress)
    await redis.zadd(job.claim.queue, {job.keys.arq_id: 1})
    (again,) = await Hand(redis, "other").claim()
    assert again.cancelled
    done.append(("claim", "claimed"))
    done.append(("finish", await finish(redis, Job(job.keys, again, started(2)))))
    assert steps("the job runs") == done
