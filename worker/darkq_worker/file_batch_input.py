"""The input of a batch over files: requests, a line each, checked as they are read."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec

from darkq import FileBatch, Files, InvalidLine, LineError
from darkq.batch_lines import MAX_LINE_BYTES, ForAllLines, Line, json_line

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
            async for number, text in texts:
                try:
                    line = json_line(text, number, ForAllLines())
                    self._check(line)
                    digest = hashlib.sha256(line.custom_id.encode()).digest()[:_DIGEST_BYTES]
                    if digest in seen:
                        raise InvalidLine(
                            number, "custom_id", "is that of another line", "duplicate_custom_id"
                        )
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

    async def _texts(self) -> AsyncGenerator[tuple[int, bytes], None]:
        """Yield the lines that are not blank, numbered from 1."""
        number, rest = 0, b""
        async with aclosing(
            self._files.read(self._batch.tenant, self._batch.input_file_id)
        ) as pieces:
            async for piece in pieces:
                *whole, rest = (rest + piece).split(b"\n")
                for text in whole:
                    number += 1
                    if number % LINES_AT_ONCE == 0:  # live jobs share this event loop
                        await asyncio.sleep(0)
                    if text.strip():
                        yield number, text
                if len(rest) > MAX_LINE_BYTES:  # no line of such a length is read further
                    break
        if rest.strip():
            yield number + 1, rest
