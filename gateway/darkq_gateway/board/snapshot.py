"""What the board shows, and to which callers.

A caller sees the jobs and batches of its tenant. Workers, upstreams and queues are shared and
reveal the activity of other tenants. So they are shown only on a gateway without API keys, and to
the tenants in `DARKQ_GATEWAY_OPERATORS`. Prompts, answers and metadata are not shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import aclosing, suppress
from typing import NamedTuple

import msgspec

from darkq import BatchNotFound, BatchStatus, Client, Settings
from darkq.operate.fleet import Fleet
from darkq_gateway.board.pace import Pace
from darkq_gateway.http.context import Caller

MAX_JOBS = 40
MAX_BATCHES = 20


class View(NamedTuple):
    """What a caller may see."""

    tenant: str | None
    sees_system: bool


class JobRow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A job in the list. Times are epoch milliseconds, 0 if unknown."""

    job_id: str
    state: str
    attempt: int = 0
    model: str | None = None
    upstream: str | None = None
    queued_ms: int = 0
    due_in_ms: int = 0
    started_ms: int = 0
    first_chunk_ms: int = 0
    finished_ms: int = 0
    chunks: int = 0
    chunks_per_s: float = 0.0

    @property
    def unfinished(self) -> bool:
        """Whether the job has not ended."""
        return self.state not in ("completed", "failed", "cancelled")


class BatchRow(msgspec.Struct, frozen=True, kw_only=True):
    """A batch in the list; `total` is None while its input is open.

    `expected` is how many lines it was created for, if that was known.
    """

    batch_id: str
    name: str | None
    state: str
    created_ms: int
    total: int | None
    expected: int | None
    added: int
    completed: int
    failed: int
    cancelled: int


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """All data of the page; `system` is what all tenants share."""

    now_ms: int
    jobs: list[JobRow]
    batches: list[BatchRow]
    system: Fleet | None


def make_view(caller: Caller, settings: Settings) -> View:
    """Return the view of a caller."""
    operators = {name.strip() for name in settings.gateway_operators.split(",")}
    return View(caller.tenant, caller.tenant is None or caller.tenant in operators)


async def read_jobs(client: Client, tenant: str | None) -> list[JobRow]:
    """Return a tenant's latest jobs. Raises `RedisUnavailable`."""
    jobs = await client.jobs(tenant=tenant, limit=MAX_JOBS)
    return msgspec.convert(jobs, list[JobRow], from_attributes=True)


def add_paces(jobs: list[JobRow], paces: Mapping[str, Pace]) -> list[JobRow]:
    """Return the jobs, with the pace of those that are running."""
    return [
        msgspec.structs.replace(job, **pace._asdict())
        if job.unfinished and (pace := paces.get(job.job_id)) is not None and pace.model is not None
        else job
        for job in jobs
    ]


async def read_batches(client: Client, tenant: str | None) -> list[BatchRow]:
    """Return a tenant's batches; without a tenant, those without an owner.

    Raises `RedisUnavailable`.
    """
    if tenant is None:
        found = await _read_batches_without_tenant(client)
    else:
        found = []
        for record in (await client.file_batches.page(tenant, limit=MAX_BATCHES)).records:
            with suppress(BatchNotFound):  # it has expired before the record of its files
                found.append(await client.batch(record.id).status())
    return msgspec.convert(found, list[BatchRow], from_attributes=True)


async def _read_batches_without_tenant(client: Client) -> list[BatchStatus]:
    found: list[BatchStatus] = []
    async with aclosing(client.batches()) as batches:
        async for status in batches:
            if not status.metadata.get("tenant"):
                found.append(status)
            if len(found) == MAX_BATCHES:
                break
    return found
