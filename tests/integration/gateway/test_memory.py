"""What a tenant can make a gateway hold: a real process, and the most memory that it ever had."""

from __future__ import annotations

import asyncio
import io
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from redis.asyncio import Redis

from darkq import Job
from darkq.protocol.job import MAX_METADATA_PAIRS
from darkq.protocol.keys import JobKeys, PartitionKeys
from darkq.protocol.record import Arguments, JobRecord, encode
from darkq_gateway.http.errors import ApiError, convert_error
from support.by_hand import result_record
from support.http_api import Api
from support.servers import Server

MOST_BYTES = 200 << 20
TEXT_CHARS = 4_128_768
RESULTS = 40
WAITING = 20
AT_ONCE = 6

FULL = {f"{n:03}": "\x01" * 60 for n in range(MAX_METADATA_PAIRS)}
"""All the metadata that is taken, of characters that take six bytes each in JSON."""

OF_BATCH = {f"{n:02}" + "\x01" * 62: "\x01" * 512 for n in range(16)}
"""As `FULL`, of a batch."""


class GatewayProcess:
    """`darkq gateway`, whose log is read so that it never waits for that."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._lines: asyncio.Task[None] | None = None

    async def url(self) -> str:
        assert self._process.stderr is not None
        async with asyncio.timeout(20):
            while line := (await self._process.stderr.readline()).decode():
                if match := re.search(r"listening on (http://\S+)", line):
                    self._lines = asyncio.create_task(self._drain())
                    return match[1]
        raise AssertionError("it has ended")

    @property
    def peak_bytes(self) -> int:
        """The most memory that it has ever held."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) << 10

    async def end(self) -> None:
        self._process.kill()
        await self._process.wait()
        if self._lines is not None:
            await self._lines

    async def _drain(self) -> None:
        assert self._process.stderr is not None
        while await self._process.stderr.readline():
            pass


@pytest.fixture
async def process(redis_server: Server, redis: Redis, tmp_path: Path) -> AsyncIterator[Any]:
    made = GatewayProcess(
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "darkq_cli", "gateway"),
            env={
                "DARKQ_REDIS_URL": redis_server.url,
                "DARKQ_GATEWAY_PORT": "0",
                "DARKQ_STATE_DIR": str(tmp_path),
            },
            cwd=tmp_path,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
    )
    yield made
    await made.end()


async def put_results(redis: Redis) -> None:
    """Finished jobs with the longest texts, which Redis makes by itself."""
    repeat = (
        "redis.call('SET', KEYS[1], ARGV[1] .. string.rep('x', ARGV[3]) .. ARGV[2], 'PX', 60000)"
    )
    for n in range(RESULTS):
        keys = JobKeys.new(0)
        before, _, after = encode(result_record(keys, "TEXT")).partition(b"TEXT")
        await redis.execute_command("EVAL", repeat, 1, keys.result, before, after, TEXT_CHARS)
        await redis.zadd(PartitionKeys(0).tenant_jobs(None), {keys.arq_id: n})
    await redis.expire(PartitionKeys(0).tenant_jobs(None), 60)


async def put_waiting(redis: Redis) -> None:
    """Jobs with the longest prompts, and all the metadata that is taken."""
    job = Job.create("\x01" * (1 << 20), metadata=FULL)
    record = encode(JobRecord(k=Arguments(job), et=1))
    for n in range(WAITING):
        keys = JobKeys.new(0)
        await redis.set(keys.job, record, ex=60)
        await redis.zadd(PartitionKeys(0).tenant_jobs(None), {keys.arq_id: RESULTS + n})


async def order_batches(api: Api, metadata: dict[str, str], count: int) -> list[int]:
    """Order batches over a file; return what was answered."""
    form = aiohttp.FormData({"purpose": "batch"})
    form.add_field("file", b"{}\n", filename="in.jsonl")
    file_id = (await api("POST", "/v1/files", data=form)).json["id"]
    body = {
        "input_file_id": file_id,
        "endpoint": "/v1/responses",
        "completion_window": "24h",
        "metadata": metadata,
    }
    data, json_ = msgspec.json.encode(body), {"Content-Type": "application/json"}
    return [
        (await api("POST", "/v1/batches", data=io.BytesIO(data), headers=json_)).status
        for _ in range(count)
    ]


async def test_lists_and_the_board_hold_no_texts(process: GatewayProcess, redis: Redis) -> None:
    """Red, at 500 MB and more, when a list reads the records of its jobs whole."""
    await put_results(redis)
    await put_waiting(redis)
    async with Api(await process.url()) as api:
        began = process.peak_bytes
        for _ in range(2):
            answers = await asyncio.gather(
                *(api("GET", "/jobs?limit=200") for _ in range(AT_ONCE)),
                *(api("GET", "/jobs?limit=1") for _ in range(AT_ONCE)),
            )
            statuses, found = {each.status for each in answers}, len(answers[0].json["jobs"])
            assert (statuses, found) == ({200}, RESULTS + WAITING)
        async with api.stream("/board/overview") as snapshots:
            for _ in range(2):
                await anext(snapshots)
        print(f"{began >> 20} MB before, {process.peak_bytes >> 20} MB at most")
        assert process.peak_bytes <= MOST_BYTES


async def test_metadata_of_batches_is_bounded(process: GatewayProcess) -> None:
    """Red when batches take any metadata, or a list reads more of them than it returns."""
    async with Api(await process.url()) as api:
        huge = {f"{n}": "x" * 100_000 for n in range(80)}
        assert set(await order_batches(api, huge, 20)) == {400}
        assert set(await order_batches(api, OF_BATCH, 150)) == {200}
        began = process.peak_bytes
        for query in ("?limit=1", "?limit=100"):
            answers = await asyncio.gather(
                *(api("GET", f"/v1/batches{query}") for _ in range(AT_ONCE))
            )
            found = {len(answer.json["data"]) for answer in answers}
            assert found == {int(query[7:])}
        print(f"{began >> 20} MB before, {process.peak_bytes >> 20} MB at most")
        assert process.peak_bytes <= MOST_BYTES


def test_an_error_that_is_answered_keeps_nothing_of_its_request() -> None:
    """Red when the error goes on with its frames, which hold the body: 20 refused bodies of 8 MB
    took 198 MB then, and 99 MB without.
    """

    def handler() -> None:
        body = bytearray(1)
        raise ApiError(400, "invalid_value", f"{len(body)}")

    with pytest.raises(ApiError) as caught:
        handler()
    known = convert_error(caught.value)
    assert known is not None
    assert known.__traceback__ is None
