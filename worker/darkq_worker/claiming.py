"""What a worker takes next: as many due jobs as it has room for, from each partition in turn.

After an outage every lease has run out, and most owners are alive: for half a lease, jobs that
somebody held are left to their owners.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Collection, Sequence

from darkq.settings import Settings
from darkq_worker.attempt import Attempt
from darkq_worker.claims import Claim, Leases

MAX_CLAIMS_PER_CALL = 100
"""3,000 jobs claimed by 100 are 3 KB each less in memory, for good, than claimed all at once."""


class Claiming:
    """Claims for one worker. `attempts` is what runs there; `start` adds to it at once."""

    def __init__(
        self,
        leases: Leases,
        attempts: Collection[Attempt],
        settings: Settings,
        *,
        may_claim: Callable[[], bool],
        start: Callable[[Sequence[Claim]], None],
    ) -> None:
        self._leases = leases
        self._attempts = attempts
        self._settings = settings
        self._may_claim = may_claim
        self._start = start
        self._one_at_a_time = asyncio.Lock()
        self._turn = 0
        self._outage_over_s = -math.inf  # when Redis came back, as the loop's clock says

    @property
    def in_outage(self) -> bool:
        """Tell whether Redis was away when it was asked last."""
        return self._outage_over_s == math.inf

    def outage_began(self) -> None:
        """Say that Redis does not answer."""
        self._outage_over_s = math.inf

    def outage_over(self) -> None:
        """Say that it answers again, and that our own leases are renewed."""
        self._outage_over_s = asyncio.get_running_loop().time()

    async def claim_due(self) -> float | None:
        """Claim from every partition in turn; return the seconds until the next job is due."""
        async with self._one_at_a_time:
            partitions = self._settings.partitions
            self._turn += 1
            dues: list[float] = []
            for step in range(partitions):
                slots = min(MAX_CLAIMS_PER_CALL, self._settings.worker_jobs - len(self._attempts))
                if slots <= 0 or not self._may_claim():
                    return None
                due_s = await self._claim((self._turn + step) % partitions, slots)
                if due_s is not None:
                    dues.append(due_s)
            return min(dues, default=None)

    async def settled(self) -> None:
        """Wait for a claim on its way: what it takes would else lose its lease."""
        async with self._one_at_a_time:
            pass

    async def _claim(self, partition: int, slots: int) -> float | None:
        bulk = sum(attempt.claim.is_bulk for attempt in self._attempts)
        bulk_slots = self._settings.worker_jobs - self._settings.worker_reserved_interactive - bulk
        claims, due_s = await self._leases.claim(
            partition,
            slots=slots,
            bulk_slots=max(0, min(slots, bulk_slots)),
            suspects=0 if self._runs_a_suspect() else 1,
            respite_s=self._respite_s(),
        )
        self._start(claims)
        # After a full call there may be more, of another queue too.
        return 0.0 if len(claims) == MAX_CLAIMS_PER_CALL else due_s

    def _respite_s(self) -> float:
        respite_s = self._settings.worker_lease_s / 2
        is_fresh = asyncio.get_running_loop().time() < self._outage_over_s + respite_s
        return respite_s if is_fresh else 0

    def _runs_a_suspect(self) -> bool:
        return any(self._leases.is_suspect(attempt.claim) for attempt in self._attempts)
