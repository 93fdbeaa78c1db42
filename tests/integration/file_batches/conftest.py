"""Batches over files without a gateway: ordered by hand, run by the test or by workers."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from darkq import Client, Settings
from darkq.serving.file_batches import FileBatch
from darkq.serving.files import Files
from darkq_local.local_darkai import LocalDarkAI
from darkq_worker import main
from darkq_worker.files import run as file_batch
from darkq_worker.files.runner import FileBatchRunners


class Orders:
    """Orders batches, and reads what came of them."""

    def __init__(self, client: Client, files: Files) -> None:
        self.client = client
        self.files = files

    async def order(
        self,
        count: int,
        *,
        tenant: str | None = None,
        window_s: float = 3600.0,
        lines_in_redis: int = 2000,
        prompt: str = "Count",
    ) -> FileBatch:
        """Order a batch of so many lines; it is open for every worker."""

        async def lines() -> AsyncIterator[bytes]:
            for n in range(count):
                yield json.dumps({"custom_id": f"c{n}", "prompt": f"{prompt} {n}"}).encode() + b"\n"

        stored = await self.files.create(tenant, lines(), filename="in.jsonl", purpose="batch")
        async with self.client.batch(window=lines_in_redis) as batch:
            pass
        now = int(time.time())
        record = FileBatch(
            id=batch.id,
            tenant=tenant,
            input_file_id=stored.id,
            endpoint="/v1/chat/completions",
            created_at=now,
            expires_at=int(now + window_s),
        )
        await self.client.file_batches.create(record)
        return record

    async def told(self, record: FileBatch) -> tuple[list[str], list[str]]:
        """The custom ids in the output, and in the file of errors."""
        record = await self.client.file_batches.get(record.id)
        output, errors = [
            [json.loads(line)["custom_id"] for line in (await self.content(record, file_id))]
            for file_id in (record.output_file_id, record.error_file_id)
        ]
        return output, errors

    async def content(self, record: FileBatch, file_id: str | None) -> list[bytes]:
        if file_id is None:
            return []
        pieces = [piece async for piece in self.files.read(record.tenant, file_id)]
        return b"".join(pieces).splitlines()

    async def has_ended(self, record: FileBatch) -> FileBatch | None:
        found = await self.client.file_batches.get(record.id)
        return found if found.ended_at is not None else None


@pytest.fixture
def orders(client: Client, settings: Settings) -> Orders:
    return Orders(client, Files(settings))


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs do not wait for more lines to gather."""
    monkeypatch.setattr(file_batch, "PAUSE_S", 0.01)


class NoRunners(FileBatchRunners):
    """Runs no batch."""

    async def run(self) -> None:
        await asyncio.Event().wait()  # until cancelled


StartDarkAI = Callable[..., Awaitable[LocalDarkAI]]
StartWorker = Callable[[Settings], "asyncio.Task[None]"]


@pytest.fixture
async def worker(
    make_settings: Callable[..., Settings],
    start_darkai: StartDarkAI,
    start_worker: StartWorker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A worker that answers at once, and leaves batches over files to the test."""
    monkeypatch.setattr(main, "FileBatchRunners", NoRunners)
    darkai = await start_darkai(chunks=3)
    start_worker(make_settings(darkai_url=darkai.url, job_tries=1, retry_base_s=0.01))
