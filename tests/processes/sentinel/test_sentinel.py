"""Whichever server Sentinels call the master: found, lost, and found again."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
from redis.exceptions import ConnectionError

from darkq import Client, JobHandle, RedisUnavailable, Settings
from darkq.event import Chunk, Completed
from darkq.protocol.keys import JobKeys
from darkq.redis.raw import RawConnection
from darkq.redis.sentinel import Sentinels
from darkq.redis.servers import ONE, servers_of
from darkq.redis.url import Address, parse
from darkq_local.local_darkai import LocalDarkAI
from support.sentinel import Watched, running_sentinels
from support.servers import binaries
from support.waiting import wait_until

pytestmark = pytest.mark.slow

StartDarkAI = Callable[..., Awaitable[LocalDarkAI]]
StartWorker = Callable[[Settings], asyncio.Task[None]]


@pytest.fixture
async def watched() -> AsyncIterator[Watched]:
    async with running_sentinels(binaries()["valkey"]) as watched:
        yield watched


@pytest.fixture
def settings(watched: Watched, tmp_path: Path) -> Settings:
    return Settings(
        _env_file=None,
        redis_url=watched.url,
        state_dir=tmp_path / "state",
        worker_lease_s=3,
        redis_timeout_s=2,
        redis_patience_s=30,
    )


async def test_the_master_is_found_wherever_it_is(watched: Watched, settings: Settings) -> None:
    redis = servers_of(settings).client()
    await redis.set("k", "x", ex=600)
    await wait_until("a replica in step", watched.replicated)
    await watched.fail_over()
    assert await redis.get("k") == b"x"
    assert await redis.set("k", "y", ex=600)
    await redis.aclose()


async def test_two_of_three_sentinels_may_be_gone(watched: Watched, settings: Settings) -> None:
    for sentinel in watched.sentinels[:2]:
        sentinel.kill()
    redis = servers_of(settings).client()
    assert await redis.ping()
    await redis.aclose()
    watched.sentinels[2].kill()
    impatient = settings.model_copy(update={"redis_patience_s": 0.1})
    async with Client(settings=impatient) as client:
        with pytest.raises(RedisUnavailable):
            await client.ping()


async def test_a_service_that_no_sentinel_knows(watched: Watched) -> None:
    with pytest.raises(ConnectionError, match="no Sentinel knows"):
        await Sentinels(parse(watched.url.replace("/darkq", "/other"))).find_master()


async def test_a_master_that_has_become_a_replica_is_left(
    watched: Watched, settings: Settings
) -> None:
    """It still answers, and refuses to be written to. Red without its READONLY as a lost one."""
    redis = servers_of(settings).client()
    await redis.set("k", "x", ex=600)
    old = await watched.master()
    await watched.sentinels[0].ask("SENTINEL", "FAILOVER", "darkq")
    await wait_until("another master", lambda: watched.has_other_master(old), timeout_s=30)
    assert await redis.set("k", "y", ex=600)
    await redis.aclose()


async def test_a_replaced_master_that_does_not_know_it_is_left(
    watched: Watched, settings: Settings
) -> None:
    """It takes writes until it is told, and forgets them then. Red without `Sentinels.look`."""
    servers = servers_of(settings)
    redis = servers.client()
    await redis.set("k", "x", ex=600)
    await wait_until("a replica in step", watched.replicated)
    connection = await servers.connect(ONE)
    line = RawConnection(connection, lambda _: None)
    old = await watched.master()
    old.signal(signal.SIGSTOP)
    await wait_until("another master", lambda: watched.all_have_other_master(old), timeout_s=30)
    old.signal(signal.SIGCONT)
    assert await redis.set("k", "y", ex=600)
    assert await (await watched.master()).ask("GET", "k") == b"y"
    await wait_until("the loss of other connections", line.lost.done)
    await connection.disconnect(nowait=True)
    await redis.aclose()


async def test_a_silent_sentinel_delays_nothing(watched: Watched) -> None:
    """Red when all answers are waited for: each look then takes a second."""
    watched.sentinels[0].signal(signal.SIGSTOP)
    sentinels = Sentinels(parse(watched.url))
    async with asyncio.timeout(1):
        await sentinels.find_master()


@pytest.mark.parametrize("delays_s", [(0, 0.2, 0), (0.2, 0, 0.1), (0, 0, 0)])
async def test_a_sentinel_that_missed_a_failover_moves_no_client(
    delays_s: tuple[float, ...],
) -> None:
    """The first of three knows the old master only. Red when the first answer counts."""
    old, new = Address("127.0.0.1", 1111), Address("127.0.0.1", 2222)
    answers = [(old, 3), (new, 4), (new, 4)]
    async with AsyncExitStack() as stack:
        ports = [
            await stack.enter_async_context(_sentinel_that_says(*answer, delay_s))
            for answer, delay_s in zip(answers, delays_s, strict=True)
        ]
        hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
        assert await Sentinels(parse(f"redis+sentinel://{hosts}/darkq")).find_master() == new


@asynccontextmanager
async def _sentinel_that_says(master: Address, epoch: int, delay_s: float) -> AsyncIterator[int]:
    """Listen on a port, and answer `SENTINEL MASTER` after a while; yield the port."""
    facts = ["name", "darkq", "ip", master.host, "port", str(master.port)]
    facts += ["config-epoch", str(epoch)]
    reply = f"*{len(facts)}\r\n" + "".join(f"${len(fact)}\r\n{fact}\r\n" for fact in facts)

    serving: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        async for line in reader:
            if line.startswith(b"*"):  # a command
                command = [(await reader.readline(), await reader.readline())[1]]
                command += [
                    (await reader.readline(), await reader.readline())[1]
                    for _ in range(int(line[1:]) - 1)
                ]
                if command[0].strip() == b"SENTINEL":
                    await asyncio.sleep(delay_s)
                    writer.write(reply.encode())
                else:
                    writer.write(b"+OK\r\n")
        writer.close()
        with suppress(ConnectionError, OSError):
            await writer.wait_closed()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]
        await asyncio.gather(*serving)  # each ends with its client


async def test_without_any_sentinel_the_master_stays(
    watched: Watched, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("darkq.redis.sentinel._LOOK_EVERY_S", 0)
    redis = servers_of(settings.model_copy(update={"redis_patience_s": 0})).client()
    await redis.set("k", "x", ex=600)
    for sentinel in watched.sentinels:
        sentinel.kill()
    assert await redis.get("k") == b"x"
    assert await redis.get("k") == b"x"
    await redis.aclose()


async def test_a_master_whose_replicas_have_left_is_not_written_to(
    watched: Watched, settings: Settings
) -> None:
    """Where it minds (`min-replicas-to-write`). Red without its NOREPLICAS as a lost one."""
    master, replica = await watched.master(), await watched.replica()
    await master.ask("CONFIG", "SET", "min-replicas-to-write", 1)
    impatient = settings.model_copy(update={"redis_patience_s": 0.1})
    async with Client(settings=settings) as client, Client(settings=impatient) as hasty:
        assert await client.enqueue("prompt")
        replica.kill()
        with pytest.raises(RedisUnavailable):
            await hasty.enqueue("prompt")
        waiting = asyncio.create_task(client.enqueue("prompt"))
        await replica.start()
        assert await waiting


@pytest.mark.parametrize("how", ["killed", "frozen", "asked"])
async def test_jobs_survive_a_failover(
    watched: Watched,
    settings: Settings,
    start_darkai: StartDarkAI,
    start_worker: StartWorker,
    how: str,
) -> None:
    darkai = await start_darkai(chunks=150, chunks_per_s=30)
    for _ in range(2):
        start_worker(settings.model_copy(update={"darkai_url": darkai.url}))
    async with Client(settings=settings) as client:
        jobs = [await client.enqueue("survive") for _ in range(8)]
        chunks = [0] * len(jobs)

        async def read(number: int) -> None:
            seen = []
            async for event in jobs[number].events():
                seen.append(event)
                chunks[number] += isinstance(event, Chunk)
            cursors = [event.cursor for event in seen]
            assert cursors == sorted(set(cursors))
            last = seen[-1]
            assert isinstance(last, Completed)
            text = [
                event.text
                for event in seen
                if isinstance(event, Chunk) and event.cursor.attempt == last.cursor.attempt
            ]
            assert (await jobs[number].result(timeout_s=10)).text == "".join(text)

        async with asyncio.timeout(50), asyncio.TaskGroup() as readers:
            for number in range(len(jobs)):
                readers.create_task(read(number))
            await wait_until("all to have begun", lambda: min(chunks) > 1)
            await wait_until("a replica in step", watched.replicated)
            old = await watched.master()
            if how == "killed":
                old.kill()
            elif how == "frozen":
                old.signal(signal.SIGSTOP)
            else:
                await watched.sentinels[0].ask("SENTINEL", "FAILOVER", "darkq")
            await wait_until("another master", lambda: watched.has_other_master(old), timeout_s=30)
            jobs += await wait_until(
                "a job on it", partial(_enqueued, client, watched), timeout_s=20
            )
            chunks.append(0)
            readers.create_task(read(len(jobs) - 1))


async def _enqueued(client: Client, watched: Watched) -> list[JobHandle]:
    """Make a job; none if the old master took it, as it may for a second."""
    job = await client.enqueue("after it")
    key = JobKeys.parse(job.id).job
    return [job] if await (await watched.master()).ask("EXISTS", key) else []
