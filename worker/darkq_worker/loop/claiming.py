"""Claims: as many due jobs as the worker has room for, from each partition in turn.

A partition is asked if it may have due jobs: after a wake-up, when its next job is due, after a
job of it has ended, and at every poll, in case a wake-up was lost.

After an outage all leases have expired, but most owners are alive. So for half a lease, jobs whose
lease expired are left to their owners. A partition that cannot be reached is asked by a task of its
own, and claims from the others continue.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from contextlib import suppress

from darkq.protocol.keys import PartitionKeys
from darkq.redis.pool import is_wrong_type
from darkq.redis.servers import Servers
from darkq.settings.settings import Settings
from darkq_worker.attempts.running import RunningAttempts
from darkq_worker.leases import Claim, Leases
from darkq_worker.loop.heartbeat import Heartbeat
from darkq_worker.outage_log import OUTAGE_PAUSE_S, OutageLog

MAX_CLAIMS_PER_CALL = 100
"""A bound of 100 saves 3 KB per job of permanent memory, compared with 3,000 claims at once."""


class _Partition:
    """What a worker knows about a partition; times are those of the event loop."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.ask_at_s = -math.inf
        self.had_less_room = False
        """It may have more jobs than the claim had room for: ask again when any slot is free."""
        self.outage_over_s = -math.inf
        self.is_woken = False
        """A wake-up was sent to this worker only."""
        self.search: asyncio.Task[None] | None = None
        """The task that asks it while it cannot be reached."""
        self.outage = OutageLog("claim failed", "claim recovered", partition=number)


class Claiming:
    """Claims the jobs of one worker, and starts them in `running`.

    `wake_up` wakes the worker's loop. `may_claim` is False while the worker drains or shuts down.
    """

    def __init__(
        self,
        leases: Leases,
        running: RunningAttempts,
        heartbeat: Heartbeat,
        servers: Servers,
        settings: Settings,
        *,
        wake_up: asyncio.Event,
        may_claim: Callable[[], bool],
    ) -> None:
        self._leases = leases
        self._running = running
        self._heartbeat = heartbeat
        self._servers = servers
        self._settings = settings
        self._wake_up = wake_up
        self._may_claim = may_claim
        self._one_at_a_time = asyncio.Lock()
        self._pending: asyncio.Task[tuple[list[Claim], float | None]] | None = None
        """A claim under way. It outlives its caller, because its jobs are leased already."""
        self._partitions = {n: _Partition(n) for n in settings.find_worker_partitions()}
        self._in_turn = list(self._partitions.values())
        self._poll_at_s = -math.inf

    def look_at(self, number: int) -> None:
        """Note that a partition may have due jobs."""
        self._partitions[number].ask_at_s = -math.inf
        self._wake_up.set()

    def wake(self, number: int) -> None:
        """Note that a partition has due jobs, and that no other worker was woken."""
        self._partitions[number].is_woken = True
        self.look_at(number)

    def free_slot(self, claim: Claim) -> None:
        """Note that a job has ended or returned to its queue, where it may be due later."""
        for partition in self._in_turn:
            if partition.had_less_room or partition.number == claim.keys.partition:
                partition.ask_at_s = -math.inf
        self._wake_up.set()

    async def claim_due(self) -> float:
        """Claim from the partitions that may have due jobs; return how many seconds to sleep."""
        async with self._one_at_a_time:
            now_s = asyncio.get_running_loop().time()
            if now_s >= self._poll_at_s:
                self._poll_at_s = now_s + self._settings.worker_poll_s
                for partition in self._in_turn:
                    partition.ask_at_s = -math.inf
            self._in_turn.append(self._in_turn.pop(0))
            for partition in list(self._in_turn):
                free = self._settings.worker_jobs - len(self._running.attempts)
                slots = min(MAX_CLAIMS_PER_CALL, free)
                if slots <= 0 or not self._may_claim():
                    await self._pass_on()
                    return self._settings.worker_poll_s  # or until a slot is free
                if partition.search is None and partition.ask_at_s <= now_s:
                    await self._claim_from(partition, slots)
            asked = (each.ask_at_s for each in self._in_turn if each.search is None)
            return min(self._poll_at_s, *asked, math.inf) - now_s

    async def _pass_on(self) -> None:
        """Wake other workers for the jobs that this one was woken for and has no room for."""
        for partition in self._in_turn:
            if partition.is_woken:
                partition.is_woken = False
                with suppress(Exception):  # then a poll finds the jobs
                    await self._leases.pass_on(partition.number)

    async def wait_for_claim(self) -> None:
        """Wait for a claim under way: otherwise its jobs would lose their leases."""
        async with self._one_at_a_time:
            pass

    async def aclose(self, patience_s: float) -> None:
        """Stop searching; start the jobs of a claim under way, so that they are handed back."""
        if self._pending is not None:
            with suppress(Exception):
                async with asyncio.timeout(patience_s):
                    claims, _ = await self._pending
                    self._running.start(claims)
        for partition in self._in_turn:
            if partition.search is not None:
                partition.search.cancel()
                with suppress(asyncio.CancelledError):
                    await partition.search

    async def _claim_from(self, partition: _Partition, slots: int) -> None:
        # Reset before the call, not after: a wake-up that arrives during the call may be about a
        # job that the call did not see. It must not be overwritten.
        partition.ask_at_s, partition.had_less_room = math.inf, True
        partition.is_woken = False
        try:
            due_s = await self._claim(partition, slots)
        except Exception as error:  # one bad reply must not end the worker and all its jobs
            partition.outage.record_failure(error)
            if is_wrong_type(error):
                self._search_for(partition)  # a foreign key in this partition alone
            else:
                self.search(partition.number)
        else:
            partition.outage.record_success()
            if due_s is not None:
                now_s = asyncio.get_running_loop().time()
                partition.ask_at_s = min(partition.ask_at_s, now_s + due_s)

    async def _claim(self, partition: _Partition, slots: int) -> float | None:
        bulk = sum(attempt.claim.is_bulk for attempt in self._running.attempts)
        room = self._settings.worker_jobs - self._settings.worker_reserved_interactive - bulk
        bulk_slots = max(0, min(slots, room))
        # Two suspects at once would die together, and both would be blamed.
        running = (attempt.claim for attempt in self._running.attempts)
        suspects = 0 if any(map(self._leases.is_suspect, running)) else 1
        respite_s = self._settings.worker_lease_s / 2
        is_fresh = asyncio.get_running_loop().time() < partition.outage_over_s + respite_s
        claiming = self._leases.claim(
            partition.number,
            slots=slots,
            bulk_slots=bulk_slots,
            suspects=suspects,
            respite_s=respite_s if is_fresh else 0,
        )
        # A task of its own, shielded: Redis may have leased the jobs when we are cancelled.
        self._pending = asyncio.create_task(claiming, name="darkq-claim")
        claims, due_s = await asyncio.shield(self._pending)
        self._running.start(claims)
        self._pending = None
        partition.had_less_room = bulk_slots < slots or not suspects or len(claims) == slots
        # After a full call there may be more due jobs, also in another queue.
        return 0.0 if len(claims) == MAX_CLAIMS_PER_CALL else due_s

    def search(self, number: int) -> None:
        """Stop claiming from a partition and the others of its server until they respond."""
        owner = self._servers.owner(PartitionKeys(number).wake)
        for each in self._in_turn:
            is_there = self._servers.owner(PartitionKeys(each.number).wake) == owner
            if each.search is None and is_there:
                self._search_for(each)

    def _search_for(self, partition: _Partition) -> None:
        partition.search = asyncio.create_task(self._find(partition), name="darkq-search")

    async def _find(self, partition: _Partition) -> None:
        """Call a partition until it responds; the call renews the leases of this worker first."""
        while True:
            await asyncio.sleep(OUTAGE_PAUSE_S)
            with suppress(Exception):  # the caller has logged the outage
                await self._heartbeat.renew_in(partition.number)
                break
        partition.outage_over_s = asyncio.get_running_loop().time()
        partition.search = None
        self.look_at(partition.number)
