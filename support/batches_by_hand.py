"""A batch's runner played by hand: one script call each."""

from __future__ import annotations

from redis.asyncio import Redis

from darkq import event as ev
from darkq.protocol.keys import BatchKeys
from darkq.redis import scripts
from support.by_hand import Hand

TTL_MS = 60_000
RUNNER = "runner"


async def make_batch(redis: Redis, *, window: int = 10) -> BatchKeys:
    """Create a batch of partition 0, under the lease of `RUNNER`."""
    keys = BatchKeys.new(0)
    made_with: dict[str, str | int] = {"window": window, "ttl_ms": TTL_MS}
    reply = await scripts.batch_renew_lease(
        redis, keys, RUNNER, lease_ms=30_000, ttl_ms=TTL_MS, made_with=made_with
    )
    assert reply == ("ours", RUNNER)
    return keys


async def add_lines(redis: Redis, keys: BatchKeys, *numbers: int) -> list[str]:
    """Enqueue lines; return what became of each."""
    receipts = await scripts.enqueue(
        redis,
        [scripts.NewJob(keys.job(n), "bulk", None, b"record") for n in numbers],
        event=ev.encode(ev.Queued(id="0-1", at_ms=1)),
        job_ttl_s=TTL_MS / 1000,
        queue_max_jobs=1000,
        max_listed=1000,
        lines=scripts.BatchLines(keys, numbers),
    )
    return [receipt.outcome for receipt in receipts]


async def end_lines(redis: Redis, keys: BatchKeys, *numbers: int) -> list[scripts.PageEnd]:
    """Add lines and complete them; return their ends."""
    hand = Hand(redis)
    for number in numbers:  # alone: fakeredis makes the logs of one call one and the same
        await add_lines(redis, keys, number)
    for claim in await hand.claim(slots=len(numbers)):
        await hand.finish(claim, ev.Completed(id="1-0", at_ms=1))
    ends = await redis.xrange(keys.ends)
    return [scripts.PageEnd(fields[b"t"].decode(), False, False) for _, fields in ends]
