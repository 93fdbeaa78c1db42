"""Record what this version of darkq writes to Redis, and its sources, for tests of later versions.

    PYTHONPATH=tests python -m processes.upgrade.record 0.2.0

A client, workers and a local DarkAI run on a real server until every kind of key exists. All keys
go to `tests/data/<version>/keys.jsonl`. The sources of `darkq` and `darkq_worker` go to `code.zip`
beside it, from which Python can run them. Run it once per release, before anything else changes.
A second argument names another folder than `tests/data`.
"""

# mypy: disable-error-code="misc"

from __future__ import annotations

import asyncio
import sys
import tempfile
import zipfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from darkq import Client, Settings
from darkq.protocol.keys import STATS, JobKeys, LimitKeys
from darkq.serving.file_batches import FileBatch
from darkq_local.faults import Fault
from darkq_local.local_darkai import LocalDarkAI
from darkq_local.models import load_model
from darkq_worker.main import run_worker
from processes.upgrade import photograph
from processes.upgrade.photograph import Kept
from support.servers import Server, binaries, running
from support.waiting import wait_until

ROOT = Path(__file__).parents[3]
DATA = ROOT / "tests/data"
SOURCES = (ROOT / "producer/darkq", ROOT / "worker/darkq_worker")
LIMITS = LimitKeys.of_upstream("darkai")
LONG_AGO = (1980, 1, 1, 0, 0, 0)  # the same sources make the same file


@asynccontextmanager
async def working(settings: Settings) -> AsyncIterator[None]:
    """Run a worker for the length of the block."""
    task = asyncio.create_task(run_worker(settings, handle_signals=False))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def play_ended(client: Client) -> None:
    """Jobs that have ended in every way, with all that a job can say."""
    job = await client.enqueue(
        [{"role": "user", "content": "Say né 😀."}],
        model="llama-3-70b",
        metadata={"name": "completed"},
        idempotency_key="completed",
        timeout_s=60,
    )
    await job.result(timeout_s=10)
    cut = await client.enqueue("Try again.", metadata={"name": "tried again"})
    await cut.result(timeout_s=10)
    refused = await client.enqueue("x", upstream="none", metadata={"name": "failed"})
    await wait_until("its end", lambda: has_ended(client, refused.id))
    await client.reattachments.hold("ab" * 32, job.id)
    key, _ = await client.api_keys.create("alice", rate_per_s=1, concurrency=2)
    await client.api_keys.enter(key, "call", lease_s=3600)


async def has_ended(client: Client, job_id: str) -> bool:
    return (await client.job(job_id).status()).finished_ms > 0


async def play_batch(client: Client) -> None:
    """A batch whose lines stand in each of their places; and one over files."""
    async with client.batch(name="reviews", metadata={"a": "b"}) as batch:
        for n in range(3):
            await batch.add(f"line {n}")
        page = await anext(batch.collected())
        await batch.acknowledge(page[:1])
    async with client.batch() as over_files:
        pass
    record = FileBatch(
        id=over_files.id, tenant=None, input_file_id="file-none", endpoint="/v1/chat/completions",
        created_at=1, expires_at=2_000_000_000,
    )  # fmt: skip
    await client.file_batches.create(record)


async def play_waiting(client: Client, redis: Redis, settings: Settings) -> list[Kept]:
    """Jobs that wait, run, are put off and cancelled, and a worker that may call once in a while.

    It has one place for bulk jobs: whoever comes after the running one is not claimed.
    """
    bulk: dict[str, Any] = {"priority": "bulk"}
    run = await client.enqueue("[fault: hang=1] x", metadata={"name": "running"}, **bulk)
    async with working(settings):
        await wait_until("a call", lambda: redis.xlen(JobKeys.parse(run.id).events))
        await client.enqueue(
            "Wait.",
            metadata={"name": "waiting"},
            idempotency_key="waiting",
            tenant="alice",
            tries=2,
            **bulk,
        )
        options = {"temperature": 0.5, "max_tokens": 9, "stop": ["."]}
        await client.enqueue("x", metadata={"name": "options"}, options=options, **bulk)
        cancelled = await client.enqueue("x", metadata={"name": "cancelled"}, **bulk)
        await cancelled.cancel()
        await client.enqueue("Later.", metadata={"name": "put off"})
        await wait_until("a turn", lambda: redis.exists(LIMITS.due))
        await redis.hset(LIMITS.breaker, mapping={"failures": 1})
        await redis.pexpire(LIMITS.breaker, 600_000)
        await wait_until("a sign of life", client.workers)
        await wait_until("a report", lambda: redis.keys(f"{STATS}:*"))
        return await photograph.take(redis)


async def play(server: Server, files: Path) -> list[Kept]:
    """Play everything, and return what stands in Redis then."""
    model = await load_model("markov", max_chunks=4, chunks_per_s=0.0)
    plan = (None, Fault.parse("truncate=2"))  # of the first calls
    async with LocalDarkAI(model, faults=True, plan=plan) as darkai:
        settings = Settings(
            _env_file=None, redis_url=server.url, state_dir=files, darkai_url=darkai.url,
            retry_base_s=0.01, worker_lease_s=1, redis_timeout_s=0.5,
        )  # fmt: skip
        limited = {"darkai_limits": "1/2", "darkai_concurrency": 1, "worker_jobs": 2}
        limited |= {"worker_reserved_interactive": 1}
        redis = Redis.from_url(server.url)
        async with Client(settings=settings) as client:
            async with working(settings):
                await play_ended(client)
                await play_batch(client)
            kept = await play_waiting(client, redis, settings.model_copy(update=limited))
        await redis.aclose()
    await model.aclose()
    return kept


def zip_sources(path: Path) -> None:
    """Keep the packages that a worker consists of."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as into:
        for package in SOURCES:
            for file in sorted(package.rglob("*")):
                if file.suffix in (".py", ".lua"):
                    name = file.relative_to(package.parent).as_posix()
                    into.writestr(zipfile.ZipInfo(name, LONG_AGO), file.read_bytes(), 8, 9)


def main(version: str, data: str = str(DATA)) -> None:
    directory = Path(data, version)
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as files, running(binaries()["valkey"]) as server:
        kept = asyncio.run(play(server, Path(files)))
    (directory / "keys.jsonl").write_bytes(photograph.encode(kept))
    zip_sources(directory / "code.zip")
    print(f"{len(kept)} keys, in {directory}")


if __name__ == "__main__":
    main(*sys.argv[1:])
