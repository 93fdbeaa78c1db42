"""`claim.lua`: due jobs, most urgent first, each to one worker, under a lease."""

from __future__ import annotations

import asyncio

import pytest
from redis.asyncio import Redis

from darkq.jobs.cancel import cancel
from darkq.protocol.keys import JobKeys, PartitionKeys
from darkq.redis import scripts
from support.by_hand import Hand, gone, put, snapshot, started
from support.waiting import wait_until

INTERACTIVE = PartitionKeys(0).queue("interactive")


async def now_ms(redis: Redis) -> float:
    seconds, microseconds = await redis.time()
    return float(seconds * 1000 + microseconds / 1000)


async def test_a_claim_says_all_that_a_worker_needs(redis: Redis, hand: Hand) -> None:
    keys = JobKeys.new(0)
    await put(redis, keys, record=b"\x00\xffrecord", priority="bulk")
    claim = await hand.claim_one()
    assert claim.keys == keys
    assert (claim.queue, claim.is_bulk) == (PartitionKeys(0).queue("bulk"), True)
    assert (claim.attempt, claim.tries_burnt, claim.leases_lost) == (1, 0, 0)
    assert (claim.cancelled, claim.record) == (False, b"\x00\xffrecord")


async def test_the_lease_is_a_token_with_an_end_and_its_end_is_the_score(
    redis: Redis, hand: Hand
) -> None:
    keys = await hand.enqueue()
    before = await now_ms(redis)
    claim = await hand.claim_one()
    after = await now_ms(redis)
    assert await redis.get(keys.in_progress) == claim.token.encode() == b"hand:1"
    assert 29_000 < await redis.pttl(keys.in_progress) <= 30_000
    score = await redis.zscore(INTERACTIVE, keys.arq_id)
    assert before + 30_000 <= score + 0.001 <= after + 30_000.002


async def test_every_key_of_a_running_job_lives_as_long_as_a_new_one(
    redis: Redis, hand: Hand
) -> None:
    keys = JobKeys.new(0)
    await put(redis, keys, ttl_ms=5000)
    await hand.claim_one()
    assert 50_000 < await redis.pttl(keys.job) <= 60_000
    for name in (keys.retry, keys.state, keys.events):  # they tell of an expired job's end
        assert 110_000 < await redis.pttl(name) <= 120_000, name


async def test_interactive_goes_before_bulk_whoever_came_first(hand: Hand) -> None:
    bulk = [await hand.enqueue(priority="bulk") for _ in range(3)]
    urgent = [await hand.enqueue() for _ in range(3)]
    first = await hand.claim(slots=4)
    assert [claim.keys for claim in first] == [*urgent, bulk[0]]
    assert [claim.keys for claim in await hand.claim(slots=4)] == bulk[1:]


@pytest.mark.parametrize(
    ("slots", "bulk_slots", "interactive", "bulk"),
    [(0, 0, 0, 0), (2, 2, 2, 0), (5, 0, 3, 0), (5, 1, 3, 1), (5, 5, 3, 2), (9, 9, 3, 3)],
)
async def test_slots_are_shared_and_bulk_has_a_bound_of_its_own(
    hand: Hand, slots: int, bulk_slots: int, interactive: int, bulk: int
) -> None:
    for _ in range(3):
        await hand.enqueue(priority="bulk")
        await hand.enqueue()
    claims = await hand.claim(slots=slots, bulk_slots=bulk_slots)
    assert sum(claim.is_bulk for claim in claims) == bulk
    assert len(claims) == interactive + bulk


class TestDueTime:
    """The reply says how long a worker may sleep."""

    @staticmethod
    async def due_s(hand: Hand, slots: int = 0, bulk_slots: int = 0) -> float | None:
        _, due_s = await hand.leases.claim(0, slots=slots, bulk_slots=bulk_slots)
        return due_s

    async def test_nothing_waits(self, hand: Hand) -> None:
        assert await self.due_s(hand, slots=1, bulk_slots=1) is None

    async def test_a_deferred_job(self, hand: Hand) -> None:
        await hand.release(await hand.take(), delay_ms=5000)
        due_s = await self.due_s(hand, slots=1)
        assert due_s is not None
        assert 4 < due_s <= 5

    async def test_the_end_of_a_lease(self, hand: Hand) -> None:
        await hand.take()
        due_s = await self.due_s(hand, slots=1)
        assert due_s is not None
        assert 29 < due_s <= 30

    async def test_more_is_due_than_there_were_slots(self, hand: Hand) -> None:
        await hand.enqueue()
        await hand.enqueue()
        assert await self.due_s(hand, slots=1) == 0

    async def test_a_queue_without_slots_does_not_count(self, hand: Hand) -> None:
        await hand.enqueue(priority="bulk")
        assert await self.due_s(hand, slots=5, bulk_slots=0) is None
        assert await self.due_s(hand, slots=0, bulk_slots=0) is None

    async def test_the_soonest_of_both_queues_counts(self, redis: Redis, hand: Hand) -> None:
        hours_ms, soon_ms = 3600_000, 3000
        await hand.release(await hand.take(), delay_ms=hours_ms)
        await hand.enqueue(priority="bulk")
        await hand.release(await hand.claim_one(), delay_ms=soon_ms)
        due_s = await self.due_s(hand, slots=1, bulk_slots=1)
        assert due_s is not None
        assert 2 < due_s <= 3


async def test_a_backlog_of_running_jobs_does_not_hide_a_new_one(redis: Redis, hand: Hand) -> None:
    """Stock arq starves here: running jobs stay in the range that it reads."""
    for _ in range(2):
        await put(redis, *[JobKeys.new(0) for _ in range(500)])
    assert len(await hand.claim(slots=1000)) == 1000
    keys = await hand.enqueue()
    assert (await hand.claim_one()).keys == keys


async def test_workers_never_share_a_job(redis: Redis, hand: Hand) -> None:
    await put(redis, *[JobKeys.new(0) for _ in range(60)])
    workers = [Hand(redis, f"w{n}") for n in range(4)]
    calls = await asyncio.gather(*(worker.claim(slots=5) for worker in workers * 4))
    claimed = [claim.keys for claims in calls for claim in claims]
    assert len(claimed) == len(set(claimed)) == 60


async def test_a_lease_that_ran_out_is_claimed_as_the_next_attempt(redis: Redis) -> None:
    first, second = Hand(redis, "first", lease_s=0.3), Hand(redis, "second", lease_s=0.3)
    claim = await first.take()
    await first.append(claim, started(1))
    assert await second.claim() == [], "not before its end"
    (again,) = await wait_until("the lease to run out", second.claim)
    assert (again.keys, again.attempt, again.token) == (claim.keys, 2, "second:2")
    assert (again.leases_lost, again.tries_burnt) == (1, 0)
    await second.append(again, started(2))
    (third,) = await wait_until("the lease to run out", first.claim)
    assert (third.attempt, third.leases_lost) == (3, 2)
    assert await redis.get(claim.keys.in_progress) == b"first:3"


async def test_a_job_handed_back_is_no_lost_lease(hand: Hand) -> None:
    await hand.release(await hand.take())
    again = await hand.claim_one()
    assert (again.attempt, again.leases_lost, again.tries_burnt) == (2, 0, 0)


async def test_leases_lost_are_remembered_over_a_hand_back(redis: Redis, hand: Hand) -> None:
    hasty = Hand(redis, "hasty", lease_s=0.3)
    await hasty.append(await hasty.take(), started(1))
    (again,) = await wait_until("the lease to run out", hand.claim)
    await hand.release(again, burns=True)
    third = await hand.claim_one()
    assert (third.attempt, third.leases_lost, third.tries_burnt) == (3, 1, 1)


async def test_a_job_that_is_held_past_its_score_goes_back_to_its_leases_end(
    redis: Redis, hand: Hand
) -> None:
    claim = await hand.take()
    await redis.zadd(INTERACTIVE, {claim.keys.arq_id: 1})
    assert await hand.claim() == []
    end_ms = await now_ms(redis) + await redis.pttl(claim.keys.in_progress)
    assert abs(await redis.zscore(INTERACTIVE, claim.keys.arq_id) - end_ms) < 100
    assert await redis.get(claim.keys.in_progress) == claim.token.encode()
    assert await redis.get(claim.keys.retry) == b"1"


async def test_an_expired_job_comes_with_an_empty_record(redis: Redis, hand: Hand) -> None:
    keys = await hand.enqueue()
    await redis.delete(keys.job)
    claim = await hand.claim_one()
    assert (claim.keys, claim.attempt, claim.record) == (keys, 1, b"")


async def test_the_word_to_cancel_reaches_whoever_claims_next(redis: Redis) -> None:
    hasty, heir = Hand(redis, "hasty", lease_s=0.3), Hand(redis, "heir")
    claim = await hasty.take()
    await cancel(redis, claim.keys, result_ttl_s=60)
    (again,) = await wait_until("the lease to run out", heir.claim)
    assert again.cancelled


class TestClaimGivenUpByItsSender:
    """A server that was frozen comes to it when nobody waits for the reply any more."""

    async def test_a_claim_past_its_time_changes_nothing_and_is_told_the_time(
        self, redis: Redis, hand: Hand
    ) -> None:
        """Red when claim.lua does not compare its clock with the time until which a call counts."""
        await hand.take()
        await hand.enqueue()
        ids = await redis.zrange(INTERACTIVE, 0, -1)
        await redis.zadd(INTERACTIVE, dict.fromkeys(ids, 1))
        before, at_ms = await snapshot(redis), await now_ms(redis)
        reply = await scripts.claim(
            redis,
            0,
            worker_id="w",
            lease_s=30,
            job_ttl_s=60,
            slots=9,
            slots_of={"interactive": 9, "bulk": 9},
            respite_s=0,
            max_lost_leases=0,
            suspects=9,
            counts_until_ms=int(at_ms) - 5,
        )
        assert (reply.too_late, reply.due_s, reply.claims) == (True, None, [])
        assert at_ms - 1 <= reply.now_ms <= await now_ms(redis)
        assert await snapshot(redis) == before

    async def test_the_first_claim_learns_the_time_and_takes(self, hand: Hand) -> None:
        keys = await hand.enqueue()
        assert [claim.keys for claim in await hand.claim()] == [keys]

    async def test_a_clock_that_was_put_forward_costs_one_more_question(self, hand: Hand) -> None:
        await hand.take()
        hand.leases._clocks[0] -= 3600_000
        keys = await hand.enqueue()
        assert [claim.keys for claim in await hand.claim()] == [keys]


class TestRespite:
    """After an outage all leases have run out, and most owners are alive."""

    async def test_a_lapsed_job_is_left_to_its_owner_for_so_long(self, redis: Redis) -> None:
        owner, other = Hand(redis, "owner", lease_s=0.3), Hand(redis, "other")
        claim = await owner.take()
        await owner.append(claim, started(1))
        await wait_until("the lease to run out", lambda: gone(redis, claim.keys.in_progress))

        async def is_left_alone() -> bool:  # the key may expire some milliseconds before the lease
            left, due_s = await other.leases.claim(0, slots=9, bulk_slots=9, respite_s=20)
            assert left == []
            return due_s is not None and 19 < due_s <= 20

        await wait_until("the job to be left to its owner", is_left_alone)
        assert await other.claim() == [], "nor for those who know of no outage"
        assert await owner.leases.renew([claim]) == ([], [])
        (again,) = await wait_until("the renewed lease to run out", other.claim)
        assert (again.attempt, again.leases_lost) == (2, 1)

    async def test_it_ends(self, redis: Redis) -> None:
        dead, heir = Hand(redis, "dead", lease_s=0.3), Hand(redis, "heir")
        claim = await dead.take()
        await wait_until("the lease to run out", lambda: gone(redis, claim.keys.in_progress))
        left, _ = await heir.leases.claim(0, slots=9, bulk_slots=9, respite_s=0.05)
        assert left == []
        (again,) = await wait_until("the respite to end", heir.claim)
        assert again.keys == claim.keys

    async def test_jobs_that_nobody_held_do_not_wait(self, redis: Redis, hand: Hand) -> None:
        handed_back = await hand.take()
        await hand.release(handed_back)
        new = await hand.enqueue()
        claims, _ = await hand.leases.claim(0, slots=9, bulk_slots=9, respite_s=20)
        assert [claim.keys for claim in claims] == [handed_back.keys, new]


async def test_partitions_do_not_see_each_other(redis: Redis, hand: Hand) -> None:
    elsewhere = JobKeys.new(3)
    await put(redis, elsewhere)
    assert await hand.claim() == []
    claims, _ = await hand.leases.claim(3, slots=1, bulk_slots=1)
    assert [claim.keys for claim in claims] == [elsewhere]


async def test_scripts_come_back_by_themselves_after_a_flush(redis: Redis, hand: Hand) -> None:
    await hand.enqueue()
    await redis.script_flush()
    assert len(await hand.claim()) == 1
    assert await redis.script_exists(scripts.ALL["claim"].sha()) == [True]


async def test_a_reply_is_bounded_in_bytes_and_the_rest_is_due(redis: Redis, hand: Hand) -> None:
    """Red without MAX_REPLY_BYTES in claim.lua: images make records of many megabytes."""
    for _ in range(6):
        await put(redis, JobKeys.new(0), record=b"x" * 1_500_000)
    claims, due_s = await hand.leases.claim(0, slots=6, bulk_slots=6)
    assert (len(claims), due_s) == (3, 0)
    claims, due_s = await hand.leases.claim(0, slots=6, bulk_slots=6)
    assert len(claims) == 3
