"""Runs one batch over a file, from its input to its output. The runner may die at any point.

    validating ── in_progress ── finalizing ── completed | expired | cancelled | failed
        └── failed      └── failed: given up; finalized later, if the file store recovers

A lease cannot fence the file store: a runner that was suspended past its lease continues to write
there, beside its successor. So each runner writes under names of its own, and one script in Redis
decides which of them are valid. A page of ends is stored as a part `<number>-<token>`; the script
`batch_acknowledge` records the part together with its ends. The recorded parts become a file with
a new id, and the script that ends the batch makes that file the output. Files without a record are
deleted an hour after the end.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from contextlib import aclosing, suppress
from typing import NamedTuple

import msgspec

from darkq import Client, Settings
from darkq.batches.answers import answer_line, failure_line, refusal_line
from darkq.batches.batch import Batch
from darkq.batches.lease import Part
from darkq.batches.lines import Line
from darkq.batches.results import Finished, Position
from darkq.errors import BatchClosed, BatchFull, BatchTaken, FileNotFound, FileStoreUnavailable
from darkq.openai.errors import build_job_error
from darkq.openai.response import read_repeated
from darkq.protocol.keys import BatchKeys
from darkq.redis.group_commit import MAX_BYTES_PER_CALL
from darkq.serving.file_batches import LEFTOVERS_KEPT_S, TTL_S, FileBatch, FileBatchState, LineError
from darkq.serving.files import Files, new_file_id
from darkq_worker.files.input import Input, RefusedLine

MAX_ERRORS = 100
LINES_PER_CALL = 200
FEW_LINES = 100
FEW_BYTES = MAX_BYTES_PER_CALL // 2
PAUSE_S = 1.0
"""The pause after a small page, so that the next part has more lines."""

CHECK_S = 30.0
"""How often to check whether the batch must end: by its deadline, or by a cancellation."""

_NOT_YET_S = 0.05

_UNANSWERED = {
    "expired": ("batch_expired", "the batch was not completed within its window"),
    "cancelled": ("batch_cancelled", "the batch was cancelled"),
}
_NOT_FINISHED = "batch_not_finished"
_INPUT_GONE = LineError(code="file_not_found", message="the input file is gone")


class _Kind(NamedTuple):
    """One of the two files that a batch writes. Its parts are stored under `parts_id`."""

    name: str
    parts_id: str


def list_kinds(batch_id: str) -> tuple[_Kind, _Kind]:
    """Return the kinds of a batch: output and errors."""
    output, errors = (
        _Kind(name, f"file-{hashlib.sha256(f'{batch_id} {name}'.encode()).hexdigest()[:32]}")
        for name in ("output", "errors")
    )
    return output, errors


class FileBatchRun:
    """Runs a batch; the caller holds its lease."""

    def __init__(
        self, client: Client, files: Files, settings: Settings, batch: Batch, record: FileBatch
    ) -> None:
        self._client = client
        self._files = files
        self._settings = settings
        self._batch = batch
        self._record = record
        self._input = Input(files, record)
        self._output, self._errors = list_kinds(record.id)
        self._parts = 0

    @property
    def may_pause(self) -> bool:
        """True if the run can be stopped now and resumed later at little cost."""
        return self._record.state == "in_progress"

    async def run(self) -> None:
        """Continue the batch from its recorded state to its end.

        Raises `RedisUnavailable`, `FileStoreUnavailable`, `BatchTaken`, `BatchNotFound`, and
        `CursorGone` if Redis has lost ends. After an error or a cancellation, another call resumes.
        """
        if self._record.state == "validating":
            await self._validate()
        if self._record.state == "in_progress":
            await self._answer()
        if self._record.state == "finalizing":
            await self._finalize()
        elif self._is_given_up:
            await self._collect()
            await self._finalize()
        await self._client.file_batches.close(self._record.id)

    async def give_up(self, reason: str) -> bool:
        """End the batch as failed; True once `run` must not be called again. Raises as `run`.

        For an hour, `run` still tries to deliver the answers: the file store may recover.
        """
        if self._record.ended_at is None:
            await self._batch.cancel()
            error = LineError(code=_NOT_FINISHED, message=f"stopped again and again: {reason}")
            await self._set_state("failed", errors=(error,), ended_at=int(time.time()))
        elif time.time() >= self._record.ended_at + LEFTOVERS_KEPT_S:
            await self._client.file_batches.close(self._record.id)
            return True
        return False

    @property
    def _is_given_up(self) -> bool:
        """True if the batch has failed, and no answers were delivered."""
        record = self._record
        return (
            record.state == "failed"
            and record.completed + record.failed < record.total
            and any(error.code == _NOT_FINISHED for error in record.errors)
        )

    async def _validate(self) -> None:
        total, refused, errors = 0, 0, list[LineError]()
        try:
            async with aclosing(self._input.entries(errors)) as entries:
                async for entry in entries:
                    total += 1
                    refused += isinstance(entry, RefusedLine)
                    if total > self._settings.files_max_lines:
                        most = f"a batch may have {self._settings.files_max_lines:,} lines at most"
                        errors.append(LineError(code="too_many_lines", message=most))
                        break
                    if len(errors) >= MAX_ERRORS:
                        break
        except FileNotFound:
            errors.append(_INPUT_GONE)
        if not (total or errors):
            errors.append(LineError(code="empty_file", message="the input file has no lines"))
        if errors:
            await self._set_state("failed", errors=tuple(errors), ended_at=int(time.time()))
        else:
            now = int(time.time())
            await self._set_state("in_progress", total=total, refused=refused, in_progress_at=now)

    async def _answer(self) -> None:
        feeding = asyncio.create_task(self._feed(), name="darkq-file-batch-feed")
        collecting = asyncio.create_task(self._collect(), name="darkq-file-batch-collect")
        ending = asyncio.create_task(self._end_in_time(), name="darkq-file-batch-end")
        tasks = (feeding, collecting, ending)
        try:
            await asyncio.wait(tasks[:2], return_when=asyncio.FIRST_COMPLETED)
            if not collecting.done():
                feeding.result()  # raises at once, without waiting for the answers
            await collecting
            await feeding
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await self._set_state("finalizing", finalizing_at=int(time.time()))

    async def _feed(self) -> None:
        """Add every line; lines that were added before are not changed."""
        status = await self._batch.status()
        if status.total is not None or status.state != "open":
            return
        try:
            while not await self._batch.close_input(least=await self._add_all()):
                pass  # Redis has lost lines: add all of them again
        except BatchClosed:  # cancelled, or another worker closed it before
            pass
        except FileNotFound:
            await self._continue_without_input()
        except FileStoreUnavailable:
            if not self._is_overdue:
                raise

    async def _add_all(self) -> int:
        """Add the lines, bounded by number and size per call; return their number."""
        count, size, some = 0, 0, list[Line]()
        async with aclosing(self._input.lines([])) as lines:
            async for line in lines:
                count += 1
                some.append(line)
                size += line.job.prompt_bytes
                if len(some) == LINES_PER_CALL or size >= MAX_BYTES_PER_CALL:
                    await self._add(some)
                    some.clear()
                    size = 0
        await self._add(some)
        return count

    async def _add(self, lines: list[Line]) -> None:
        while True:
            try:
                return await self._batch.add_many(lines)
            except BatchFull:  # `_collect` has not started to free room
                await asyncio.sleep(_NOT_YET_S)

    async def _continue_without_input(self) -> None:
        """Record that the input is gone; the lines that were added continue to their ends."""
        if not self._record.errors:
            await self._set_state("in_progress", errors=(_INPUT_GONE,))
        await self._batch.close_input()

    async def _end_in_time(self) -> None:
        """Cancel the batch when its deadline has passed.

        A cancelled batch is cancelled again and again: the first cancellation may have been
        interrupted, or Redis may have lost it for some jobs. Any error is retried.
        """
        while True:
            pause_s = max(0.0, min(CHECK_S, self._record.expires_at - time.time()))
            try:
                status = await self._batch.status()
                if self._is_overdue or status.state == "cancelling":
                    await self._batch.cancel()
                    pause_s = CHECK_S
            except Exception:
                pause_s = PAUSE_S
            await asyncio.sleep(pause_s)

    async def _collect(self) -> None:
        async with aclosing(self._batch.collected()) as pages:
            async for page in pages:
                size = await self._store(page)
                if len(page) < FEW_LINES and size < FEW_BYTES:
                    await asyncio.sleep(PAUSE_S)

    async def _store(self, page: Sequence[Finished]) -> int:
        """Store a page of ends as a part, and acknowledge them; return the size of the part."""
        page = await self._restore_custom_ids(page)
        answers, failures, keep = list[bytes](), list[bytes](), set[int]()
        for end in page:
            if end.result is not None:
                answers.append(answer_line(end.custom_id, end.result, self._record.endpoint))
                repeated = read_repeated(end.result.metadata)
                if repeated is not None and repeated.store:
                    keep.add(end.number)  # a Response that its owner may retrieve by its id
            elif end.code:
                error = build_job_error(end.code, end.message, self._record.endpoint)
                failures.append(refusal_line(end.custom_id, end.job_id, error))
            elif end.outcome != "missing":
                failures.append(failure_line(end.custom_id, end.job_id, *self._unanswered()))
        self._parts += 1  # unique: neither another call nor another runner uses this name
        first = Position.parse(page[0].cursor).number
        name = f"{first:015d}-{self._batch.runner.rpartition(':')[2]}.{self._parts}"
        stored, size = list[str](), 0
        for kind, lines in ((self._output, answers), (self._errors, failures)):
            if lines:
                data = b"".join(lines)
                await self._files.put_part(self._record.tenant, kind.parts_id, name, data)
                stored.append(kind.name)
                size += len(data)
        part = Part(f"{name} {'+'.join(stored)}", TTL_S) if stored else None
        await self._batch.acknowledge(page, part=part, keep=keep)
        if missing := {end.number for end in page if end.outcome == "missing"}:
            await self._add_again(missing)
        return size

    async def _restore_custom_ids(self, page: Sequence[Finished]) -> Sequence[Finished]:
        """Return ends with the ids of the input, where Redis has deleted them with the result."""
        nameless = {end.number for end in page if not end.custom_id and end.outcome != "missing"}
        if not nameless:
            return page
        names = dict[int, str]()
        with suppress(FileNotFound):
            async with aclosing(self._input.lines([])) as lines:
                names = {line.number: line.custom_id async for line in lines}
        return [
            msgspec.structs.replace(end, custom_id=names[end.number])
            if end.number in nameless & names.keys()
            else end
            for end in page
        ]

    async def _add_again(self, numbers: set[int]) -> None:
        """Add lines again whose results expired before they were stored."""
        try:
            async with aclosing(self._input.lines([])) as lines:
                again = [line async for line in lines if line.number in numbers]
            await self._batch.add_many(again)
        except BatchClosed:
            await self._batch.cancel()  # the remaining lines have no job
        except FileNotFound:
            await self._continue_without_input()
            await self._batch.cancel()

    async def _finalize(self) -> None:
        status = await self._batch.status()
        answered = await self._batch.answered_lines()
        missing = self._record.total - int.from_bytes(answered).bit_count()
        gone = missing > 0 and not await self._has_input()
        missing_lines = None if gone or not missing else self._unanswered_lines(answered)
        output_id, error_id = new_file_id(), new_file_id()
        await self._set_state(self._record.state, begins=(output_id, error_id))
        try:
            output = await self._write_file(output_id, self._output, None)
            errors = await self._write_file(error_id, self._errors, missing_lines)
            end, why = self._end(status.state in ("cancelled", "cancelling"), gone=gone)
            by_owner = end == "cancelled" and status.cancelled_ms is not None
            await self._set_state(
                end,
                completed=status.completed,
                failed=self._record.total - status.completed,
                output_file_id=output,
                error_file_id=errors,
                errors=why,
                cancelling_at=(status.cancelled_ms or 0) // 1000 if by_owner else None,
                ended_at=self._record.ended_at or int(time.time()),
            )
        except BatchTaken:
            record = await self._client.file_batches.get(self._record.id)
            if record.ended_at is not None:  # the batch has ended with other files
                await _remove_unnamed(self._files, record, (output_id, error_id))
            raise

    def _end(self, cancelled: bool, *, gone: bool) -> tuple[FileBatchState, tuple[LineError, ...]]:
        """Return the final state, and what is wrong with it."""
        if self._record.state == "failed":
            return "failed", self._record.errors
        if gone and (self._record.errors or not cancelled):
            return "failed", (_INPUT_GONE,)
        if cancelled:
            return ("expired" if self._is_overdue else "cancelled"), ()
        return "completed", ()

    async def _has_input(self) -> bool:
        try:
            await self._files.info(self._record.tenant, self._record.input_file_id)
        except FileNotFound:
            return False
        except FileStoreUnavailable:
            if not self._is_overdue:
                raise
            return False
        return True

    async def _write_file(
        self, file_id: str, kind: _Kind, more: AsyncGenerator[bytes, None] | None
    ) -> str | None:
        """Make a file of the parts of a kind; None if it would be empty."""
        tenant = self._record.tenant
        names = await self._part_names(kind)

        async def all_lines() -> AsyncIterator[bytes]:
            async with aclosing(self._files.parts(tenant, kind.parts_id, names)) as parts:
                async for part in parts:
                    yield part
            if more is not None:
                async with aclosing(more):
                    async for line in more:
                        yield line

        info = await self._files.create(
            tenant,
            all_lines(),
            filename=f"{self._record.id}_{kind.name}.jsonl",
            purpose="batch_output",
            file_id=file_id,
            ttl_s=self._record.output_ttl_s,
        )
        if info.bytes:
            return file_id
        await self._files.remove(tenant, file_id)
        return None

    async def _part_names(self, kind: _Kind) -> list[str]:
        """Return the names of the valid parts.

        darkq 0.1 did not record parts, and named them by number only. Its parts are valid up to the
        first recorded one: everything acknowledged later is in recorded parts.
        """
        parts = await self._client.file_batches.parts(self._record.id)
        recorded = [part.split(" ") for part in parts]
        first = int(recorded[0][0].partition("-")[0]) if recorded else math.inf
        stored = await self._files.part_names(self._record.tenant, kind.parts_id)
        older = [name for name in stored if name.isdigit() and int(name) < first]
        return older + [name for name, kinds in recorded if kind.name in kinds.split("+")]

    async def _unanswered_lines(self, answered: bytes) -> AsyncGenerator[bytes, None]:
        """Yield an output line for each request that was refused, or not answered in time."""
        code, message = self._unanswered()
        async with aclosing(self._input.entries([])) as entries:
            async for entry in entries:
                job_id = BatchKeys.parse(self._record.id).job(entry.number).public_id
                if isinstance(entry, RefusedLine):
                    yield refusal_line(entry.custom_id, job_id, entry.error)
                elif not _has_bit(answered, entry.number):
                    yield failure_line(entry.custom_id, job_id, code, message)

    @property
    def _is_overdue(self) -> bool:
        """True if the deadline of the batch has passed."""
        return time.time() >= self._record.expires_at

    def _unanswered(self) -> tuple[str, str]:
        return _UNANSWERED["expired" if self._is_overdue else "cancelled"]

    async def _set_state(
        self, state: FileBatchState, *, begins: Sequence[str] = (), **changes: object
    ) -> None:
        """Record a new state, before any work of that state. Raises `BatchTaken`."""
        before = self._record.state
        record = msgspec.structs.replace(self._record, state=state, **changes)
        await self._client.file_batches.turn(
            record, before=before, runner=self._batch.runner, begins=begins
        )
        self._record = record


async def delete_leftovers(client: Client, files: Files, batch_id: str) -> None:
    """Delete what an ended batch has left in the file store.

    Raises `RedisUnavailable`, `FileStoreUnavailable`, `BatchNotFound`.
    """
    record = await client.file_batches.get(batch_id)
    if record.ended_at is None:  # Redis has lost the end
        await client.file_batches.reopen(batch_id)
        return
    await _remove_unnamed(files, record, await client.file_batches.begun(batch_id))
    for kind in list_kinds(batch_id):
        await files.drop_parts(record.tenant, kind.parts_id)
    await client.file_batches.forget_leftovers(batch_id)


async def _remove_unnamed(files: Files, record: FileBatch, file_ids: Iterable[str]) -> None:
    for file_id in set(file_ids) - {record.output_file_id, record.error_file_id}:
        await files.remove(record.tenant, file_id)


def _has_bit(bits: bytes, number: int) -> bool:
    byte = number >> 3
    return byte < len(bits) and bool(bits[byte] & 0x80 >> (number & 7))
