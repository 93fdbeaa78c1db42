"""A peer's processes: its worker, its producer, and a Redis for both."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.answers import burst
from benchmarks.machine import THE_REST, UNDER_TEST
from benchmarks.peers.environment import python
from benchmarks.processes import Process, child, read_line, redis_server
from benchmarks.systems import listening

JOBS = 100
CHANNELS = "peer:*"
_START_TIMEOUT_S = 30.0


class Peer:
    """A peer, whose worker runs a number of concurrent jobs."""

    def __init__(self, redis_url: str, worker_pid: int, producer: Process) -> None:
        self.redis_url = redis_url
        self.worker_pid = worker_pid
        self._producer = producer

    async def enqueue(self, how: str, prompt: str, count: int, **more: float) -> Any:
        """Let the producer enqueue jobs; return its measurements."""
        return await asyncio.to_thread(order, self._producer, how, prompt, count, **more)


def order(producer: Process, how: str, prompt: str, count: int, **more: float) -> Any:
    """Send a request to a producer; wait for its response."""
    assert producer.stdin is not None
    print(
        json.dumps({"how": how, "prompt": prompt, "count": count, **more}),
        file=producer.stdin,
        flush=True,
    )
    return json.loads(read_line(producer))


@contextmanager
def producing(name: str, redis_url: str, core: int = THE_REST) -> Iterator[Process]:
    """Run a producer."""
    with child(*_command(name, "produce", redis_url, "http://127.0.0.1:9"), role=core) as process:
        read_line(process)
        yield process


@contextmanager
def producing_alone(name: str) -> Iterator[Process]:
    """Run Redis and a producer, which is under test."""
    with redis_server() as redis_url, producing(name, redis_url, UNDER_TEST) as producer:
        yield producer


@asynccontextmanager
async def running(name: str, url: str) -> AsyncIterator[Peer]:
    """Run Redis, a producer, and a worker that has run a first job."""
    with ExitStack() as stack:
        redis_url = stack.enter_context(redis_server())
        worker = stack.enter_context(child(*_command(name, "worker", redis_url, url)))
        producer = stack.enter_context(producing(name, redis_url))
        peer = Peer(redis_url, worker.pid, producer)
        async with asyncio.timeout(_START_TIMEOUT_S), listening(redis_url, CHANNELS, _one, 1):
            await peer.enqueue("one", burst(1), 1)
        yield peer


def _one(_: bytes) -> int:
    return 1


def _command(name: str, role: str, redis_url: str, url: str) -> list[str]:
    script = Path(__file__).parent / f"{name}_peer.py"
    return [str(python(name)), str(script), role, redis_url, url, str(JOBS)]
