"""What the board shows, and to whom.

Jobs and batches are those of the caller's tenant. Workers, upstreams and queues are everybody's
together, and tell one tenant of the others: they are shown where there is no tenant, on a gateway
without keys, and to the tenants of `DARKQ_GATEWAY_OPERATORS`. No prompt, answer or metadata is
part of it.
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
    """Who looks."""

    tenant: str | None
    sees_system: bool


class JobRow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A job in the list. Times are epoch milliseconds, 0 where they are not known."""

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
    """A batch in the list; `total` is None while its input is open."""

    batch_id: str
    name: str | None
    state: str
    created_ms: int
    total: int | None
    added: int
    completed: int
    failed: int
    cancelled: int


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a page shows at a time; `system` is what all tenants share."""

    now_ms: int
    jobs: list[JobRow]
    batches: list[BatchRow]
    system: Fleet | None


def view_of(caller: Caller, settings: Settings) -> View:
    """Return what a caller may see."""
    operators = {name.strip() for name in settings.gateway_operators.split(",")}
    return View(caller.tenant, caller.tenant is None or caller.tenant in operators)


async def read_jobs(client: Client, tenant: str | None) -> list[JobRow]:
    """Return a tenant's latest jobs. Raises `RedisUnavailable`."""
    return [
        JobRow(
            job_id=status.job_id,
            state=status.state,
            attempt=status.attempt,
            model=status.model,
            upstream=status.upstream,
            queued_ms=status.queued_ms,
            due_in_ms=status.due_in_ms,
            started_ms=status.started_ms,
            first_chunk_ms=status.first_chunk_ms,
            finished_ms=status.finished_ms,
            chunks=status.chunks,
        )
        for status in await client.jobs(tenant=tenant, limit=MAX_JOBS)
    ]


def with_paces(jobs: list[JobRow], paces: Mapping[str, Pace]) -> list[JobRow]:
    """Return the jobs, those that have begun and not ended with how they do."""
    return [
        msgspec.structs.replace(job, **pace._asdict())
        if job.unfinished and (pace := paces.get(job.job_id)) is not None and pace.model is not None
        else job
        for job in jobs
    ]


async def read_batches(client: Client, tenant: str | None) -> list[BatchRow]:
    """Return a tenant's batches; without a tenant those that no tenant owns.

    Raises `RedisUnavailable`.
    """
    if tenant is None:
        found = await _batches_of_nobody(client)
    else:
        found = []
        for record in (await client.file_batches.page(tenant, limit=MAX_BATCHES)).records:
            with suppress(BatchNotFound):  # the record of its files may outlive it
                found.append(await client.batch(record.id).status())
    return [
        BatchRow(
            batch_id=status.batch_id,
            name=status.name,
            state=status.state,
            created_ms=status.created_ms,
            total=status.total,
            added=status.added,
            completed=status.completed,
            failed=status.failed,
            cancelled=status.cancelled,
        )
        for status in found
    ]


async def _batches_of_nobody(client: Client) -> list[BatchStatus]:
    found: list[BatchStatus] = []
    async with aclosing(client.batches()) as batches:
        async for status in batches:
            if not status.metadata.get("tenant"):
                found.append(status)
            if len(found) == MAX_BATCHES:
                break
    return found
