"""`filebatch_advance.lua`: the record of a batch over files goes from state to state."""

from __future__ import annotations

from redis.asyncio import Redis

from darkq.protocol.keys import BatchKeys
from darkq.redis import scripts
from support.by_hand import snapshot

KEYS = BatchKeys(0, "a" * 32)


async def advance(
    redis: Redis, before: str, state: str, *outputs: str, token: str = "runner"
) -> str:
    record = f'{{"state":"{state}"}}'.encode()
    return await scripts.filebatch_advance(
        redis, KEYS, token=token, before=before, record=record, ttl_s=60, outputs=outputs
    )


async def begin(redis: Redis) -> None:
    await redis.set(KEYS.files, '{"state":"validating"}', px=60_000)
    await redis.set(KEYS.runner, "runner", px=60_000)


async def test_a_record_is_replaced_in_the_state_that_was_read(redis: Redis) -> None:
    await begin(redis)
    assert await advance(redis, "validating", "finalizing", "file-1", "file-2") == ""
    assert await redis.get(KEYS.files) == b'{"state":"finalizing"}'
    assert await redis.zrange(KEYS.outputs, 0, -1) == [b"file-1", b"file-2"]
    assert 50_000 < await redis.pttl(KEYS.outputs) <= 60_000
    assert await advance(redis, "validating", "finalizing") == "", "sent twice"


async def test_a_final_state_is_never_left(redis: Redis) -> None:
    """Red without the comparison of the states."""
    await begin(redis)
    await redis.set(KEYS.files, '{"state":"completed"}', px=60_000)
    before = await snapshot(redis)
    assert await advance(redis, "finalizing", "failed", "file-1") == "another runner"
    assert await snapshot(redis) == before


async def test_a_runner_that_has_lost_its_lease_changes_nothing(redis: Redis) -> None:
    await begin(redis)
    before = await snapshot(redis)
    assert await advance(redis, "validating", "failed", token="other") == "runner"
    assert await snapshot(redis) == before


async def test_a_record_that_is_gone_or_unreadable(redis: Redis) -> None:
    assert await advance(redis, "validating", "failed") == "gone"
    await redis.set(KEYS.files, "no JSON", px=60_000)
    assert await advance(redis, "validating", "failed") == "another runner"
