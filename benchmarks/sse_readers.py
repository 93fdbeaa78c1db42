"""Thousands of readers of a gateway's event streams: raw sockets with minimal work.

Reads a JSON list of job ids from a line of standard input, and distributes its readers evenly over
the jobs. Prints a line when all readers have had their first event. At the end it prints the ages
of all chunks in milliseconds, at the 50th and the 99th percentile, the bytes per chunk, and the
server's processor time for a chunk and a reader, in microseconds. That is measured while all
streams are live: from when each reader has had a chunk until the first one has had all of them.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import re
import sys
from functools import partial
from typing import cast

import uvloop

from benchmarks.answers import ages_us
from benchmarks.figures import percentile
from benchmarks.machine import cpu_s

_TEXT = re.compile(rb'"text":"([0-9 ]+)"')
_AT_ONCE = 200


class _Window:
    """The time in which all streams are live, and what the server uses in it."""

    def __init__(self, pid: int, readers: int, ages: list[float]) -> None:
        self._pid = pid
        self._ages = ages
        self._without_chunk = readers
        self._chunks = 0
        self._cpu_s = 0.0
        self.us_per_chunk: float | None = None

    def first_chunk(self) -> None:
        """Count a reader that has had its first chunk."""
        self._without_chunk -= 1
        if not self._without_chunk:
            self._cpu_s, self._chunks = cpu_s(self._pid), len(self._ages)

    def last_chunk(self) -> None:
        """End the window, with the first reader that has had its last chunk."""
        if self.us_per_chunk is None:
            used_s, chunks = cpu_s(self._pid) - self._cpu_s, len(self._ages) - self._chunks
            is_open = not self._without_chunk
            self.us_per_chunk = used_s / chunks * 1e6 if is_open and chunks else math.inf


class _Reader(asyncio.Protocol):
    def __init__(self, request: bytes, chunks: int, ages: list[float], window: _Window) -> None:
        self.begun = asyncio.get_running_loop().create_future()
        self.done = asyncio.get_running_loop().create_future()
        self._request = request
        self._window = window
        self._chunks = self._left = chunks
        self._ages = ages
        self._rest = b""
        self.bytes_since = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.Transport, transport).write(self._request)

    def data_received(self, data: bytes) -> None:
        if not self.begun.done() and b"queued" in data:
            self.begun.set_result(None)
        self.bytes_since += len(data)
        whole, _, self._rest = (self._rest + data).rpartition(b"\n")
        for stamps in _TEXT.findall(whole):
            ages = ages_us(stamps.decode())
            if self._left == self._chunks:
                self._window.first_chunk()
            self._ages.extend(ages)
            self._left -= len(ages)
        if self._left <= 0 and not self.done.done():
            self._window.last_chunk()
            self.done.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(exc or EOFError("the stream ended too soon"))


async def main(port: int, pid: int, readers: int, chunks: int) -> None:
    print("ready", flush=True)
    jobs = json.loads(await asyncio.to_thread(sys.stdin.readline))
    ages: list[float] = []
    window = _Window(pid, readers, ages)
    loop, all_readers = asyncio.get_running_loop(), list[_Reader]()
    for job in itertools.islice(itertools.cycle(jobs), readers):
        request = b"GET /jobs/%b/events HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n"
        make = partial(_Reader, request % (job.encode(), port), chunks, ages, window)
        _, reader = await loop.create_connection(make, "127.0.0.1", port)
        all_readers.append(reader)
        if len(all_readers) % _AT_ONCE == 0:
            await reader.begun
    await asyncio.gather(*(reader.begun for reader in all_readers))
    print("all have begun", flush=True)
    for reader in all_readers:
        reader.bytes_since = 0
    await asyncio.gather(*(reader.done for reader in all_readers))
    found = [percentile(ages, percent) / 1000 for percent in (50, 99)]
    per_chunk = sum(reader.bytes_since for reader in all_readers) / len(ages)
    print(json.dumps([*found, per_chunk, window.us_per_chunk]), flush=True)


if __name__ == "__main__":
    uvloop.run(main(*map(int, sys.argv[1:])))
