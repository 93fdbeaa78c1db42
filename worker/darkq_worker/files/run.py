"""One batch over files, from its input to its output. Whoever runs it may die at any point.

    validating ── in_progress ── finalizing ── completed | expired | cancelled | failed
        └── failed      └── failed: given up; delivered later, if the store comes back

A lease cannot fence the store of files: a runner that was frozen goes on writing there after
another one has taken its place. So each runner writes under names of its own, and Redis decides in
one step what counts. A page of ends is stored as a part `<number>-<token>`; `batch_acknowledge`
notes the part with the ends that it holds. The noted parts become a file with a new id; the script
that ends the batch makes that file its output. What no record names is deleted an hour after the
end.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import NamedTuple

import msgspec

from darkq import BatchStatus, Client, Settings
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
"""After a page of few lines and bytes: more of them gather meanwhile, and make one part."""

CHECK_S = 30.0
"""How often to see whether the batch is to end, by its window or by a cancellation."""

_NOT_YET_S = 0.05

_UNANSWERED = {
    "expired": ("batch_expired", "the batch was not completed within its window"),
    "cancelled": ("batch_cancelled", "the batch was cancelled"),
}
_NOT_FINISHED = "batch_not_finished"
_INPUT_GONE = LineError(code="file_not_found", message="the input file is gone")


class _Kind(NamedTuple):
    """One of the two files that a batch writes. `place` is where its parts are."""

    what: str
    place: str


def kinds_of(batch_id: str) -> tuple[_Kind, _Kind]:
    """Return the output and the errors of a batch."""
    output, errors = (
        _Kind(what, f"file-{hashlib.sha256(f'{batch_id} {what}'.encode()).hexdigest()[:32]}")
        for what in ("output", "errors")
    )
    return output, errors


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
        self._output, self._errors = kinds_of(record.id)
        self._parts = 0

    @property
    def may_pause(self) -> bool:
        """Whether little is lost when the run is stopped now and goes on later."""
        return self._record.state == "in_progress"

    async def run(self) -> None:
        """Go on from wherever it stands to its end.

        Raises `RedisUnavailable`, `FileStoreUnavailable`, `BatchTaken`, `BatchNotFound`, and
        `CursorGone` when Redis has lost ends; then, or cancelled, another call goes on.
        """
        if self._record.state == "validating":
            await self._validate()
        if self._record.state == "in_progress":
            await self._answer()
        if self._record.state == "finalizing":
            await self._finalize()
        elif self._was_given_up:
            await self._collect()
            await self._finalize()
        await self._client.file_batches.close(self._record.id)

    async def give_up(self, reason: str) -> bool:
        """End the batch as failed; True once nothing more is to be tried. Raises as `run`.

        For an hour `run` still tries to deliver what was answered: the store may come back.
        """
        if self._record.ended_at is None:
            await self._batch.cancel()
            error = LineError(code=_NOT_FINISHED, message=f"stopped again and again: {reason}")
            await self._turn("failed", errors=(error,), ended_at=int(time.time()))
        elif time.time() >= self._record.ended_at + LEFTOVERS_KEPT_S:
            await self._client.file_batches.close(self._record.id)
            return True
        return False

    @property
    def _was_given_up(self) -> bool:
        """Whether it has failed, and nothing of it was delivered."""
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
            await self._turn("failed", errors=tuple(errors), ended_at=int(time.time()))
        else:
            now = int(time.time())
            await self._turn("in_progress", total=total, refused=refused, in_progress_at=now)

    async def _answer(self) -> None:
        feeding = asyncio.create_task(self._feed(), name="darkq-file-batch-feed")
        collecting = asyncio.create_task(self._collect(), name="darkq-file-batch-collect")
        ending = asyncio.create_task(self._end_in_time(), name="darkq-file-batch-end")
        tasks = (feeding, collecting, ending)
        try:
            await asyncio.wait(tasks[:2], return_when=asyncio.FIRST_COMPLETED)
            if not collecting.done():
                feeding.result()  # its error ends the run at once
            await collecting
            await feeding
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await self._turn("finalizing", finalizing_at=int(time.time()))

    async def _feed(self) -> None:
        """Add every line; those that are there, or have been answered, stay as they are."""
        status = await self._batch.status()
        if status.total is not None or status.state != "open":
            return
        try:
            while not await self._batch.close_input(least=await self._add_all()):
                pass  # Redis has lost lines
        except BatchClosed:  # cancelled, or another worker had come as far as this
            pass
        except FileNotFound:
            await self._go_on_without_input()
        except FileStoreUnavailable:
            if not self._is_over:
                raise

    async def _add_all(self) -> int:
        """Add the lines, a bounded number and size at a time; return how many there are."""
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
            except BatchFull:  # `_collect` has not begun to make room
                await asyncio.sleep(_NOT_YET_S)

    async def _go_on_without_input(self) -> None:
        """Note that the input is gone; the lines that have been added go on to their end."""
        if not self._record.errors:
            await self._turn("in_progress", errors=(_INPUT_GONE,))
        await self._batch.close_input()

    async def _end_in_time(self) -> None:
        """Cancel the batch when its window is over.

        A batch that is being cancelled is cancelled again: its jobs may have been lost since, and
        what cancelled it may have been broken off. An error, of whatever kind, only means to try
        again.
        """
        while True:
            pause_s = max(0.0, min(CHECK_S, self._record.expires_at - time.time()))
            try:
                status = await self._batch.status()
                if self._is_over or status.state == "cancelling":
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
        """Store a page as a part, and acknowledge it; return how many bytes the part has."""
        answers, failures = list[bytes](), list[bytes]()
        for end in page:
            if end.result is not None:
                answers.append(answer_line(end.custom_id, end.result, self._record.endpoint))
            elif end.outcome != "missing":
                failures.append(self._failure(end))
        name = self._new_part(Position.parse(page[0].cursor).number)
        stored, size = list[str](), 0
        for kind, lines in ((self._output, answers), (self._errors, failures)):
            if lines:
                data = b"".join(lines)
                await self._files.put_part(self._record.tenant, kind.place, name, data)
                stored.append(kind.what)
                size += len(data)
        part = Part(f"{name} {'+'.join(stored)}", TTL_S) if stored else None
        keep = {end.number for end in page if _is_stored(end)}
        await self._batch.acknowledge(page, part=part, keep=keep)
        if missing := {end.number for end in page if end.outcome == "missing"}:
            await self._add_again(missing)
        return size

    def _new_part(self, number: int) -> str:
        """Return a name that no other call has used, nor any other runner."""
        self._parts += 1
        return f"{number:015d}-{self._batch.runner.rpartition(':')[2]}.{self._parts}"

    def _failure(self, end: Finished) -> bytes:
        if end.code:
            error = build_job_error(end.code, end.message, self._record.endpoint)
            return refusal_line(end.custom_id, end.job_id, error)
        return failure_line(end.custom_id, end.job_id, *self._unanswered())

    async def _add_again(self, numbers: set[int]) -> None:
        """Their results expired before anybody took them."""
        try:
            async with aclosing(self._input.lines([])) as lines:
                again = [line async for line in lines if line.number in numbers]
            await self._batch.add_many(again)
        except BatchClosed:
            await self._batch.cancel()  # what is left has no job
        except FileNotFound:
            await self._go_on_without_input()
            await self._batch.cancel()

    async def _finalize(self) -> None:
        status = await self._batch.status()
        answered = await self._batch.answered_lines()
        missing = self._record.total - int.from_bytes(answered).bit_count()
        gone = missing > 0 and not await self._has_input()
        left_out = _none() if gone or not missing else self._left_out(answered)
        output_id, error_id = new_file_id(), new_file_id()
        await self._turn(self._record.state, begins=(output_id, error_id))
        try:
            output = await self._put_together(output_id, self._output, _none())
            errors = await self._put_together(error_id, self._errors, left_out)
            end, why = self._end(status.state in ("cancelled", "cancelling"), gone=gone)
            await self._turn(
                end,
                completed=status.completed,
                failed=self._record.total - status.completed,
                output_file_id=output,
                error_file_id=errors,
                errors=why,
                cancelling_at=cancelling_at(end, status),
                ended_at=self._record.ended_at or int(time.time()),
            )
        except BatchTaken:
            await self._discard(output_id, error_id)
            raise

    def _end(self, cancelled: bool, *, gone: bool) -> tuple[FileBatchState, tuple[LineError, ...]]:
        """Return the final state, and what is wrong with it."""
        if self._record.state == "failed":
            return "failed", self._record.errors
        if gone and (self._record.errors or not cancelled):
            return "failed", (_INPUT_GONE,)
        if cancelled:
            return ("expired" if self._is_over else "cancelled"), ()
        return "completed", ()

    async def _has_input(self) -> bool:
        try:
            await self._files.info(self._record.tenant, self._record.input_file_id)
        except FileNotFound:
            return False
        except FileStoreUnavailable:
            if not self._is_over:
                raise
            return False
        return True

    async def _discard(self, *file_ids: str) -> None:
        """Delete files that can never become the output: the batch has ended with others."""
        record = await self._client.file_batches.get(self._record.id)
        if record.ended_at is not None:
            for file_id in set(file_ids) - {record.output_file_id, record.error_file_id}:
                await self._files.remove(self._record.tenant, file_id)

    async def _put_together(
        self, file_id: str, kind: _Kind, more: AsyncGenerator[bytes, None]
    ) -> str | None:
        """Make a file of its parts; None for one that would be empty."""
        tenant = self._record.tenant
        names = await self._part_names(kind)

        async def all_of_it() -> AsyncIterator[bytes]:
            async with aclosing(self._files.parts(tenant, kind.place, names)) as parts:
                async for part in parts:
                    yield part
            async with aclosing(more):
                async for line in more:
                    yield line

        name = f"{self._record.id}_{kind.what}.jsonl"
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
        await self._files.remove(tenant, file_id)
        return None

    async def _part_names(self, kind: _Kind) -> list[str]:
        """Return the parts that count.

        Those of darkq 0.1 are not noted, and have bare numbers; they count up to the first noted
        one: what was acknowledged later is in noted ones.
        """
        noted = [name.split(" ") for name in await self._client.file_batches.parts(self._record.id)]
        first = int(noted[0][0].partition("-")[0]) if noted else 10**15
        stored = await self._files.part_names(self._record.tenant, kind.place)
        older = [name for name in stored if name.isdigit() and int(name) < first]
        return older + [name for name, kinds in noted if kind.what in kinds.split("+")]

    async def _left_out(self, answered: bytes) -> AsyncGenerator[bytes, None]:
        """Yield the lines of requests that were refused, or not answered in time."""
        code, message = self._unanswered()
        async with aclosing(self._input.entries([])) as entries:
            async for entry in entries:
                job_id = BatchKeys.parse(self._record.id).job(entry.number).public_id
                if isinstance(entry, RefusedLine):
                    yield refusal_line(entry.custom_id, job_id, entry.error)
                elif not _has_bit(answered, entry.number):
                    yield failure_line(entry.custom_id, job_id, code, message)

    @property
    def _is_over(self) -> bool:
        """Whether the batch's window has ended."""
        return time.time() >= self._record.expires_at

    def _unanswered(self) -> tuple[str, str]:
        return _UNANSWERED["expired" if self._is_over else "cancelled"]

    async def _turn(
        self, state: FileBatchState, *, begins: Sequence[str] = (), **changes: object
    ) -> None:
        """Write a new state down, before anything is done in it. Raises `BatchTaken`."""
        before = self._record.state
        record = msgspec.structs.replace(self._record, state=state, **changes)
        await self._client.file_batches.turn(
            record, before=before, runner=self._batch.runner, begins=begins
        )
        self._record = record


def _is_stored(end: Finished) -> bool:
    """Tell whether a line is a Response that its owner may retrieve by its id."""
    repeated = read_repeated(end.result.metadata) if end.result is not None else None
    return repeated is not None and repeated.store


def cancelling_at(state: str, status: BatchStatus) -> int | None:
    """Return when a batch was cancelled by its owner; one that expires is cancelled too."""
    if state != "cancelled" or status.cancelled_ms is None:
        return None
    return status.cancelled_ms // 1000


async def delete_leftovers(client: Client, files: Files, batch_id: str) -> None:
    """Delete what a batch that ended some time ago has left in the store of files.

    Raises `RedisUnavailable`, `FileStoreUnavailable`, `BatchNotFound`.
    """
    record = await client.file_batches.get(batch_id)
    if record.ended_at is None:  # Redis has lost its end
        await client.file_batches.reopen(batch_id)
        return
    named = {record.output_file_id, record.error_file_id}
    for file_id in await client.file_batches.begun(batch_id):
        if file_id not in named:
            await files.remove(record.tenant, file_id)
    for kind in kinds_of(batch_id):
        await files.drop_parts(record.tenant, kind.place)
    await client.file_batches.forget_leftovers(batch_id)


def _has_bit(bits: bytes, number: int) -> bool:
    byte = number >> 3
    return byte < len(bits) and bool(bits[byte] & 0x80 >> (number & 7))


async def _none() -> AsyncGenerator[bytes, None]:
    nothing: tuple[bytes, ...] = ()
    for line in nothing:
        yield line
