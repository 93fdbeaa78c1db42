"""The leases of a worker: claim due jobs, and renew the leases of those that run."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence

from redis.asyncio import Redis

from darkq.protocol.keys import PartitionKeys
from darkq.redis import scripts
from darkq.redis.scripts import Claim, Renewal

__all__ = ["Claim", "Leases", "Renewal"]

MAX_RENEWALS_PER_CALL = 500
_CLAIM_ASKS = 3
_SET_BACK_JOBS = 1000


class Leases:
    """The leases of one worker.

    A job that has lost `max_lost_leases` leases is a suspect: the next lost lease fails it. With 0
    there are no suspects.
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
        """Each claim is valid for `timeout_s`, the client's reply timeout, or half a lease.

        The shorter one applies. A Redis that was frozen for longer refuses the claim. So a claim
        never takes jobs whose leases expired during the freeze.
        """
        self._redis = redis
        self._worker_id = worker_id
        self._lease_s = lease_s
        self._job_ttl_s = job_ttl_s
        self._max_lost_leases = max_lost_leases
        self._valid_ms = int(min(timeout_s, lease_s / 2) * 1000)
        self._clocks: dict[int, float] = {}
        """Per partition: the clock of its Redis minus the loop's clock, ms; never too large."""
        self._respite_until_s: dict[int, float] = {}
        """Per partition: until when expired leases are left to their owners."""
        self._set_back_ms: dict[int, float] = {}
        """Per partition: by how much its clock was set back, until its queues are corrected."""

    async def claim(
        self,
        partition: int,
        *,
        slots: int,
        bulk_slots: int,
        suspects: int = 1,
        respite_s: float = 0,
    ) -> tuple[list[Claim], float | None]:
        """Claim up to `slots` due jobs of a partition, at most `bulk_slots` of them bulk.

        At most `suspects` of them are suspects; Redis defers other suspects for a second. A paused
        queue returns only jobs that must be ended. With `respite_s`, a job whose lease expired
        less than that ago is left to its owner. Also returns the seconds until the next job is
        due, or None. If a reply is lost, its jobs wait until their leases expire.

        Redis refuses a claim that arrives after its validity. The refusal contains the time of
        Redis, which the first claim does not know: so the first claim is sent twice. A later claim
        is refused if Redis was unavailable for longer than its validity, or if its clock was set
        forward. Then leases have expired whose owners are alive: for half a lease, every claim has
        a respite.

        If the clock was set back by more than a lease, the next claim corrects the queues first.
        """
        await self._correct_queues(partition)
        clock_s = asyncio.get_running_loop().time
        for _ in range(_CLAIM_ASKS):
            known_ms = self._clocks.get(partition)
            expected_ms = 0 if known_ms is None else known_ms + clock_s() * 1000
            if clock_s() < self._respite_until_s.get(partition, -math.inf):
                respite_s = max(respite_s, self._lease_s / 2)
            claimed = await scripts.claim(
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
                counts_until_ms=int(expected_ms) + self._valid_ms,
            )
            self._clocks[partition] = claimed.now_ms - clock_s() * 1000
            if not claimed.too_late:
                break
            if expected_ms:  # not the first claim: let the owners renew first
                self._respite_until_s[partition] = clock_s() + self._lease_s / 2
        else:
            return [], 0.0
        # The scores of running and deferred jobs are too far in the future by as much as the clock
        # was set back: they would wait for that long.
        back_ms = expected_ms - claimed.now_ms
        if back_ms > self._lease_s * 1000:
            self._set_back_ms[partition] = self._set_back_ms.get(partition, 0) + back_ms
            return claimed.claims, 0.0
        return claimed.claims, claimed.due_s

    async def _correct_queues(self, partition: int) -> None:
        """Correct the scores of future jobs, if the clock was set back: see queue_set_back.lua."""
        if partition not in self._set_back_ms:
            return
        for queue in PartitionKeys(partition).queues:
            begin = b""
            while True:
                begin = await scripts.queue_set_back(
                    self._redis,
                    queue,
                    back_ms=self._set_back_ms[partition],
                    lease_s=self._lease_s,
                    begin=begin,
                    most_jobs=_SET_BACK_JOBS,
                )
                if not begin:
                    break
        del self._set_back_ms[partition]

    async def pass_on(self, partition: int) -> None:
        """Wake another worker in place of this one. Raises what redis-py raises."""
        await scripts.worker_pass_on(self._redis, partition, self._worker_id)

    def is_suspect(self, claim: Claim) -> bool:
        """Return True if the next lost lease fails the job."""
        return 0 < claim.leases_lost == self._max_lost_leases

    async def renew(self, claims: Sequence[Claim]) -> Renewal:
        """Renew leases, one partition after another; see `renew_in`."""
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
        """Renew the leases in a partition, up to 500 per call; without any, still call once."""
        renewal = Renewal([], [])
        for start in range(0, max(1, len(claims)), MAX_RENEWALS_PER_CALL):
            call = claims[start : start + MAX_RENEWALS_PER_CALL]
            part = await scripts.renew(
                self._redis, partition, call, lease_s=self._lease_s, job_ttl_s=self._job_ttl_s
            )
            renewal.lost.extend(part.lost)
            renewal.cancel.extend(part.cancel)
        return renewal
