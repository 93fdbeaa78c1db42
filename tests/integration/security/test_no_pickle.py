"""Nothing that is read from Redis can run code: there is no pickle on either side."""

from __future__ import annotations

import ast
import asyncio
import os
import pickle
from collections.abc import Callable
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from darkq import Client, JobFailed, Settings
from darkq.event import Cursor
from darkq.protocol.keys import WORKERS, JobKeys, PartitionKeys, WorkerKeys
from darkq.protocol.record import deserialize, serialize
from support.by_hand import Hand
from support.repository import ROOT, files_of
from support.waiting import wait_until

FOLDERS = ("producer", "worker", "gateway", "local", "cli")
LOADERS = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}


def sources() -> list[Path]:
    return [path for folder in FOLDERS for path in files_of(ROOT / folder, "*.py")]


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Callable[[str], Any], tuple[str]]:
        return os.mkdir, (str(self.file),)


@pytest.fixture
def bomb(tmp_path: Path) -> bytes:
    """A pickle that makes a file; it is tried once, so that we know that it does."""
    file = tmp_path / "exploded"
    pickled = pickle.dumps({"t": None, "f": "generate", "a": (), "k": Bomb(file), "et": 1})
    pickle.loads(pickled)
    file.rmdir()
    return pickled


async def plant(redis: Any, bomb: bytes) -> list[JobKeys]:
    """Put the pickle wherever a worker or a reader looks: one job per place."""
    hand = Hand(redis)
    waiting, logged, finished, failed = [await hand.enqueue() for _ in range(4)]
    claims = {claim.keys: claim for claim in await hand.claim()}
    await hand.fail(claims[failed], Cursor(1, 0))
    await redis.zadd(
        PartitionKeys(0).queue("interactive"), {keys.arq_id: 1 for keys in (waiting, logged)}
    )
    await redis.delete(*(keys.in_progress for keys in claims))
    await redis.set(waiting.job, bomb, px=60_000)
    await redis.xadd(logged.events, {"e": bomb}, id="1-0")
    await redis.set(finished.result, bomb, px=60_000)
    await redis.set(failed.result, bomb, px=60_000)
    await redis.set(failed.failed, bomb, px=60_000)
    await redis.hset(waiting.state, mapping={"tries": bomb, "model": bomb})
    await redis.zadd(PartitionKeys(0).failed, {bomb: 1})
    await redis.zadd(PartitionKeys(0).queue("bulk"), {bomb: 1})
    await redis.set(PartitionKeys(0).idempotency("k"), bomb, px=60_000)
    await redis.sadd(WORKERS, bomb.hex())
    await redis.set(WorkerKeys(bomb.hex()).health, bomb, px=60_000)
    return [waiting, logged, finished, failed]


async def look_at_everything(client: Client, redis: Redis, keys: JobKeys) -> None:
    job = client.job(keys.public_id)

    async def read() -> None:
        async with aclosing(job.events()) as events:
            async for _ in events:
                pass

    for look in (job.status, job.cancel, job.retry, read, lambda: job.result(1)):
        with suppress(Exception):
            await asyncio.wait_for(look(), 0.2)


async def test_pickles_everywhere_explode_nowhere(
    redis: Redis,
    client: Client,
    settings: Settings,
    start_worker: Callable[[Settings], asyncio.Task[None]],
    bomb: bytes,
    tmp_path: Path,
) -> None:
    """Red with arq's own deserializer in `decode_job` or `decode_result`."""
    planted = await plant(redis, bomb)
    worker = start_worker(settings)
    with pytest.raises(JobFailed, match="bad_record"):
        await client.job(planted[0].public_id).result(timeout_s=10)
    for channel in (PartitionKeys(0).wake, *(keys.live for keys in planted)):
        await redis.publish(channel, bomb)
        await redis.publish(channel, b"cancel " + bomb)
    for keys in planted:
        await look_at_everything(client, redis, keys)
    async with aclosing(client.failed()) as jobs:
        assert {job.code async for job in jobs} == {"corrupt_record", "bad_record"}
    await client.workers()
    await client.enqueue("hello", idempotency_key="k")
    await wait_until("the foreign member to go", lambda: no_bulk(redis))
    assert not worker.done(), "the worker is alive"
    assert not (tmp_path / "exploded").exists()
    await redis.flushall()


async def no_bulk(redis: Redis) -> bool:
    return bool(await redis.exists(PartitionKeys(0).queue("bulk")) == 0)


def imported(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found


def test_no_module_imports_what_runs_code_when_it_reads() -> None:
    assert len(sources()) > 50
    assert not {str(path): found for path in sources() if (found := imported(path) & LOADERS)}


def test_whatever_of_arq_reads_records_has_our_serializer() -> None:
    """arq pickles where it is told nothing else."""
    speakers = {"ArqRedis", "create_pool", "Worker", "Job", "run_worker", "create_worker"}
    calls = 0
    for path in sources():
        tree = ast.parse(path.read_text())
        of_arq = {
            name.asname or name.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("arq")
            for name in node.names
        } & speakers
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and speaks(node, of_arq):
                calls += 1
                given = {word.arg: ast.unparse(word.value) for word in node.keywords}
                assert given.get("job_serializer") == serialize.__name__, path
                assert given.get("job_deserializer") == deserialize.__name__, path
    assert calls == 1, "the worker itself"


def speaks(call: ast.Call, names: set[str]) -> bool:
    """Tell a call of one of arq's classes, by name or as a base class."""
    if isinstance(call.func, ast.Name):
        return call.func.id in names
    return "Worker" in names and ast.unparse(call.func) == "super().__init__"


def test_our_serializer_is_json_and_refuses_objects(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        serialize({"k": Bomb(tmp_path)})
    with pytest.raises(ValueError, match=r"JSON|UTF-8|invalid"):
        deserialize(pickle.dumps({"t": 1}))
