"""A tenant's latest jobs in the memory of a gateway, while a page of the tenant is open.

Filters, search and paging work on it, so they cost Redis nothing. A refresh reads the ids of the
list, the heads of jobs that are new or shown, and of a bounded number of the others: of those that
have not ended, and of those that have, since they expire and failed ones are run again. What was
read the longest time ago is read next.

A list has a tenant's latest thousand jobs. If it is full, running jobs that are older are found by
their leases. Jobs of other tenants among them are read once, and then skipped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import msgspec
from aiohttp import web

from darkq import Client
from darkq.jobs.job_lists import MAX_LISTED, Beginning
from darkq_gateway.board.rows import JobRow, make_row
from darkq_gateway.http.errors import ApiError
from darkq_gateway.http.queries import read_integer

MAX_UNFINISHED_READ = 100
MAX_ENDED_READ = 20
MAX_CHARS = 200
MAX_START = 100_000

GROUPS = {
    "queued": "waiting",
    "deferred": "waiting",
    "running": "running",
    "cancelling": "running",
    "completed": "completed",
    "failed": "failed",
    "cancelled": "cancelled",
}
"""What a list is filtered by, for each state of a job."""


class ListQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which jobs of a list to show; `batch` shows the lines of a batch instead."""

    state: str = ""
    model: str = ""
    text: str = ""
    batch: str = ""
    start: int = 0


def read_query(request: web.Request) -> ListQuery:
    """Return the query of a request. Raises `ApiError`."""
    state = request.query.get("state", "")
    if state and state not in GROUPS.values():
        groups = ", ".join(sorted(set(GROUPS.values())))
        raise ApiError(422, "invalid_query", f"must be one of: {groups}", "state")
    return ListQuery(
        state=state,
        model=_read_text(request, "model"),
        text=_read_text(request, "text").strip(),
        batch=_read_text(request, "batch"),
        start=read_integer(request, "start", default=0, least=0, most=MAX_START),
    )


def _read_text(request: web.Request, name: str) -> str:
    text = request.query.get(name, "")
    if len(text) > MAX_CHARS:
        raise ApiError(422, "invalid_query", f"must have at most {MAX_CHARS} characters", name)
    return text


class Listing(msgspec.Struct, frozen=True, kw_only=True):
    """One page of a list. `matched` jobs match the query, `total` are in the list."""

    jobs: list[JobRow]
    start: int
    matched: int
    total: int
    counts: dict[str, int] = {}
    models: list[str] = []


class _Known:
    """A job, the text that is searched, and the number of the refresh that has read it."""

    def __init__(self, row: JobRow, read_at: int) -> None:
        self.row = row
        self.read_at = read_at
        self.text = f"{row.job_id}\n{row.prompt or row.answer}".casefold()


class JobIndex:
    """The jobs of one tenant."""

    def __init__(self, client: Client, tenant: str | None, *, shows_prompts: bool) -> None:
        self._client = client
        self._tenant = tenant
        self._shows_prompts = shows_prompts
        self._ids: list[str] = []
        self._known: dict[str, _Known] = {}
        self._gone: set[str] = set()
        self._shown: set[str] = set()
        self._refreshes = 0

    async def refresh(self) -> None:
        """Read what is new. Raises `RedisUnavailable`."""
        self._refreshes += 1
        self._ids = await self._client.job_lists.ids(self._tenant)
        if len(self._ids) >= MAX_LISTED:
            self._ids += await self._find_older()
        listed = set(self._ids)
        self._gone &= listed
        for job_id in self._known.keys() - listed:
            del self._known[job_id]
        new = [id_ for id_ in self._ids if id_ not in self._known and id_ not in self._gone]
        await self._read([*new, *self._choose_again()])

    async def _find_older(self) -> list[str]:
        """Return the jobs that run, and are missing from the list since newer ones fill it."""
        listed = set(self._ids)
        older = [job_id for job_id in await self._client.job_lists.held() if job_id not in listed]
        new = [job_id for job_id in older if job_id not in self._known and job_id not in self._gone]
        self._gone |= await self._client.job_lists.lines_among(new)
        return older

    def _choose_again(self) -> set[str]:
        """Return the known jobs to read again: those that pages show, and some of the others."""
        shown, self._shown = self._shown & self._known.keys(), set()
        by_age = sorted(self._known.items(), key=lambda item: item[1].read_at)
        unfinished = [job_id for job_id, known in by_age if known.row.unfinished]
        ended = [job_id for job_id, known in by_age if not known.row.unfinished]
        return shown.union(unfinished[:MAX_UNFINISHED_READ], ended[:MAX_ENDED_READ])

    async def _read(self, job_ids: Sequence[str]) -> None:
        rows = await read_rows(
            self._client,
            self._tenant,
            job_ids,
            {id_: known.row for id_, known in self._known.items()},
            shows_prompts=self._shows_prompts,
        )
        for row in rows:
            self._known[row.job_id] = _Known(row, self._refreshes)
        for job_id in set(job_ids).difference(row.job_id for row in rows):
            self._known.pop(job_id, None)
            self._gone.add(job_id)

    def select(self, query: ListQuery, limit: int) -> Listing:
        """Return the page of the jobs that match, the newest first."""
        known = [known for job_id in self._ids if (known := self._known.get(job_id)) is not None]
        wanted = query.text.casefold()
        matching = [
            each.row
            for each in known
            if query.state in ("", GROUPS[each.row.state])
            and query.model in ("", each.row.model)
            and wanted in each.text
        ]
        start = query.start if query.start < len(matching) else 0
        jobs = matching[start : start + limit]
        self._shown.update(job.job_id for job in jobs)
        return Listing(
            jobs=jobs,
            start=start,
            matched=len(matching),
            total=len(known),
            counts=Counter(GROUPS[each.row.state] for each in known),
            models=sorted({each.row.model for each in known if each.row.model}),
        )


async def read_rows(
    client: Client,
    tenant: str | None,
    job_ids: Sequence[str],
    known: dict[str, JobRow],
    *,
    shows_prompts: bool,
) -> list[JobRow]:
    """Return the rows of the tenant's jobs among these; a prompt that is known is not read."""
    statuses = [
        status for status in await client.job_lists.statuses(job_ids) if status.tenant == tenant
    ]
    new = [status.job_id for status in statuses if status.job_id not in known]
    found = await client.job_lists.beginnings(new) if shows_prompts else {}
    found |= {job_id: Beginning(row.prompt, row.answer) for job_id, row in known.items()}
    return [make_row(status, found.get(status.job_id, Beginning())) for status in statuses]
