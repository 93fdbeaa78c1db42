"""The rows of the page's lists: jobs and batches. Times are epoch milliseconds, 0 if unknown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import aclosing, suppress

import msgspec

from darkq import BatchNotFound, BatchStatus, Client, Status
from darkq.jobs.job_lists import Beginning, Why
from darkq_gateway.board.pace import Pace
from darkq_gateway.native.caching import is_finished

MAX_BATCHES = 20
PROMPT_CHARS = 1000
ANSWER_CHARS = 200
_NOT_SHOWN = ("tries", "metadata", "tenant")


class JobRow(Status, frozen=True, kw_only=True, omit_defaults=True):
    """The status of a job in a list. `line` is its number in a batch.

    `prompt` is the beginning of its prompt; `answer` that of its answer, if the prompt is not
    stored.
    """

    prompt: str = ""
    answer: str = ""
    chunks_per_s: float = 0.0
    line: int = 0

    @property
    def unfinished(self) -> bool:
        """Whether the job has not ended."""
        return not is_finished(self)


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


def make_row(status: Status, beginning: Beginning) -> JobRow:
    """Return the row of a job. The answer leads if the prompt is not stored any more."""
    fields = msgspec.structs.asdict(status)
    for name in _NOT_SHOWN:
        del fields[name]
    prompt = _shorten(beginning.prompt, PROMPT_CHARS)
    answer = "" if prompt else _shorten(beginning.answer, ANSWER_CHARS)
    return JobRow(**fields, prompt=prompt, answer=answer)


def _shorten(text: str, chars: int) -> str:
    """Return the beginning of a text, in one line."""
    return " ".join(text[: 2 * chars].split())[:chars]


def complete_rows(
    jobs: Sequence[JobRow], paces: Mapping[str, Pace], reasons: Mapping[str, Why]
) -> list[JobRow]:
    """Return the jobs, with the pace of those that are running and the reasons of the others."""
    jobs = [
        msgspec.structs.replace(job, why=reasons[job.job_id]) if job.job_id in reasons else job
        for job in jobs
    ]
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
        return [_make_batch(status, None) for status in await _read_batches_without_tenant(client)]
    found = []
    for record in (await client.file_batches.page(tenant, limit=MAX_BATCHES)).records:
        with suppress(BatchNotFound):  # it has expired before the record of its files
            found.append(_make_batch(await client.batch(record.id).status(), record.total or None))
    return found


def _make_batch(status: BatchStatus, lines: int | None) -> BatchRow:
    """Return the row of a batch; `lines` is the number of lines of its file, if known."""
    row = msgspec.convert(status, BatchRow, from_attributes=True)
    return msgspec.structs.replace(row, expected=row.expected or lines)


async def _read_batches_without_tenant(client: Client) -> list[BatchStatus]:
    found: list[BatchStatus] = []
    async with aclosing(client.batches()) as batches:
        async for status in batches:
            if not status.metadata.get("tenant"):
                found.append(status)
            if len(found) == MAX_BATCHES:
                break
    return found
