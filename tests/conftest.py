"""Fixtures: a real server, a clean database that no key may outlive, a client, workers."""

from __future__ import annotations

import asyncio
import gc
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from redis.asyncio import Redis

from darkq import Client, Settings
from darkq_local.faults import Fault
from darkq_local.local_darkai import LocalDarkAI
from darkq_local.models import load_model
from darkq_worker.main import run_worker
from support.leaks import keys_without_ttl
from support.processes import WorkerProcess
from support.servers import Server, binaries, running

pytest_plugins = ["support.order"]

# How long an example takes says nothing about darkq: a fresh clone builds hypothesis' tables first.
hypothesis.settings.register_profile(
    "darkq", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("darkq")


def pytest_configure() -> None:
    """Go on ignoring what `nohup` and `&` ignore, but do not have the processes of tests ignore it.

    A process inherits SIG_IGN, but no handler.
    """
    for number in (signal.SIGHUP, signal.SIGINT):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Look for no garbage among the tests, while they are collected and after.

    There are thousands of them: each look took 0.3 s, and there is one after each file.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def collected_garbage() -> Iterator[None]:
    """Tell what a file's tests left unclosed there, not wherever Python happens to look next."""
    yield
    gc.collect()
    gc.freeze()  # what lives on is not looked through again after the next file: 0.06 s each time


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Server]:
    """The server of most tests."""
    with running(binaries()["valkey"]) as server:
        yield server


@pytest.fixture
async def redis(redis_server: Server) -> AsyncIterator[Redis]:
    """A client of an empty database; afterwards every key left must have a time to live."""
    client = Redis.from_url(redis_server.url)
    await client.flushall()
    yield client
    leaked = await keys_without_ttl(client)
    await client.aclose()
    assert not leaked, f"keys without a time to live: {leaked}"


@pytest.fixture(scope="module")
def other_server() -> Iterator[Server]:
    """A second one, for what goes from one to another: of another kind, where there is one."""
    with running(list(binaries().values())[-1]) as server:
        yield server


@pytest.fixture
async def there(other_server: Server) -> AsyncIterator[Redis]:
    """As `redis`, of the other server."""
    client = Redis.from_url(other_server.url)
    await client.flushall()
    yield client
    leaked = await keys_without_ttl(client)
    await client.aclose()
    assert not leaked, f"keys without a time to live: {leaked}"


@pytest.fixture
def make_settings(redis: Redis, redis_server: Server, tmp_path: Path) -> Callable[..., Settings]:
    """Make settings from arguments alone, on the test's server."""

    def make(**changes: Any) -> Settings:
        defaults = {"redis_url": redis_server.url, "state_dir": tmp_path / "state"}
        if (lease_s := changes.get("worker_lease_s", 15)) <= 10:  # not below Redis' timeout
            defaults["redis_timeout_s"] = lease_s * 2 / 3
        return Settings(_env_file=None, **{**defaults, **changes})

    return make


@pytest.fixture
def settings(make_settings: Callable[..., Settings]) -> Settings:
    return make_settings()


@pytest.fixture
async def client(settings: Settings) -> AsyncIterator[Client]:
    async with Client(settings=settings) as client:
        yield client


StartDarkAI = Callable[..., Awaitable[LocalDarkAI]]


@pytest.fixture
async def start_darkai() -> AsyncIterator[StartDarkAI]:
    """Start local DarkAIs with the Markov chain; faults may be asked for or planned."""
    async with AsyncExitStack() as stack:

        async def start(
            *plan: Fault | None, chunks: int = 20, chunks_per_s: float = 0.0
        ) -> LocalDarkAI:
            model = await load_model("markov", max_chunks=chunks, chunks_per_s=chunks_per_s)
            stack.push_async_callback(model.aclose)
            return await stack.enter_async_context(LocalDarkAI(model, faults=True, plan=plan))

        yield start


@pytest.fixture
def start_process(tmp_path: Path) -> Iterator[Callable[[Settings], WorkerProcess]]:
    """Start workers as processes of their own, which may be killed and stopped."""
    processes: list[WorkerProcess] = []

    def start(settings: Settings) -> WorkerProcess:
        log = tmp_path / f"worker-{len(processes)}.log"
        processes.append(WorkerProcess(settings, log, is_forked=True))
        return processes[-1]

    yield start
    for process in processes:
        process.end()


@pytest.fixture
async def start_worker() -> AsyncIterator[Callable[[Settings], asyncio.Task[None]]]:
    """Start workers in this process; each is a task, and cancelling it hands its jobs back."""
    tasks: list[asyncio.Task[None]] = []

    def start(settings: Settings) -> asyncio.Task[None]:
        tasks.append(asyncio.create_task(run_worker(settings, handle_signals=False)))
        return tasks[-1]

    yield start
    for task in tasks:
        if not task.cancelling():  # a second time would interrupt the closing of its connections
            task.cancel()
        with suppress(asyncio.CancelledError):
            await task
