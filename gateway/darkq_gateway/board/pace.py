"""How fast running jobs give their chunks: what their own readers see, counted.

A job's events are followed as by any reader, and nothing is kept of its text. Of a finished job
its status tells.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import aclosing, suppress
from typing import NamedTuple

from darkq import AnyEvent, Chunk, Client, Started

MAX_FOLLOWED = 200
_SAMPLES = 4


class Pace(NamedTuple):
    """The latest attempt: its chunks, how many a second of late, when the first came, from whom."""

    chunks: int
    chunks_per_s: float
    first_chunk_ms: int
    model: str | None
    upstream: str | None


class _Follower:
    """Counts one job's chunks."""

    def __init__(self, client: Client, job_id: str) -> None:
        self._chunks = 0
        self._first_chunk_ms = 0
        self._started: Started | None = None
        self._samples: deque[tuple[float, int]] = deque(maxlen=_SAMPLES)
        self.task = asyncio.create_task(self._follow(client, job_id), name="darkq-board-pace")

    def sample(self) -> Pace:
        """Return the pace since the last few calls."""
        now_s = asyncio.get_running_loop().time()
        self._samples.append((now_s, self._chunks))
        since_s, before = self._samples[0]
        rate = (self._chunks - before) / (now_s - since_s) if now_s > since_s else 0.0
        return Pace(
            chunks=self._chunks,
            chunks_per_s=round(rate, 1),
            first_chunk_ms=self._first_chunk_ms,
            model=self._started.model if self._started else None,
            upstream=self._started.upstream if self._started else None,
        )

    async def _follow(self, client: Client, job_id: str) -> None:
        with suppress(Exception):  # begun again while it is listed
            async with aclosing(client.job(job_id).event_batches()) as batches:
                async for batch in batches:
                    for event in batch:
                        self._see(event)

    def _see(self, event: AnyEvent) -> None:
        if isinstance(event, Started):
            self._started, self._chunks, self._first_chunk_ms = event, 0, 0
            self._samples.clear()
        elif isinstance(event, Chunk):
            self._chunks += event.merged
            self._first_chunk_ms = self._first_chunk_ms or event.at_ms


class Paces:
    """The followers of a process: those of the jobs that somebody watches, so many at most."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._followers: dict[str, _Follower] = {}

    async def follow(self, job_ids: set[str]) -> None:
        """Follow these jobs, and no others any more."""
        for job_id in job_ids - self._followers.keys():
            if len(self._followers) < MAX_FOLLOWED:
                self._followers[job_id] = _Follower(self._client, job_id)
        over = [
            job_id
            for job_id, follower in self._followers.items()
            if job_id not in job_ids or follower.task.done()
        ]
        tasks = [self._followers.pop(job_id).task for job_id in over]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def sample(self) -> dict[str, Pace]:
        """Return how fast each job is."""
        return {job_id: follower.sample() for job_id, follower in self._followers.items()}
