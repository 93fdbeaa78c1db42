"""Batches over files: their runner killed or frozen, their store failing, their input deleted.

What counts is what the person has in the end: the record says how the batch ended, and each line of
the input is in one of its files, once. The two answers of one line cannot be taken for one.
"""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from random import Random
from typing import Any, TypeAlias

from darkq import BatchTaken, Client, NotReplicated, RedisUnavailable
from darkq.protocol.keys import BatchKeys
from darkq.serving.file_batches import FileBatch
from darkq.serving.files import Files
from faults.check import Tally
from faults.stage import UNLUCKY_WORKER, Setup, Stage
from faults.suite import Fault
from faults.throughout import WORKER
from faults.watched import LAG_BYTES, LAGGING_S
from support.processes import WorkerProcess
from support.waiting import wait_until

BATCH_LEASE_S = 1.0
END_TIMEOUT_S = 80.0
LINES = 60
WINDOW = 20

_SETUP = Setup(
    worker=UNLUCKY_WORKER,
    chunks=12,
    chunks_per_s=40.0,
)

_REPLICATED = {**WORKER, **_SETUP.worker}
_WAITS = {**_REPLICATED, "redis_wait_replicas": 1}
_CLUSTER = Setup(kind="cluster", worker=_REPLICATED, chunks=12, chunks_per_s=8.0)
_CLUSTER_WAITS = Setup(kind="cluster", worker=_WAITS, chunks=12, chunks_per_s=8.0)
_SENTINEL = Setup(kind="sentinel", worker=_REPLICATED, chunks=12, chunks_per_s=8.0)
_SENTINEL_WAITS = Setup(kind="sentinel", worker=_WAITS, chunks=12, chunks_per_s=8.0)

# A short lease, small pages and a slow store, so that most faults fall between two steps of a page.
SLOWLY = f"""if True:
    import asyncio
    import darkq.batches.lease
    from darkq.serving.files import Files
    from darkq_worker.files import run, runner

    darkq.batches.lease.LEASE_S = {BATCH_LEASE_S}
    run.PAUSE_S, runner.LOOK_S = 0.2, 0.2
    runner.MAX_BACKOFF_S = 1.0

    def slow(call):
        async def slowly(*args, **kwargs):
            await asyncio.sleep(0.15)
            found = await call(*args, **kwargs)
            await asyncio.sleep(0.15)
            return found
        return slowly

    Files.put_part, Files.create = slow(Files.put_part), slow(Files.create)
"""

Strike: TypeAlias = Callable[[Stage, Random, FileBatch], Awaitable[None]]


async def _order(stage: Stage, files: Files) -> tuple[FileBatch, dict[str, str]]:
    """Order a batch; return it, and the prompts by the ids of their lines."""
    asked = {f"c{n}": stage.prompt() for n in range(LINES)}

    async def lines() -> AsyncIterator[bytes]:
        for custom_id, prompt in asked.items():
            yield json.dumps({"custom_id": custom_id, "prompt": prompt}).encode() + b"\n"

    stored = await files.create(None, lines(), filename="in.jsonl", purpose="batch")
    async with stage.client.batch(window=WINDOW) as batch:
        pass
    now = int(time.time())
    record = FileBatch(
        id=batch.id,
        tenant=None,
        input_file_id=stored.id,
        endpoint="/v1/chat/completions",
        created_at=now,
        expires_at=now + 3600,
    )
    await stage.client.file_batches.create(record)
    return record, asked


async def _struck(
    strike: Strike,
    stage: Stage,
    rng: Random,
    *,
    strikes: int = 3,
    states: Sequence[str] = ("completed",),
) -> Tally:
    await stage.crew(2, prelude=SLOWLY)
    files = Files(stage.settings())
    record, asked = await _order(stage, files)
    for _ in range(strikes):
        await asyncio.sleep(rng.uniform(0.1, 1.5))  # the random moment, not a wait
        await strike(stage, rng, record)

    async def has_ended() -> FileBatch | None:
        found = await stage.client.file_batches.get(record.id)
        return found if found.ended_at is not None else None

    ended = await wait_until("the batch's end", has_ended, END_TIMEOUT_S)
    assert ended is not None
    # A runner that was away comes back, and has the time to do harm.
    await asyncio.sleep(3 * BATCH_LEASE_S)
    tally = await _judge(stage, files, ended, asked)
    tally.require(ended.state in states, f"the batch does not end as {ended.state}")
    return tally


async def _judge(stage: Stage, files: Files, ended: FileBatch, asked: dict[str, str]) -> Tally:
    tally = Tally(jobs=len(asked))
    now = await stage.client.file_batches.get(ended.id)
    tally.require(now == ended, "a final record does not change")
    answered, seen = 0, Counter[str]()
    for file_id in (ended.output_file_id, ended.error_file_id):
        if file_id is None:
            continue
        data = b"".join([piece async for piece in files.read(None, file_id)])
        for text in data.splitlines():
            line = json.loads(text)
            seen[line["custom_id"]] += 1
            if (line["response"] or {}).get("status_code") == 200:
                answered += 1
                whole = stage.model.is_whole(asked[line["custom_id"]], _answer(line))
                tally.wrong += not whole
    tally.require(answered == ended.completed, "record and file agree")
    if ended.state == "completed":
        tally.lost += len(asked.keys() - seen.keys())
        tally.require(answered == len(asked), f"{answered} of {len(asked)} lines are answered")
    tally.duplicated += sum(times - 1 for times in seen.values()) + len(seen.keys() - asked.keys())
    return tally


def _answer(line: dict[str, Any]) -> str:
    answer: str = line["response"]["body"]["choices"][0]["message"]["content"]
    return answer


async def _runner(stage: Stage, record: FileBatch) -> WorkerProcess | None:
    """Return the worker that runs a batch, if one does now."""
    token = (await stage.client.batch(record.id).status()).runner
    pid = int(token.split(":")[-2]) if token else None
    return next((worker for worker in stage.workers if worker.pid == pid), None)


async def _kill(stage: Stage, rng: Random, record: FileBatch) -> None:
    worker = await _runner(stage, record) or rng.choice(stage.workers)
    worker.send(signal.SIGKILL)
    await worker.wait()
    stage.workers.remove(worker)
    stage.start_worker(SLOWLY)


async def _freeze(stage: Stage, rng: Random, record: FileBatch) -> None:
    worker = await _runner(stage, record)
    if worker is None:
        return
    worker.send(signal.SIGSTOP)
    try:
        await asyncio.sleep(rng.uniform(2, 3) * BATCH_LEASE_S)  # another one takes the batch over
    finally:
        worker.send(signal.SIGCONT)


async def _break_store(stage: Stage, rng: Random, _: FileBatch) -> None:
    folder = stage.settings().state_dir / "files"
    aside = folder.with_name("files-aside")
    folder.rename(aside)
    folder.touch()  # a file where the folder was: nothing can be read or written
    await asyncio.sleep(rng.uniform(0.3, 1.5))
    folder.unlink()
    aside.rename(folder)


async def _delete_input(stage: Stage, rng: Random, record: FileBatch) -> None:
    await Files(stage.settings()).remove(None, record.input_file_id)
    await _kill(stage, rng, record)  # the next runner would read it again


async def killed(stage: Stage, rng: Random) -> Tally:
    """SIGKILL of the worker that runs the batch. Red when parts that are not noted count."""
    return await _struck(_kill, stage, rng)


async def frozen(stage: Stage, rng: Random) -> Tally:
    """SIGSTOP of the runner until its lease is another's, then SIGCONT.

    Red when a part or the output has the same name for every runner, or when the record changes
    without a look at the lease.
    """
    return await _struck(_freeze, stage, rng)


async def store_fails(stage: Stage, rng: Random) -> Tally:
    """The file store is unavailable several times. Red if one of its errors ends the batch."""
    return await _struck(_break_store, stage, rng)


async def input_deleted(stage: Stage, rng: Random) -> Tally:
    """The input is deleted behind the gateway's back. Red when the batch never ends.

    It is completed if all lines had been added by then.
    """
    return await _struck(_delete_input, stage, rng, strikes=1, states=("failed", "completed"))


async def _fail_over(stage: Stage, _: Random, record: FileBatch) -> None:
    await _replace_master(stage, record.id)


async def _replace_master(stage: Stage, batch_id: str) -> None:
    """SIGKILL of the master that has the batch; its replica takes over.

    Where nothing waits for replicas, that of the Sentinels lags by then.
    """
    status = await stage.client.batch(batch_id).status()
    assert status.state != "completed", "the master is killed too late"
    if stage.setup.kind == "cluster":
        await stage.cluster.fail_over(BatchKeys.parse(batch_id).batch)
        await stage.cluster.mend()
        return
    master, replica = await stage.sentinel.master(), await stage.sentinel.replica()
    if not stage.setup.worker.get("redis_wait_replicas"):
        replica.signal(signal.SIGSTOP)
        await master.ask("SET", "darkq:{filler}", bytes(LAG_BYTES), "PX", 20_000)
        await asyncio.sleep(LAGGING_S)  # ends are stored and acknowledged meanwhile
    master.kill()
    replica.signal(signal.SIGCONT)
    replaced = partial(stage.sentinel.all_have_other_master, master)
    await wait_until("all Sentinels to know", replaced, 30)
    await stage.sentinel.mend()


async def failed_over(stage: Stage, rng: Random) -> Tally:
    """A master is killed, and its replica may not have received the latest ends.

    Each line is in the output once, even if no call waits for replicas. For the roles of stamps
    and parts see tests/integration/batch/test_roll_back.py.
    """
    return await _struck(_fail_over, stage, rng, strikes=1)


async def library_failed_over(once: bool, stage: Stage, rng: Random) -> Tally:
    """The same with `Batch.run` in a program that reads on through the failover.

    `once`: no line comes a second time. Red when lines that Redis has lost are not added again.
    """
    await stage.crew(2)
    settings = stage.settings(redis_patience_s=30)
    prompts = [stage.prompt() for _ in range(LINES)]
    seen: Counter[int] = Counter()
    tally = Tally(jobs=LINES)
    async with Client(settings=settings) as client:
        async with client.batch(window=WINDOW) as batch:
            pass

        async def consume() -> None:
            cursor: str | None = None
            while True:
                try:
                    async with client.batch(batch.id) as run:
                        async for end in run.run(prompts, after=cursor):
                            cursor = end.cursor
                            seen[end.number] += 1
                            text = end.result.text if end.result else ""
                            whole = stage.model.is_whole(prompts[end.number - 1], text)
                            tally.wrong += not whole
                        return
                except (RedisUnavailable, NotReplicated, BatchTaken):
                    await asyncio.sleep(0.2)

        async with asyncio.timeout(END_TIMEOUT_S), asyncio.TaskGroup() as tasks:
            tasks.create_task(consume())
            await wait_until("the first ends", lambda: bool(seen), 30)
            await asyncio.sleep(rng.uniform(0, 1))  # the random moment, not a wait
            await _replace_master(stage, batch.id)
    tally.lost += LINES - len(seen)
    tally.duplicated += once * sum(times - 1 for times in seen.values())
    tally.forgotten += (not once) * sum(times - 1 for times in seen.values())
    return tally


FAULTS = [
    Fault("files: SIGKILL of the runner", killed, 5, _SETUP, limit_s=120),
    Fault("files: runner frozen past its lease", frozen, 10, _SETUP, limit_s=120),
    Fault("files: store away", store_fails, 5, _SETUP, limit_s=120),
    Fault("files: input deleted", input_deleted, 5, _SETUP, limit_s=120),
]
"""On one server."""

IN_CLUSTER = [
    Fault("files, cluster: master SIGKILL", failed_over, 3, _CLUSTER, limit_s=150, slow=True),
    Fault(
        "batch, cluster: master SIGKILL",
        partial(library_failed_over, False),
        3,
        _CLUSTER,
        limit_s=150,
        slow=True,
    ),
    Fault(
        "batch, cluster, WAIT 1: master SIGKILL",
        partial(library_failed_over, True),
        3,
        _CLUSTER_WAITS,
        limit_s=150,
        slow=True,
    ),
]

WATCHED = [
    Fault("files, sentinel: master SIGKILL", failed_over, 3, _SENTINEL, limit_s=150, slow=True),
    Fault(
        "batch, sentinel: master SIGKILL",
        partial(library_failed_over, False),
        3,
        _SENTINEL,
        limit_s=150,
        slow=True,
    ),
    Fault(
        "batch, sentinel, WAIT 1: master SIGKILL",
        partial(library_failed_over, True),
        3,
        _SENTINEL_WAITS,
        limit_s=150,
        slow=True,
    ),
]
