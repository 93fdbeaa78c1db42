"""Two servers that each were the master for a while, and the workers that wrote to both.

A failover to a server that lags forks history: both give attempt 1 of a job to a worker, and a
second failover brings the first history back. Whatever the order, the log of an attempt holds the
text of one run, and a result is the text that its log holds.

The scripts, the leases and the writers are the real ones. One server plays both: its keys are
dumped and restored, and all connections to it are cut.

Red when `resume_log` does not compare the event that began an attempt
(`LogState.is_of_another_run`).
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from redis import Redis as SyncRedis
from redis.asyncio import Redis

from darkq import Client, JobHandle, Settings
from darkq.event import Chunk, Completed, decode, encode
from darkq.protocol.keys import JobKeys, PartitionKeys
from darkq.protocol.record import Details, ResultRecord, decode_result
from darkq.protocol.record import encode as encode_record
from darkq.redis.servers import servers_of
from darkq_worker.attempts.settlement import Finish
from darkq_worker.leases import Claim, Leases
from darkq_worker.pieces import assemble
from darkq_worker.writing.attempt_log import AttemptLog, Entry
from darkq_worker.writing.writer import Writer
from support.servers import Server
from support.waiting import wait_until

pytestmark = pytest.mark.slow

EXAMPLES = int(os.environ.get("DARKQ_MODEL_EXAMPLES", "60"))
WORKERS = 2
_REPLACE = b"""
redis.call('FLUSHALL')
for n = 1, #ARGV, 2 do
  redis.call('RESTORE', ARGV[n], 600000, ARGV[n + 1])
end
"""

_BY_WORKER = [st.tuples(st.just(step), st.integers(0, WORKERS - 1)) for step in ("claim", "end")]
_WRITES = st.tuples(st.just("write"), st.integers(0, WORKERS - 1))
_DIES = st.tuples(st.just("die"), st.integers(0, WORKERS - 1))
_OF_ALL = st.sampled_from([("lapse", 0), ("fail over", 0)])
STEPS = st.lists(st.one_of(*_BY_WORKER, _WRITES, _WRITES, _DIES, _OF_ALL), max_size=24)

# What four jobs of 5,179 met in a Sentinel trio that called its new master down too early.
SEEN = [
    *[("claim", 0), ("write", 0), ("lapse", 0), ("fail over", 0)],
    *[("claim", 1), ("write", 1), ("write", 1), ("fail over", 0), ("write", 1), ("end", 1)],
]


class Run:
    """One run of an attempt: its lease, and its log."""

    def __init__(self, number: int, claim: Claim, writer: Writer) -> None:
        self.number = number
        self.claim = claim
        self.writer = writer
        self.is_lost = False
        self.pieces = 0
        self.log: AttemptLog = writer.open(
            claim.keys, claim.attempt, claim.token, on_lost=self._lose
        )
        self.log.start(model="m", upstream="u", at_ms=number)

    def _lose(self) -> None:
        self.is_lost = True

    async def write(self) -> None:
        self.pieces += 1
        self.log.add(f"{self.number}/{self.pieces} ")
        await wait_until("a flush or a loss", lambda: self.is_lost or not self.log.has_work)

    async def end(self) -> None:
        pieces, cursor = self.log.close()
        claim = self.claim
        record = ResultRecord(
            t=claim.attempt, et=1, s=True, r=assemble(pieces)[0], st=1, ft=1, q=claim.queue,
            id=claim.keys.arq_id, d=Details(outcome="completed"),
        )  # fmt: skip
        entry = Entry(str(cursor), encode(Completed(id=str(cursor), at_ms=1)))
        finish = Finish(claim, self.log, entry, encode_record(record), result_ttl_s=60)
        await asyncio.wait_for(self.writer.settle(finish), 10)


class Stage:
    """A job, the workers' writers and runs, and the history that is not the master's now."""

    def __init__(self, redis: Redis, job: JobHandle, writers: list[Writer]) -> None:
        self.redis = redis
        self.keys = JobKeys.parse(job.id)
        self.writers = writers
        self.runs: dict[int, Run] = {}
        self.begun = 0
        self.other: list[Any] = []

    async def play(self, step: str, worker: int) -> None:
        run = self.runs.get(worker)
        if step == "claim" and run is None:
            await self._claim(worker)
        elif step == "lapse":
            await self.redis.delete(self.keys.in_progress)
            await self.redis.zadd(
                PartitionKeys(0).queue("interactive"), {self.keys.arq_id: 1}, xx=True
            )
        elif step == "fail over":
            now = await self._dump()
            await self.redis.execute_command("EVAL", _REPLACE, 0, *self.other)
            self.other = now
            await self.redis.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        elif run is not None:
            if step == "write":
                await run.write()
            elif step == "end":
                await run.end()
            if run.is_lost or step != "write":
                run.writer.abandon(run.log)
                del self.runs[worker]
        await self._check()

    async def _claim(self, worker: int) -> None:
        leases = Leases(self.redis, f"w{worker}", lease_s=600, job_ttl_s=600)
        claims, _ = await leases.claim(0, slots=1, bulk_slots=0)
        for claim in claims:
            self.begun += 1
            self.runs[worker] = Run(self.begun, claim, self.writers[worker])

    async def _dump(self) -> list[Any]:
        keys = await self.redis.keys("*")
        return [part for key in keys for part in (key, await self.redis.dump(key))]

    async def begin(self) -> None:
        """Let the other history end before the job was claimed."""
        self.other = await self._dump()

    async def _check(self) -> None:
        """See whose text stands in the log, and whether a result is that text."""
        texts: dict[int, str] = {}
        for _, fields in await self.redis.xrange(self.keys.events):
            event = decode(fields[b"e"])
            if isinstance(event, Chunk):
                attempt = event.cursor.attempt
                texts[attempt] = texts.get(attempt, "") + event.text
        for text in texts.values():
            pieces = text.split()
            run = pieces[0].partition("/")[0]
            assert pieces == [f"{run}/{n + 1}" for n in range(len(pieces))], text
        if (data := await self.redis.get(self.keys.result)) is not None:
            result = decode_result(data)
            assert result.r == texts.get(result.t, "")


def test_no_order_of_failovers_joins_two_runs(redis_server: Server, tmp_path: Path) -> None:
    redis_settings = Settings(
        _env_file=None, redis_url=redis_server.url, state_dir=tmp_path, redis_timeout_s=2
    )

    @settings(max_examples=EXAMPLES, print_blob=True)
    @given(steps=STEPS)
    @example(steps=SEEN)
    def play(steps: list[tuple[str, int]]) -> None:
        asyncio.run(_play(steps, redis_settings))

    play()
    with SyncRedis(unix_socket_path=str(redis_server.socket)) as redis:
        redis.flushall()


async def _play(steps: list[tuple[str, int]], settings: Settings) -> None:
    servers = servers_of(settings)
    redis = servers.client()
    await redis.flushall()
    writers = [Writer(servers, settings) for _ in range(WORKERS)]
    tasks = [asyncio.create_task(writer.run()) for writer in writers]
    try:
        async with Client(settings=settings) as client:
            stage = Stage(redis, await client.enqueue("prompt"), writers)
            await stage.begin()
            for step, worker in steps:
                await stage.play(step, worker)
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task
        await redis.aclose()
