"""Two versions at once on one Redis: each a process of its own, the old one from its own sources.

`tests/data/<version>/code.zip` is the real `darkq` and `darkq_worker` of that version. A version
that is newer than this one does not exist: it is played by this one, told that it is.
"""

# mypy: disable-error-code="misc"

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import signal
import subprocess
import sys
import zipfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from redis.asyncio import Redis

from darkq import Client, Job, Settings
from darkq.errors import NewerRecord
from darkq.protocol.keys import JobKeys, PartitionKeys
from darkq.protocol.record import VERSION, Arguments, JobRecord, encode
from darkq.redis import scripts
from darkq_local.local_darkai import LocalDarkAI
from support.by_hand import put
from support.processes import WorkerProcess
from support.waiting import wait_until

pytestmark = pytest.mark.slow

DATA = Path(__file__).parents[2] / "data"
OLD = [path.parent.name for path in sorted(DATA.glob("*/code.zip"))]
NEWER = f"import darkq.protocol.record; darkq.protocol.record.VERSION = {VERSION + 1}"

SHORT = {"worker_lease_s": 3.0, "redis_timeout_s": 2.0}
PATIENCE_S = 90.0

Start = Callable[..., WorkerProcess]


@pytest.fixture(params=OLD)
def old(request: pytest.FixtureRequest) -> Path:
    version: str = request.param
    return DATA / version / "code.zip"


@pytest.fixture
async def settings(
    make_settings: Callable[..., Settings], start_darkai: Callable[..., Awaitable[LocalDarkAI]]
) -> Settings:
    darkai = await start_darkai(chunks=10, chunks_per_s=25.0)
    return make_settings(darkai_url=darkai.url, worker_jobs=12)


@pytest.fixture
def start(settings: Settings, tmp_path: Path) -> Iterator[Start]:
    """Start a worker: of these sources, or after a prelude.

    Where a worker is killed its lease is `SHORT`. Elsewhere it is as long as by default, so that a
    busy machine costs nobody a lease, and no job an attempt.
    """
    processes: list[WorkerProcess] = []

    def start(sources: Path | None = None, *, prelude: str = "", **changes: float) -> WorkerProcess:
        path = f"import sys; sys.path.insert(0, {str(sources)!r})" if sources else prelude
        log = tmp_path / f"worker-{len(processes)}.log"
        changed = settings.model_copy(update=changes)
        processes.append(WorkerProcess(changed, log, prelude=path))
        return processes[-1]

    yield start
    for process in processes:
        process.end()


def has_completed(worker: WorkerProcess) -> set[str]:
    """The jobs that a worker's log says it has completed."""
    log = worker.log.read_text()
    old = re.findall(r"job (\S+) attempt \d+: completed", log)
    new = re.findall(r"job ended job=(\S+) .*\boutcome=completed", log)
    return {*old, *new}


async def test_an_old_and_a_new_worker_share_the_work(
    old: Path, client: Client, redis: Redis, start: Start
) -> None:
    """Half way the old one is killed, and the new one takes over what it had."""
    before, after = start(old, **SHORT), start(**SHORT)
    await wait_until("both", lambda: before.ready and after.ready)
    jobs = await client.enqueue_many(Job.create(f"job {n}") for n in range(60))
    await wait_until("some of both", lambda: has_completed(before) and has_completed(after))

    async def stopped_with_some() -> bool:
        """Stop it first: else it may complete what it holds before it is killed."""
        before.send(signal.SIGSTOP)
        token = f":{before.pid}:".encode()
        held = await redis.mget([JobKeys.parse(job.id).in_progress for job in jobs])
        if any(token in (holder or b"") for holder in held):
            return True
        before.send(signal.SIGCONT)
        if not await redis.exists(PartitionKeys(0).queue("interactive")):
            jobs.extend(await client.enqueue_many(Job.create(f"more {n}") for n in range(60)))
        return False

    await wait_until("the old one to be stopped while it holds some", stopped_with_some)
    before.end()
    results = [await job.result(timeout_s=PATIENCE_S) for job in jobs]
    for job, result in zip(jobs, results, strict=True):
        assert result.text == "".join([piece async for piece in job.text()])
    assert not has_completed(before) & has_completed(after)
    assert {result.attempt for result in results} >= {1, 2}
    claim = digest_of_claim(old)
    assert claim != scripts.ALL["claim"].sha()
    assert await redis.script_exists(claim, scripts.ALL["claim"].sha()) == [True, True]


def digest_of_claim(old: Path) -> str:
    """Return the digest of a version's `claim.lua`, by which that version calls it."""
    with zipfile.ZipFile(old) as sources:
        if "darkq/lua/claim.lua" in sources.namelist():  # before scripts had includes
            return hashlib.sha1(sources.read("darkq/lua/claim.lua")).hexdigest()
    program = "from darkq.redis import scripts; print(scripts.ALL['claim'].sha())"
    environment = {**os.environ, "PYTHONPATH": str(old)}
    return subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    ).stdout.strip()


async def test_a_new_worker_hands_over_to_an_old_one(
    old: Path, client: Client, start: Start
) -> None:
    """So it is when an upgrade is taken back."""
    after = start(**SHORT)
    jobs = await client.enqueue_many(Job.create(f"job {n}") for n in range(40))
    await wait_until("some", lambda: has_completed(after))
    after.end()
    before = start(old, **SHORT)
    for job in jobs:
        result = await job.result(timeout_s=PATIENCE_S)
        assert result.text == "".join([piece async for piece in job.text()])
    await wait_until("a line in the log", lambda: has_completed(before))


async def test_an_old_producer_and_reader_beside_a_new_worker(
    old: Path, settings: Settings, start: Start, tmp_path: Path
) -> None:
    """Red if the log of its job moves into the result: the old reader could not resume."""
    start()
    program = (
        "job = client.enqueue('Why?', metadata={'a': 'b'}, idempotency_key='k')\n"
        f"print(''.join(job.text()) == job.result(timeout_s={PATIENCE_S}).text)\n"
        "print(client.enqueue('Why?', metadata={'a': 'b'}, idempotency_key='k').duplicate)\n"
        "ids = [event.id for event in job.events()]\n"
        "print([event.id for event in job.events(after=ids[2])] == ids[3:])\n"
    )
    assert await run_old(old, program, settings, tmp_path) == b"True\nTrue\nTrue\n"


async def test_an_old_reader_of_the_completed_job_of_a_new_producer(
    old: Path, client: Client, settings: Settings, start: Start, tmp_path: Path
) -> None:
    """It has the whole text, or an error that says that its cursor is gone: docs/upgrade.md."""
    start()
    job = await client.enqueue("Why?")
    text = (await job.result(timeout_s=PATIENCE_S)).text
    program = (
        "from darkq.errors import CursorGone\n"
        f"job = client.job({job.id!r})\n"
        f"print(''.join(job.text()) == {text!r} == job.result().text)\n"
        "try:\n"
        "    list(job.events(after='1-2'))\n"
        "except CursorGone:\n"
        "    print('gone')\n"
    )
    assert await run_old(old, program, settings, tmp_path) == b"True\ngone\n"


async def run_old(old: Path, program: str, settings: Settings, folder: Path) -> bytes:
    """Run a program with the `client` of an old version; return what it printed."""
    assert settings.redis_url is not None
    program = f"from darkq.sync import Client\nclient = Client()\n{program}"
    url = settings.redis_url.get_secret_value()
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", program],
        env={**os.environ, "DARKQ_REDIS_URL": url, "PYTHONPATH": str(old)},
        capture_output=True,
        cwd=folder,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


@pytest.mark.parametrize("old", OLD[1:], indirect=True)  # 0.1.0 does not check `v`
async def test_job_with_parameters_waits_for_a_worker_that_knows_them(
    old: Path, client: Client, redis: Redis, start: Start
) -> None:
    """Red without `_find_version`: an old worker would answer without the parameters."""
    before = start(old)
    await wait_until("the old worker", lambda: before.ready)
    job = await client.enqueue("Why?", parameters={"user": "ann"})
    keys = JobKeys.parse(job.id)

    async def stands_back() -> bool:
        return bool(await redis.get(keys.retry)) and not await redis.exists(keys.in_progress)

    await wait_until("the old worker to stand back", stands_back)
    start()
    assert (await job.result(timeout_s=PATIENCE_S)).text
    assert job.id not in has_completed(before)


@pytest.mark.parametrize("old", OLD[:1], indirect=True)
async def test_a_worker_that_is_too_old_knows_of_no_pause(
    old: Path, client: Client, start: Start
) -> None:
    """docs/upgrade.md says so: pause when all workers are new. 0.1.0 is the last such version."""
    await client.queue("interactive").pause()
    start()
    before = start(old)
    job = await client.enqueue("x")
    await job.result(timeout_s=PATIENCE_S)
    await wait_until("its line in the log", lambda: has_completed(before))
    assert has_completed(before) == {job.id}


async def newer_job(redis: Redis, *, age_s: float = 0.0) -> JobKeys:
    """A job that a version after this one has enqueued, with a wish that this one cannot know."""
    seconds, _ = await redis.time()
    record = JobRecord(k=Arguments(Job.create("new")), et=int((seconds - age_s) * 1000))
    fields = msgspec.json.decode(encode(record)) | {"v": VERSION + 1}
    keys = JobKeys.new(0)
    await put(redis, keys, record=msgspec.json.encode(fields))
    return keys


async def test_a_job_of_a_newer_version_waits_for_a_worker_that_can_read_it(
    client: Client, redis: Redis, start: Start
) -> None:
    keys = await newer_job(redis)
    worker = start()
    await (await client.enqueue("old")).result(timeout_s=PATIENCE_S)

    async def stands_back() -> bool:
        return bool(await redis.get(keys.retry)) and not await redis.exists(keys.in_progress)

    await wait_until("it stood back", stands_back)
    assert [entry async for entry in entries(redis, keys)] == [b"0-1"], "nobody hears of it"
    assert await redis.hget(keys.state, "tries") is None
    with pytest.raises(NewerRecord):
        await client.job(keys.public_id).status()
    newer = start(prelude=NEWER)
    await wait_until("the newer worker", lambda: newer.ready)
    worker.end()  # else it may go on being quicker
    await wait_until("its end", lambda: keys.public_id in has_completed(newer))
    assert keys.public_id not in has_completed(worker)


async def entries(redis: Redis, keys: JobKeys):  # type: ignore[no-untyped-def]
    for entry_id, _ in await redis.xrange(keys.events):
        yield entry_id


async def test_it_does_not_wait_for_ever(client: Client, redis: Redis, start: Start) -> None:
    """Each claim renews its record: without an end it would outlive every setting."""
    keys = await newer_job(redis, age_s=8 * 24 * 3600)
    start()

    async def failed() -> bool:
        return bool(await redis.exists(keys.result))

    await wait_until("its end", failed)
    assert "no worker came" in (await redis.get(keys.result)).decode()
