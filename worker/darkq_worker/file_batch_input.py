"""The input of a batch over files: requests, a line each, checked as they are read."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec

from darkq import FileBatch, Files, InvalidLine, LineError
from darkq.batch_lines import ForAllLines, Line, json_line
from darkq.input_lines import InputLines, Text

LINES_AT_ONCE = 100
_DIGEST_BYTES = 16


class Input:
    """Can be read any number of times, and gives the same lines each time."""

    def __init__(self, files: Files, batch: FileBatch) -> None:
        self._files = files
        self._batch = batch

    async def lines(self, errors: list[LineError]) -> AsyncGenerator[Line, None]:
        """Yield the lines of the input; what is wrong goes to `errors` instead."""
        seen = set[bytes]()
        async with aclosing(self._texts()) as texts:
            async for text in texts:
                try:
                    line = self._read(text)
                    digest = hashlib.sha256(line.custom_id.encode()).digest()[:_DIGEST_BYTES]
                    if digest in seen:
                        reason = "is that of another line"
                        raise InvalidLine(line.number, "custom_id", reason, "duplicate_custom_id")
                    seen.add(digest)
                except InvalidLine as error:
                    errors.append(
                        LineError(
                            code=error.code,
                            message=error.reason,
                            line=error.line,
                            param=error.field,
                        )
                    )
                    continue
                yield msgspec.structs.replace(
                    line, job=msgspec.structs.replace(line.job, tenant=self._batch.tenant)
                )

    def _read(self, text: Text | InvalidLine) -> Line:
        """Read and check a line. Raises `InvalidLine`."""
        if isinstance(text, InvalidLine):
            raise text
        line = json_line(text.text, text.number, ForAllLines())
        self._check(line)
        return line

    def _check(self, line: Line) -> None:
        """Raise `InvalidLine` for what the batch's own endpoint or its caller's key forbids."""
        batch = self._batch
        if line.endpoint != batch.endpoint:
            raise InvalidLine(line.number, "url", "is not the batch's endpoint", "mismatched_url")
        if batch.models and line.job.model not in batch.models:
            raise InvalidLine(line.number, "body.model", "is not allowed to this key")
        limit = batch.max_prompt_bytes
        if limit is not None and line.job.prompt_bytes > limit:
            raise InvalidLine(line.number, "body", f"has a prompt of more than {limit:,} bytes")

    async def _texts(self) -> AsyncGenerator[Text | InvalidLine, None]:
        """Yield the lines that are not blank; in the place of one that is wrong, the error."""
        lines = InputLines()
        async with aclosing(
            self._files.read(self._batch.tenant, self._batch.input_file_id)
        ) as pieces:
            async for piece in pieces:
                for count, text in enumerate(lines.feed(piece), start=1):
                    yield text
                    if count % LINES_AT_ONCE == 0:  # live jobs share this event loop
                        await asyncio.sleep(0)
        for text in lines.end():
            yield text
