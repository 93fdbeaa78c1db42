"""Leases: taking due jobs, and keeping those that run."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from redis.asyncio import Redis

from darkq.redis import scripts
from darkq.redis.scripts import Claim, Claimed, Renewal

__all__ = ["Claim", "Leases", "Renewal"]

MAX_RENEWALS_PER_CALL = 500
_CLAIM_ASKS = 3


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

        Redis refuses a claim that it comes to too late. So the first claim, and the first after
        its clock was put forward, are asked twice: the refusal tells the time. One that has waited
        for as long as a claim counts has seen an outage: it is asked again with a respite.
        """
        clock_s = asyncio.get_running_loop().time
        for _ in range(_CLAIM_ASKS):
            asked_s, now_ms = clock_s(), self._now_ms(partition)
            claimed = await self._claim_call(
                partition, slots, bulk_slots, suspects, respite_s, now_ms
            )
            self._clocks[partition] = claimed.now_ms - clock_s() * 1000
            if not claimed.too_late:
                return claimed.claims, claimed.due_s
            if (clock_s() - asked_s) * 1000 >= self._counts_ms:
                respite_s = max(respite_s, self._lease_s / 2)
        return [], 0.0

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
