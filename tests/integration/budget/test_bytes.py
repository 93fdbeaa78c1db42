"""What each thing costs in bytes between a process and Redis, exactly; and in Redis.

Ids, times and names have a fixed length here. A change that sends a byte more, or less, turns one
of these red: look whether it is worth it, then write the new number down.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from itertools import pairwise

import pytest
from redis.asyncio import Redis

from darkq import Client, Settings
from darkq import event as ev
from darkq.event import Cursor
from darkq.protocol.keys import JobKeys, PartitionKeys
from darkq.protocol.record import encode
from darkq_worker.attempts.settlement import Finish
from darkq_worker.leases import Leases
from darkq_worker.pieces import assemble
from darkq_worker.writing.attempt_log import Entry
from integration.budget.test_budget import open_logs, writing, written
from support.by_hand import Hand, chunk, result_record, started
from support.servers import Server
from support.wire import Bytes, Wire

MakeSettings = Callable[..., Settings]

NOW_MS = 1_700_000_000_000


@pytest.fixture
async def wire(redis: Redis, redis_server: Server) -> AsyncIterator[Wire]:
    async with Wire(redis_server.url) as wire:
        yield wire


@pytest.fixture
async def far_client(wire: Wire, make_settings: MakeSettings) -> AsyncIterator[Client]:
    """A client whose bytes are counted; it is connected, and Redis has the script."""
    async with Client(settings=make_settings(redis_url=wire.url)) as client:
        await client.enqueue("hello")
        yield client


async def test_bytes_of_one_enqueued_job(far_client: Client, wire: Wire) -> None:
    before = wire.bytes
    await far_client.enqueue("hello")
    assert wire.bytes - before == Bytes(sent=422, received=4)


async def test_bytes_of_one_more_job_in_enqueue_many(far_client: Client, wire: Wire) -> None:
    start = wire.bytes
    await far_client.enqueue_many(["hello"] * 100)
    hundred = wire.bytes
    await far_client.enqueue_many(["hello"] * 500)
    more = wire.bytes - hundred
    less = hundred - start
    assert more.sent - less.sent == 400 * 147 + 1  # a digit more in the number of arguments
    assert more.received == less.received == 4


async def test_bytes_of_one_claimed_job(hand: Hand, wire: Wire) -> None:
    async with Redis.from_url(wire.url) as redis:
        leases = Leases(redis, "worker", lease_s=15, job_ttl_s=86_400)
        await hand.take()
        await leases.claim(0, slots=10, bulk_slots=10)  # connects
        begin = wire.bytes
        await leases.claim(0, slots=10, bulk_slots=10)
        nothing = wire.bytes - begin
        keys = await hand.enqueue()
        await hand.redis.zadd(PartitionKeys(0).queue("interactive"), {keys.arq_id: NOW_MS + 0.125})
        begin = wire.bytes
        assert len((await leases.claim(0, slots=10, bulk_slots=10))[0]) == 1
        assert nothing == Bytes(sent=247, received=28)
        assert wire.bytes - begin == Bytes(sent=247, received=206)


async def test_bytes_of_one_chunk_and_of_the_settlement(
    hand: Hand, wire: Wire, make_settings: MakeSettings
) -> None:
    async with writing(make_settings(redis_url=wire.url)) as writer:
        await open_logs(writer, hand, 1)  # connects
        claim = await hand.take()
        log = writer.open(claim.keys, claim.attempt, claim.token, on_lost=lambda: None)
        seen = [wire.bytes]

        log.start(model="m", upstream="u", at_ms=NOW_MS)
        await written([log])
        seen.append(wire.bytes)

        log.add("word")
        await written([log])
        seen.append(wire.bytes)

        pieces, cursor = log.close()
        end = ev.Completed(id=str(cursor), at_ms=NOW_MS)
        result = encode(result_record(claim.keys, assemble(pieces)[0]))
        entry = Entry(end.id, ev.encode(end))
        assert await writer.settle(Finish(claim, log, entry, result, result_ttl_s=86_400))
        seen.append(wire.bytes)

        began, said, finish = (after - before for before, after in pairwise(seen))
        assert began == Bytes(sent=285, received=4)
        assert said == Bytes(sent=258, received=4)  # 22 tell when an attempt's first chunk came
        assert (finish.sent - len(result), finish.received) == (633, 4)


async def test_event_log_of_a_small_job_uses_no_extra_memory_page(
    far_client: Client, redis: Redis, hand: Hand
) -> None:
    """Red when it is made by XADD instead of being copied: that sets 4 KB aside."""
    job = JobKeys.parse((await far_client.enqueue("hello")).id)
    waiting = await redis.memory_usage(job.events)
    claim = next(claim for claim in await hand.claim() if claim.keys == job)
    await hand.append(claim, started(1), chunk(1, 1))
    await hand.complete(claim, "x", Cursor(1, 2))
    finished = await redis.memory_usage(job.events)
    assert waiting is not None
    assert finished is not None
    assert waiting < 600
    assert finished < 1000
