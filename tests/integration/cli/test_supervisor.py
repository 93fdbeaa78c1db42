"""`darkq gateway` and `darkq worker` with `--processes`: real processes, real signals."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from darkq import Client
from support.by_hand import Hand, chunk, started
from support.gateway_process import DarkqProcess, darkq
from support.http_api import Api
from support.servers import Server
from support.waiting import wait_until

EXIT_S = 60


class Supervisor:
    """A supervised command, and its children; `log` is what all of them have written."""

    def __init__(self, process: DarkqProcess) -> None:
        self.process = process
        self.log = ""
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        while data := await self.process.stderr.read(1 << 16):
            self.log += data.decode()

    @property
    def children(self) -> list[int]:
        """The processes that it has started, in their order."""
        pid = self.process.pid
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    async def ready(self, count: int, words: str) -> list[int]:
        """Wait until so many children are ready."""
        await wait_until(
            f"{count} × {words}", lambda: self.log.count(words) >= count or self.ended, 60
        )
        assert not self.ended, self.log
        return self.children

    @property
    def ended(self) -> bool:
        return self.process.returncode is not None

    async def close(self) -> None:
        self._reading.cancel()
        await asyncio.wait([self._reading])

    async def exit_code(self) -> int:
        code = await asyncio.wait_for(self.process.wait(), EXIT_S)
        await self._reading
        return code


@asynccontextmanager
async def supervised(
    server: Server, *arguments: str, processes: int = 2, **settings: str
) -> AsyncIterator[Supervisor]:
    async with darkq(server.url, *arguments, "--processes", str(processes), **settings) as process:
        supervisor = Supervisor(process)
        try:
            yield supervisor
        finally:
            await supervisor.close()


LISTENING, READY = "listening on http", "worker ready"
GATEWAY = ("gateway", "--host", "127.0.0.1", "--port", "0")


def url_of(supervisor: Supervisor) -> str:
    (url,) = set(re.findall(r"listening on (http://\S+)", supervisor.log))
    return str(url)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


class TestGateway:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    async def test_all_share_a_port_and_end_with_a_signal(
        self, redis_server: Server, redis: Redis, number: signal.Signals
    ) -> None:
        """Red without SO_REUSEPORT, or when a signal reaches only the supervisor."""
        hand = Hand(redis)
        claim = await hand.take()
        await hand.append(claim, started(1), chunk(1, 1))
        async with supervised(redis_server, *GATEWAY, processes=3) as supervisor:
            children = await supervisor.ready(3, LISTENING)
            assert len(children) == 3
            seen: list[list[str]] = [[] for _ in range(30)]

            async def read(ids: list[str]) -> None:
                async with (
                    Api(url_of(supervisor)) as api,
                    api.stream(f"/jobs/{claim.keys.public_id}/events") as events,
                ):
                    async for event in events:
                        ids += [event.id]

            readers = [asyncio.create_task(read(ids)) for ids in seen]
            await wait_until("all", lambda: all(len(ids) == 3 for ids in seen))
            listeners = await redis.pubsub_numsub(claim.keys.live)
            assert listeners[0][1] > 1, "connections are spread over the processes"
            supervisor.process.send_signal(number)
            await asyncio.wait_for(asyncio.gather(*readers), EXIT_S)  # each ends in order
            assert await supervisor.exit_code() == 0
            assert seen == [["0-1", "1-0", "1-1"]] * 30
            assert not any(map(is_alive, children))
            assert "ERROR" not in supervisor.log

    async def test_a_child_that_dies_is_started_again(
        self, redis_server: Server, redis: Redis
    ) -> None:
        """Red when a dead child is not replaced, or when the others end with it."""
        async with supervised(redis_server, *GATEWAY) as supervisor:
            first, second = await supervisor.ready(2, LISTENING)
            os.kill(first, signal.SIGKILL)
            children = await supervisor.ready(3, LISTENING)
            assert second in children
            assert first not in children
            assert len(children) == 2
            (line,) = re.findall(r"process ended, another starts.*", supervisor.log)
            assert f"pid={first} code=137" in line
            async with Api(url_of(supervisor)) as api:
                assert (await api("GET", "/healthz")).status == 200
            supervisor.process.send_signal(signal.SIGTERM)
            assert await supervisor.exit_code() == 0

    async def test_what_cannot_start_is_not_started_again(
        self, redis_server: Server, redis: Redis
    ) -> None:
        """Red when a wrong setting is retried without end: without an API key, no other host."""
        async with supervised(redis_server, "gateway", "--host", "0.0.0.0") as supervisor:
            assert await supervisor.exit_code() == 1
            assert "darkq keys create" in supervisor.log
            assert "another starts" not in supervisor.log

    async def test_a_port_that_is_taken(self, redis_server: Server, redis: Redis) -> None:
        with socket.create_server(("127.0.0.1", 0), reuse_port=True) as taken:
            port = str(taken.getsockname()[1])
            async with supervised(redis_server, "gateway", "--port", port) as supervisor:
                assert await supervisor.exit_code() == 1
                assert f"port {port}" in supervisor.log

    async def test_two_supervisors_do_not_share_a_port(
        self, redis_server: Server, redis: Redis
    ) -> None:
        async with supervised(redis_server, *GATEWAY) as supervisor:
            await supervisor.ready(2, LISTENING)
            port = url_of(supervisor).rsplit(":", 1)[1]
            async with supervised(redis_server, "gateway", "--port", port) as other:
                assert await other.exit_code() == 1

    async def test_children_end_with_a_supervisor_that_is_killed(
        self, redis_server: Server, redis: Redis
    ) -> None:
        async with supervised(redis_server, *GATEWAY) as supervisor:
            children = await supervisor.ready(2, LISTENING)
            supervisor.process.kill()
            await supervisor.process.wait()
            await wait_until("their end", lambda: not any(map(is_alive, children)))

    async def test_one_process_has_no_supervisor(self, redis_server: Server, redis: Redis) -> None:
        async with supervised(redis_server, *GATEWAY, processes=1) as supervisor:
            assert await supervisor.ready(1, LISTENING) == []
            supervisor.process.send_signal(signal.SIGTERM)
            assert await supervisor.exit_code() == 0


class TestWorker:
    async def test_all_work_and_end_with_a_signal(
        self, redis_server: Server, redis: Redis, client: Client, start_darkai: Any
    ) -> None:
        darkai = await start_darkai(chunks=3)
        async with supervised(
            redis_server, "worker", DARKQ_DARKAI_URL=darkai.url, DARKQ_WORKER_JOBS="20"
        ) as supervisor:
            children = await supervisor.ready(2, READY)
            for job in await client.enqueue_many(["hello"] * 20):
                assert (await job.result(timeout_s=30)).text
            workers = {int(worker.split(":")[1]) for worker in await client.workers()}
            assert workers == set(children)
            supervisor.process.send_signal(signal.SIGTERM)
            assert await supervisor.exit_code() == 0
            assert not any(map(is_alive, children))

    @pytest.mark.parametrize("processes", [1, 2])
    async def test_a_second_signal_skips_the_wait(
        self,
        redis_server: Server,
        redis: Redis,
        client: Client,
        start_darkai: Any,
        processes: int,
    ) -> None:
        """Red when only the first signal is passed on: the job has ten minutes."""
        darkai = await start_darkai(chunks=1000, chunks_per_s=1)
        async with supervised(
            redis_server,
            "worker",
            processes=processes,
            DARKQ_DARKAI_URL=darkai.url,
            DARKQ_WORKER_SHUTDOWN_GRACE_S="600",
        ) as supervisor:
            await supervisor.ready(processes, READY)
            job = await client.enqueue("hello")
            async for _ in job.text():
                break
            supervisor.process.send_signal(signal.SIGTERM)
            await wait_until("the first", lambda: "shutdown requested" in supervisor.log)
            supervisor.process.send_signal(signal.SIGTERM)
            assert await supervisor.exit_code() == 0
            assert (await job.status()).state in ("queued", "deferred")

    async def test_what_cannot_start_is_not_started_again(
        self, redis_server: Server, redis: Redis
    ) -> None:
        async with supervised(
            redis_server, "worker", DARKQ_WORKER_JOBS="1", DARKQ_WORKER_RESERVED_INTERACTIVE="1"
        ) as supervisor:
            assert await supervisor.exit_code() == 1
            assert "DARKQ_WORKER_RESERVED_INTERACTIVE" in supervisor.log
            assert "another starts" not in supervisor.log
