"""Leases: taking due jobs, and keeping those that run."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence

from redis.asyncio import Redis

from darkq.protocol.keys import PRIORITIES, PartitionKeys
from darkq.redis import scripts
from darkq.redis.scripts import Claim, Claimed, Renewal

__all__ = ["Claim", "Leases", "Renewal"]

MAX_RENEWALS_PER_CALL = 500
_CLAIM_ASKS = 3
_SET_BACK_JOBS = 1000


class Leases:
    """The leases of one worker.

    A job that has lost `max_lost_leases` is a suspect: it ends with the next one. With 0 no job
    is.
    """

    def __init__(
        self,
        redis: Redis,
        worker_id: str,
        *,
        lease_s: float,
        job_ttl_s: float,
        max_lost_leases: int = 0,
        timeout_s: float = 10.0,
    ) -> None:
        """`timeout_s` is how long the client waits for a reply: a claim counts for no longer.

        Nor for longer than half a lease. So one that Redis comes to after it was frozen finds no
        lease that has run out in the meantime.
        """
        self._redis = redis
        self._worker_id = worker_id
        self._lease_s = lease_s
        self._job_ttl_s = job_ttl_s
        self._max_lost_leases = max_lost_leases
        self._counts_ms = int(min(timeout_s, lease_s / 2) * 1000)
        self._clocks: dict[int, float] = {}
        """Per partition: the clock of its Redis less the event loop's, ms; never too far ahead."""
        self._respite_until_s: dict[int, float] = {}
        """Per partition: until when leases that have run out are left to their owners."""
        self._set_back_ms: dict[int, float] = {}
        """Per partition: by how much its clock was set back, while its queues do not say so."""

    async def claim(
        self,
        partition: int,
        *,
        slots: int,
        bulk_slots: int,
        suspects: int = 1,
        respite_s: float = 0,
    ) -> tuple[list[Claim], float | None]:
        """Take up to `slots` due jobs of a partition, at most `bulk_slots` of them bulk.

        At most `suspects` of them are suspects: others wait for a moment, for any worker. A
        paused queue gives only what is to be ended.
        With a respite, jobs whose lease has run out are left to their owners for so long.
        Also returns the seconds until the next job is due, None when none waits. Sent twice
        after a lost reply, jobs of the first call wait for their lease to run out.

        Redis refuses a claim that it comes to too late. So the first claim is asked twice: the
        refusal tells the time. A later one is refused when Redis was away for as long as a claim
        counts, or when its clock was put forward. Leases have run out then whose owners are alive:
        for half a lease every claim has a respite.

        When the clock was set back by more than a lease, the next claim first corrects the queues.
        """
        await self._correct_queues(partition)
        clock_s = asyncio.get_running_loop().time
        for _ in range(_CLAIM_ASKS):
            expected_ms = self._now_ms(partition)
            if clock_s() < self._respite_until_s.get(partition, -math.inf):
                respite_s = max(respite_s, self._lease_s / 2)
            claimed = await self._claim_call(
                partition, slots, bulk_slots, suspects, respite_s, expected_ms
            )
            self._clocks[partition] = claimed.now_ms - clock_s() * 1000
            if not claimed.too_late:
                break
            if expected_ms:
                self._respite_until_s[partition] = clock_s() + self._lease_s / 2
        else:
            return [], 0.0
        back_ms = expected_ms - claimed.now_ms
        if back_ms > self._lease_s * 1000:
            self._set_back_ms[partition] = self._set_back_ms.get(partition, 0) + back_ms
            return claimed.claims, 0.0
        return claimed.claims, claimed.due_s

    async def _correct_queues(self, partition: int) -> None:
        """Move what is still to come, if the clock was set back: see queue_set_back.lua."""
        if partition not in self._set_back_ms:
            return
        for priority in PRIORITIES:
            begin = b""
            while True:
                begin = await scripts.queue_set_back(
                    self._redis,
                    PartitionKeys(partition).queue(priority),
                    back_ms=self._set_back_ms[partition],
                    lease_s=self._lease_s,
                    begin=begin,
                    most_jobs=_SET_BACK_JOBS,
                )
                if not begin:
                    break
        del self._set_back_ms[partition]

    def _now_ms(self, partition: int) -> float:
        """The clock of a partition's Redis, or a little less; 0 if it is not known."""
        clock_ms = self._clocks.get(partition)
        return 0 if clock_ms is None else clock_ms + asyncio.get_running_loop().time() * 1000

    async def _claim_call(
        self,
        partition: int,
        slots: int,
        bulk_slots: int,
        suspects: int,
        respite_s: float,
        now_ms: float,
    ) -> Claimed:
        return await scripts.claim(
            self._redis,
            partition,
            worker_id=self._worker_id,
            lease_s=self._lease_s,
            job_ttl_s=self._job_ttl_s,
            slots=slots,
            slots_of={"interactive": slots, "bulk": bulk_slots},
            respite_s=respite_s,
            max_lost_leases=self._max_lost_leases,
            suspects=suspects,
            counts_until_ms=int(now_ms) + self._counts_ms,
        )

    async def pass_on(self, partition: int) -> None:
        """Let another worker take what this one was woken for. Raises what redis-py raises."""
        await scripts.worker_pass_on(self._redis, partition, self._worker_id)

    def is_suspect(self, claim: Claim) -> bool:
        """Tell whether one more lost lease ends the job."""
        return 0 < claim.leases_lost == self._max_lost_leases

    async def renew(self, claims: Sequence[Claim]) -> Renewal:
        """Renew leases, one partition after the other; see `renew_in`."""
        renewal = Renewal([], [])
        by_partition: dict[int, list[Claim]] = {}
        for claim in claims:
            by_partition.setdefault(claim.keys.partition, []).append(claim)
        for partition, group in by_partition.items():
            part = await self.renew_in(partition, group)
            renewal.lost.extend(part.lost)
            renewal.cancel.extend(part.cancel)
        return renewal

    async def renew_in(self, partition: int, claims: Sequence[Claim]) -> Renewal:
        """Renew leases in a partition, which is asked in any case; one call for up to 500 jobs."""
        renewal = Renewal([], [])
        for start in range(0, max(1, len(claims)), MAX_RENEWALS_PER_CALL):
            call = claims[start : start + MAX_RENEWALS_PER_CALL]
            part = await scripts.renew(
                self._redis, partition, call, lease_s=self._lease_s, job_ttl_s=self._job_ttl_s
            )
            renewal.lost.extend(part.lost)
            renewal.cancel.extend(part.cancel)
        return renewal
