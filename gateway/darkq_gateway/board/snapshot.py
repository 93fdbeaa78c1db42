"""What the board shows, and to which callers.

A caller sees the jobs, prompts and batches of its tenant. Workers, upstreams and queues are shared
and reveal the activity of other tenants. So they are shown only on a gateway without API keys, and
to the tenants in `DARKQ_GATEWAY_OPERATORS`. A snapshot has no metadata, the beginning of an answer
only if its prompt is not stored, and with `DARKQ_GATEWAY_BOARD_PROMPTS=false` neither.
"""

from __future__ import annotations

import time
from collections import deque
from typing import NamedTuple

import msgspec

from darkq import Client, Settings
from darkq.operate.waiting import Fleet
from darkq.telemetry.metrics import CHUNKS
from darkq_gateway.board.job_index import Listing
from darkq_gateway.board.rows import BatchRow
from darkq_gateway.http.context import Caller

MAX_JOBS = 40
RATE_OVER_S = 15.0
"""The default length of a lease, in which a worker reports its counts four times."""
RECENTLY_S = 3600.0


class View(NamedTuple):
    """What a caller may see."""

    tenant: str | None
    sees_system: bool


class System(Fleet, frozen=True, kw_only=True):
    """What all tenants share. `failed` jobs are kept, `failed_recently` in the last hour.

    `chunks_per_s` is what workers have counted; None before there are two readings.
    """

    failed: int
    failed_recently: int
    chunks_per_s: float | None


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """All data of the page."""

    now_ms: int
    shows_prompts: bool
    listing: Listing
    batches: list[BatchRow]
    system: System | None


def make_view(caller: Caller, settings: Settings) -> View:
    """Return the view of a caller."""
    operators = {name.strip() for name in settings.gateway_operators.split(",")}
    return View(caller.tenant, caller.tenant is None or caller.tenant in operators)


class SystemReader:
    """Reads what all tenants share. A rate is the difference of two counts."""

    def __init__(self, client: Client, settings: Settings) -> None:
        self._client = client
        self._failed_ttl_s = settings.failed_ttl_s
        self._counts: deque[tuple[float, int]] = deque()

    async def read(self) -> System:
        """Return the current state. Raises `RedisUnavailable`."""
        stats = await self._client.stats()
        rate = self._rate(time.monotonic(), sum(CHUNKS.counts(stats.numbers).values()))
        lists = self._client.job_lists
        return System(
            **msgspec.structs.asdict(await self._client.fleet()),
            failed=await lists.count_failed(self._failed_ttl_s),
            failed_recently=await lists.count_failed(min(RECENTLY_S, self._failed_ttl_s)),
            chunks_per_s=rate,
        )

    def _rate(self, now_s: float, chunks: int) -> float | None:
        counts = self._counts
        if counts and (chunks < counts[-1][1] or now_s - counts[-1][0] > RATE_OVER_S):
            counts.clear()  # Redis was replaced, or no page was open
        counts.append((now_s, chunks))
        while len(counts) > 2 and now_s - counts[1][0] >= RATE_OVER_S:
            counts.popleft()
        since_s, before = counts[0]
        return round((chunks - before) / (now_s - since_s), 1) if now_s > since_s else None
