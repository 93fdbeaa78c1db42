"""The rate of chunks of running jobs, counted from their events.

The events are read as by any other reader, and no text is kept. For a finished job the board uses
its status instead.
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
    """The latest attempt of a job: its chunks, their recent rate, and its upstream."""

    chunks: int
    chunks_per_s: float
    first_chunk_ms: int
    model: str | None
    upstream: str | None


class _Follower:
    """Counts the chunks of one job."""

    def __init__(self, client: Client, job_id: str) -> None:
        self._chunks = 0
        self._first_chunk_ms = 0
        self._started: Started | None = None
        self._samples: deque[tuple[float, int]] = deque(maxlen=_SAMPLES)
        self.task = asyncio.create_task(self._follow(client, job_id), name="darkq-board-pace")

    def sample(self) -> Pace:
        """Return the pace over the last few calls of this method."""
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
        with suppress(Exception):  # `follow` starts a new one while the job is listed
            async with aclosing(client.job(job_id).event_batches()) as batches:
                async for batch in batches:
                    for event in batch:
                        self._count(event)

    def _count(self, event: AnyEvent) -> None:
        if isinstance(event, Started):
            self._started, self._chunks, self._first_chunk_ms = event, 0, 0
            self._samples.clear()
        elif isinstance(event, Chunk):
            self._chunks += event.merged
            self._first_chunk_ms = self._first_chunk_ms or event.at_ms


class Paces:
    """The followers of all jobs that are shown, at most `MAX_FOLLOWED`."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._followers: dict[str, _Follower] = {}

    async def follow(self, job_ids: set[str]) -> None:
        """Follow these jobs, and stop following all others."""
        for job_id in job_ids - self._followers.keys():
            if len(self._followers) < MAX_FOLLOWED:
                self._followers[job_id] = _Follower(self._client, job_id)
        ended = [
            job_id
            for job_id, follower in self._followers.items()
            if job_id not in job_ids or follower.task.done()
        ]
        tasks = [self._followers.pop(job_id).task for job_id in ended]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def sample(self) -> dict[str, Pace]:
        """Return the pace of each job."""
        return {job_id: follower.sample() for job_id, follower in self._followers.items()}
