"""One batch over files, from its input to its output. Whoever runs it may die at any point.

    validating ── in_progress ── finalizing ── completed | expired | cancelled
        └── failed

What lines were answered is stored as parts of the output before it is acknowledged, each under the
number of its first end. What was stored and not acknowledged comes again from the batch, and
replaces its part: so each line is in the output once. In the end the parts become one file, under
an id that follows from the batch's.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing

import msgspec

from darkq import Client, FileBatch, FileNotFound, Files, LineError, Settings
from darkq.batch import Batch
from darkq.batch_answers import answer_line, failure_line
from darkq.batch_ends import Finished
from darkq.batch_lines import Line
from darkq.errors import BatchClosed
from darkq.keys import BatchKeys
from darkq_worker.file_batch_input import Input

MAX_ERRORS = 100
LINES_PER_CALL = 200
FEW_LINES = 100
PAUSE_S = 1.0
"""After a page of few lines: more of them gather meanwhile, and make one part."""

_UNANSWERED = {
    "expired": ("batch_expired", "the batch was not completed within its window"),
    "cancelled": ("batch_cancelled", "the batch was cancelled"),
}


class FileBatchRun:
    """Runs a batch whose lease its caller holds."""

    def __init__(
        self, client: Client, files: Files, settings: Settings, batch: Batch, record: FileBatch
    ) -> None:
        self._client = client
        self._files = files
        self._settings = settings
        self._batch = batch
        self._record = record
        self._input = Input(files, record)
        self._output_id, self._error_id = (
            "file-" + hashlib.sha256(f"{record.id} {what}".encode()).hexdigest()[:32]
            for what in ("output", "errors")
        )

    async def run(self) -> None:
        """Go on from wherever it stands to its end.

        Raises `RedisUnavailable`, `FileStoreUnavailable`, `BatchTaken`, `BatchNotFound`; then, or
        cancelled, another call goes on.
        """
        if self._record.state == "validating":
            await self._validate()
        if self._record.state == "in_progress":
            await self._answer()
        if self._record.state == "finalizing":
            await self._finalize()
        for file_id in (self._output_id, self._error_id):
            await self._files.drop_parts(self._record.tenant, file_id)
        await self._client.file_batches.close(self._record.id)

    async def _validate(self) -> None:
        total, errors = 0, list[LineError]()
        try:
            async with aclosing(self._input.lines(errors)) as lines:
                async for _ in lines:
                    total += 1
                    if total > self._settings.files_max_lines:
                        most = f"a batch may have {self._settings.files_max_lines:,} lines at most"
                        errors.append(LineError(code="too_many_lines", message=most))
                    if len(errors) >= MAX_ERRORS:
                        break
        except FileNotFound:
            errors.append(LineError(code="file_not_found", message="the input file is gone"))
        if not (total or errors):
            errors.append(LineError(code="empty_file", message="the input file has no lines"))
        if errors:
            await self._turn("failed", errors=tuple(errors), ended_at=int(time.time()))
        else:
            await self._turn("in_progress", total=total, in_progress_at=int(time.time()))

    async def _answer(self) -> None:
        feeding = asyncio.create_task(self._feed(), name="darkq-file-batch-feed")
        expiring = asyncio.create_task(self._expire(), name="darkq-file-batch-expiry")
        try:
            async with aclosing(self._batch.collected()) as pages:
                async for page in pages:
                    await self._store(page)
                    if feeding.done():
                        feeding.result()
                    if len(page) < FEW_LINES:
                        await asyncio.sleep(PAUSE_S)
            await feeding
        finally:
            feeding.cancel()
            expiring.cancel()
            await asyncio.wait([feeding, expiring])
        await self._turn("finalizing", finalizing_at=int(time.time()))

    async def _feed(self) -> None:
        """Add every line; those that are there, or have been answered, stay as they are."""
        some: list[Line] = []
        try:
            async with aclosing(self._input.lines([])) as lines:
                async for line in lines:
                    some.append(line)
                    if len(some) == LINES_PER_CALL:
                        await self._batch.add_many(some)
                        some.clear()
            await self._batch.add_many(some)
            await self._batch.close_input()
        except BatchClosed:  # cancelled, or another worker had come as far as this
            pass

    async def _expire(self) -> None:
        await asyncio.sleep(self._record.expires_at - time.time())
        await self._batch.cancel()

    async def _store(self, page: Sequence[Finished]) -> None:
        answers, failures = list[bytes](), list[bytes]()
        for end in page:
            if end.result is not None:
                answers.append(answer_line(end.custom_id, end.result, self._record.endpoint))
            elif end.outcome != "missing":
                code, message = (end.code, end.message) if end.code else self._unanswered()
                failures.append(failure_line(end.custom_id, end.job_id, code, message))
        for file_id, lines in ((self._output_id, answers), (self._error_id, failures)):
            if lines:
                number = int(page[0].cursor)
                data = b"".join(lines)
                await self._files.put_part(self._record.tenant, file_id, number, data)
        await self._batch.acknowledge(page)
        if missing := {end.number for end in page if end.outcome == "missing"}:
            await self._add_again(missing)

    async def _add_again(self, numbers: set[int]) -> None:
        """Their results expired before anybody took them."""
        async with aclosing(self._input.lines([])) as lines:
            await self._batch.add_many([line async for line in lines if line.number in numbers])

    async def _finalize(self) -> None:
        status = await self._batch.status()
        left_out = self._left_out(status.last_line)
        output = await self._put_together(self._output_id, "output", _none())
        errors = await self._put_together(self._error_id, "errors", left_out)
        if status.state in ("cancelled", "cancelling"):
            end = "expired" if time.time() >= self._record.expires_at else "cancelled"
        else:
            end = "completed"
        await self._turn(
            end,
            completed=status.completed,
            failed=self._record.total - status.completed,
            output_file_id=output,
            error_file_id=errors,
            ended_at=int(time.time()),
        )

    async def _put_together(
        self, file_id: str, what: str, more: AsyncGenerator[bytes, None]
    ) -> str | None:
        """Make a file of its parts; None for one that would be empty."""
        tenant = self._record.tenant

        async def all_of_it() -> AsyncIterator[bytes]:
            async with aclosing(self._files.parts(tenant, file_id)) as parts:
                async for part in parts:
                    yield part
            async with aclosing(more):
                async for line in more:
                    yield line

        name = f"{self._record.id}_{what}.jsonl"
        info = await self._files.create(
            tenant,
            all_of_it(),
            filename=name,
            purpose="batch_output",
            file_id=file_id,
            ttl_s=self._record.output_ttl_s,
        )
        if info.bytes:
            return file_id
        await self._files.delete(tenant, file_id)
        return None

    async def _left_out(self, last_line: int) -> AsyncGenerator[bytes, None]:
        """Yield the lines of requests that were never added, since the batch ended before."""
        code, message = self._unanswered()
        async with aclosing(self._input.lines([])) as lines:
            async for line in lines:
                if line.number > last_line:
                    job = BatchKeys.parse(self._record.id).job(line.number)
                    yield failure_line(line.custom_id, job.public_id, code, message)

    def _unanswered(self) -> tuple[str, str]:
        is_over = time.time() >= self._record.expires_at
        return _UNANSWERED["expired" if is_over else "cancelled"]

    async def _turn(self, state: str, **changes: object) -> None:
        """Write a new state down, before anything is done in it."""
        self._record = msgspec.structs.replace(self._record, state=state, **changes)
        await self._client.file_batches.update(self._record)


async def _none() -> AsyncGenerator[bytes, None]:
    nothing: tuple[bytes, ...] = ()
    for line in nothing:
        yield line
