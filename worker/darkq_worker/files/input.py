"""The input file of a batch: one request per line, checked while it is read.

A line that is not a request, or whose `custom_id` is missing or not unique, fails the whole batch
before any job is enqueued, as at OpenAI: clients find their answers by that id. A line whose
request is refused fails alone.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import NamedTuple

import msgspec

from darkq import InvalidLine
from darkq.batches.lines import ForAllLines, InputLines, Line, Text, json_line
from darkq.openai.errors import WireError
from darkq.serving.file_batches import FileBatch, LineError
from darkq.serving.files import Files

LINES_AT_ONCE = 100
_DIGEST_BYTES = 16


class RefusedLine(NamedTuple):
    """A line whose request is refused."""

    number: int
    custom_id: str
    error: WireError


class Input:
    """The lines of an input file. May be read repeatedly; each time the lines are the same."""

    def __init__(self, files: Files, batch: FileBatch) -> None:
        self._files = files
        self._batch = batch

    async def lines(self, errors: list[LineError]) -> AsyncGenerator[Line, None]:
        """Yield the lines that are not refused; see `entries`."""
        async with aclosing(self.entries(errors)) as entries:
            async for entry in entries:
                if isinstance(entry, Line):
                    yield entry

    async def entries(self, errors: list[LineError]) -> AsyncGenerator[Line | RefusedLine, None]:
        """Yield the lines of the input; add lines that cannot be read to `errors`."""
        seen = set[bytes]()
        async with aclosing(self._texts()) as texts:
            async for text in texts:
                try:
                    entry = self._read(text)
                    digest = hashlib.sha256(entry.custom_id.encode()).digest()[:_DIGEST_BYTES]
                    if digest in seen:
                        reason = "is that of another line"
                        raise InvalidLine(entry.number, "custom_id", reason, "duplicate_custom_id")
                    seen.add(digest)
                except InvalidLine as error:
                    code, message = error.code, error.reason
                    found = LineError(
                        code=code, message=message, line=error.line, param=error.field
                    )
                    errors.append(found)
                    continue
                yield entry

    def _read(self, text: Text | InvalidLine) -> Line | RefusedLine:
        if isinstance(text, InvalidLine):
            raise text
        try:
            # A batch that has been checked goes on, even if this was not yet asked of it.
            is_new = self._batch.state == "validating"
            line = json_line(text.text, text.number, ForAllLines(), needs_custom_id=is_new)
        except InvalidLine as error:
            if error.custom_id is None:
                raise
            param = error.field.removeprefix("body.")
            refusal = WireError(400, "invalid_parameter", error.reason, param)
            return RefusedLine(error.line, error.custom_id, refusal)
        if line.endpoint != self._batch.endpoint:
            raise InvalidLine(line.number, "url", "is not the batch's endpoint", "mismatched_url")
        if (forbidden := self._forbidden(line)) is not None:
            return RefusedLine(line.number, line.custom_id, forbidden)
        job = msgspec.structs.replace(line.job, tenant=self._batch.tenant)
        return msgspec.structs.replace(line, job=job)

    def _forbidden(self, line: Line) -> WireError | None:
        """Return why the API key of the batch does not allow a line, or None."""
        batch, job = self._batch, line.job
        if batch.models and job.model not in batch.models:
            return WireError(403, "model_not_allowed", "this key may not use that model", "model")
        limit = batch.max_prompt_bytes
        if limit is not None and job.prompt_bytes > limit:
            message = f"the prompt has {job.prompt_bytes:,} bytes; this key allows {limit:,}"
            return WireError(413, "prompt_too_large", message, "prompt")
        return None

    async def _texts(self) -> AsyncGenerator[Text | InvalidLine, None]:
        lines = InputLines()
        reading = self._files.read(self._batch.tenant, self._batch.input_file_id)
        async with aclosing(reading) as pieces:
            async for piece in pieces:
                for count, text in enumerate(lines.feed(piece), start=1):
                    yield text
                    if count % LINES_AT_ONCE == 0:  # running jobs share this event loop
                        await asyncio.sleep(0)
        for text in lines.end():
            yield text
