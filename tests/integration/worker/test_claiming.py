"""What is said while a claim is on its way back is not lost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
from redis.asyncio import Redis

from darkq import Client, Settings
from darkq.protocol.keys import JobKeys
from darkq_worker.leases import Claim, Leases
from darkq_worker.loop.claiming import Claiming
from support.by_hand import put


class LateRedis(Redis):
    """Plays something between what the server does with the next call and its reply."""

    meanwhile: Callable[[], Awaitable[object]] | None = None

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        reply = await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            await meanwhile()
        return reply


@pytest.fixture
async def late(settings: Settings) -> Any:
    redis = LateRedis.from_url(settings.find_redis_url())
    yield redis
    await redis.aclose()


async def claiming(
    redis: Redis, settings: Settings, taken: list[Claim], *running: Claim
) -> tuple[Claiming, list[Any]]:
    """Make what claims for a worker, and what runs there: what it takes never begins."""
    attempts = [SimpleNamespace(claim=claim) for claim in running]

    leases = Leases(redis, "worker", lease_s=5, job_ttl_s=60)
    for partition in range(settings.partitions):
        await leases.claim(partition, slots=0, bulk_slots=0)  # the first learns the time
    made = Claiming(
        leases,
        cast(Any, SimpleNamespace(attempts=attempts, start=taken.extend)),
        cast(Any, None),  # no outage
        cast(Any, None),
        settings,
        wake_up=asyncio.Event(),
        may_claim=lambda: True,
    )
    return made, attempts


async def test_job_that_arrives_during_a_claim_is_claimed_next(
    client: Client, late: LateRedis, make_settings: Callable[..., Settings]
) -> None:
    """Red when the claim's reply says when to ask next, whatever was said meanwhile."""
    taken: list[Claim] = []
    worker, _ = await claiming(late, make_settings(worker_poll_s=60), taken)

    async def enqueue() -> None:
        await client.enqueue("hello")
        worker.look_at(0)

    late.meanwhile = enqueue
    assert await worker.claim_due() <= 0
    assert taken == []
    await worker.claim_due()
    assert len(taken) == 1


async def test_slot_freed_during_a_claim_is_used_next(
    redis: Redis, late: LateRedis, make_settings: Callable[..., Settings]
) -> None:
    """Red when the room before the call says whether a slot is a reason to ask again."""
    taken: list[Claim] = []
    ending = Claim(JobKeys.new(0), 1, 1, "", 0, 0, cancelled=False, record=b"")
    settings = make_settings(
        worker_poll_s=60, worker_jobs=2, worker_reserved_interactive=1, partitions=2
    )
    worker, attempts = await claiming(late, settings, taken, ending)
    waiting = JobKeys.new(1)
    await put(redis, waiting, priority="bulk")

    async def end() -> None:
        attempts.clear()
        worker.free_slot(ending)

    late.meanwhile = end
    assert await worker.claim_due() <= 0
    assert taken == []
    await worker.claim_due()
    assert [claim.keys for claim in taken] == [waiting]
