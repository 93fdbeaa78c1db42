"""Where faults are played: a Redis, an upstream, a client and real workers.

The Redis is one server behind a proxy, or a cluster, or a server that Sentinels watch.

The upstream's words tell whose they are: piece 7 of the second call for a prompt is
`<prompt>/2/7`. So a text is whole when it is all pieces of one call, and anything that was
joined from two can be seen.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self, TypeAlias

from redis.asyncio import Redis

from darkq import Client, JobHandle, NotReplicated, RedisUnavailable, Settings
from darkq.protocol.keys import PRIORITIES, JobKeys, PartitionKeys
from darkq.redis.servers import servers_of
from darkq_local.local_darkai import LocalDarkAI
from darkq_local.models.base import Turn
from faults.check import Rests, Watch, always_reading
from faults.proxy import FaultProxy
from support.cluster import RealCluster, running_cluster
from support.processes import WorkerProcess
from support.sentinel import Watched, running_sentinels
from support.servers import Clock, Server, binaries
from support.waiting import wait_until

LEASE_S = 1.0

UNLUCKY_WORKER: dict[str, Any] = {
    "worker_max_lost_leases": 100,
    "job_tries": 20,
    "worker_jobs": 5,
    "worker_reserved_interactive": 0,
}
"""Settings for faults that hit the same job far more often than real crashes do."""
_PAUSE_S = 0.05

Kind: TypeAlias = Literal["server", "cluster", "sentinel"]


class Setup(NamedTuple):
    """What a stage is made of. Faults with the same setup share one."""

    redis: tuple[str, ...] = ()
    kind: Kind = "server"
    replicas: int = 1
    worker: Mapping[str, Any] = {}
    chunks: int = 40
    chunks_per_s: float = 60.0
    piece_bytes: int = 0
    through_proxy: bool = False
    sets_clock: bool = False


class Telltale:
    """A model whose every piece names its prompt, call and place."""

    kind = "telltale"
    name = "telltale"

    def __init__(self, setup: Setup) -> None:
        self.calls: Counter[str] = Counter()
        self.at_once = 0
        self.most_at_once = 0
        self.on_call: Callable[[str], object] = lambda _: None
        self.waits_before = -1
        """The number of a piece that does not come before `goes_on` is set."""
        self.goes_on = asyncio.Event()
        self._setup = setup
        self._padding = "." * setup.piece_bytes

    async def generate(self, query: str, history: Sequence[Turn] = ()) -> AsyncGenerator[str, None]:
        query = query.partition(" ")[0]  # a long prompt is its name, and what makes it long
        self.calls[query] += 1
        call = self.calls[query]
        self.on_call(query)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            for number in range(self._setup.chunks):
                await asyncio.sleep(1 / self._setup.chunks_per_s)
                if number == self.waits_before:
                    await self.goes_on.wait()
                yield self._piece(query, call, number)
        finally:
            self.at_once -= 1

    async def aclose(self) -> None: ...

    def whole(self, query: str, call: int = 1) -> str:
        """The answer of one call."""
        return "".join(self._piece(query, call, n) for n in range(self._setup.chunks))

    def is_whole(self, query: str, text: str) -> bool:
        """Tell whether a text is the whole answer of one call for this prompt."""
        return any(text == self.whole(query, n + 1) for n in range(self.calls[query]))

    def _piece(self, query: str, call: int, number: int) -> str:
        return f"{query}/{call}/{number}{self._padding} "


class Stage:
    """Use it as an async context manager; whatever it started ends with it.

    Of `server` with its `proxy` and `clock`, `cluster` and `sentinel` a stage has what its setup
    asks for.
    """

    server: Server
    clock: Clock
    proxy: FaultProxy
    cluster: RealCluster
    sentinel: Watched

    def __init__(self, setup: Setup, directory: Path, *, full: bool) -> None:
        directory.mkdir()
        self.setup = setup
        self.full = full  # else the long faults are short
        self.directory = directory
        self.model = Telltale(setup)
        self.workers: list[WorkerProcess] = []
        self.extra: dict[str, Any] = {}
        """Settings of the workers that a fault starts."""
        self._prompts = 0
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        self.url, direct_url = await self._start_redis()
        self.darkai = await self._stack.enter_async_context(LocalDarkAI(self.model))
        self._stack.callback(self._end_workers)
        self.client = await self._stack.enter_async_context(Client(settings=self.settings()))
        self.redis: Redis = servers_of(self.settings(redis_url=direct_url)).client()
        self._stack.push_async_callback(self.redis.aclose)
        return self

    async def _start_redis(self) -> tuple[str, str]:
        """Return the URL for workers and clients, and the URL that bypasses all faults."""
        binary, options = binaries()["valkey"], self.setup.redis
        match self.setup.kind:
            case "cluster":
                making = running_cluster(binary, *options, replicas=self.setup.replicas)
                self.cluster = await self._stack.enter_async_context(making)
                return self.cluster.url, self.cluster.url
            case "sentinel":
                watching = running_sentinels(binary, *options, replicas=self.setup.replicas)
                self.sentinel = await self._stack.enter_async_context(watching)
                return self.sentinel.url, self.sentinel.url
        self.server = Server(binary, self.directory, *options)
        if self.setup.sets_clock:
            self.clock = Clock(self.server)
        self.server.start()
        self._stack.callback(self.server.stop)
        self.proxy = await self._stack.enter_async_context(FaultProxy(self.server.socket))
        return self.proxy.url if self.setup.through_proxy else self.server.url, self.server.url

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def settings(self, **changes: Any) -> Settings:
        """Settings of workers and clients of this stage."""
        defaults = {
            "redis_url": self.url,
            "state_dir": self.directory / "state",
            "darkai_url": self.darkai.url,
            "worker_lease_s": LEASE_S,
            "redis_timeout_s": LEASE_S * 2 / 3,
            "worker_shutdown_grace_s": 5,
            "retry_base_s": 0.05,
            "retry_max_s": 0.2,
        }
        return Settings(_env_file=None, **{**defaults, **self.setup.worker, **changes})

    async def crew(self, count: int, *, prelude: str = "") -> list[WorkerProcess]:
        """Make sure that exactly so many workers live and are ready."""
        self.workers = [worker for worker in self.workers if worker.alive]
        while len(self.workers) > count:
            self.workers.pop().end()
        while len(self.workers) < count:
            self.start_worker(prelude)
        for worker in self.workers:
            await is_ready(worker)
        return list(self.workers)

    def start_worker(self, prelude: str = "") -> WorkerProcess:
        """Start one more worker, and do not wait for it."""
        log = self.directory / f"worker-{os.urandom(4).hex()}.log"
        self.workers.append(WorkerProcess(self.settings(**self.extra), log, prelude=prelude))
        return self.workers[-1]

    def prompt(self) -> str:
        """A new prompt."""
        self._prompts += 1
        return f"p{self._prompts}"

    async def submit(
        self,
        prompt: str | None = None,
        *,
        client: Client | None = None,
        rests: Rests = always_reading,
        **options: Any,
    ) -> Watch:
        """Enqueue and watch, as a producer that tries again with its idempotency key."""
        prompt, client = prompt or self.prompt(), client or self.client
        options = {"tries": 1, **options}
        while True:
            try:
                job = await client.enqueue(prompt, idempotency_key=prompt, **options)
                return Watch(job, prompt, rests)
            except (RedisUnavailable, NotReplicated):
                await asyncio.sleep(_PAUSE_S)

    async def submit_many(self, count: int, **options: Any) -> list[Watch]:
        """Enqueue and watch so many jobs at once."""
        return list(await asyncio.gather(*(self.submit(**options) for _ in range(count))))

    async def holder(self, job: JobHandle) -> WorkerProcess | None:
        """The worker that holds a job's lease, if one does."""
        token = await self.redis.get(JobKeys.parse(job.id).in_progress)
        if token is None:
            return None
        pid = int(token.decode().split(":")[-3])
        return next((worker for worker in self.workers if worker.pid == pid), None)

    async def nothing_left(self) -> None:
        """Wait until nothing is queued and nothing is held. Fails when something stays."""
        for partition, priority in itertools.product(range(self.partitions), PRIORITIES):
            name = PartitionKeys(partition).queue(priority)
            await wait_until(f"{name} to be empty", partial(self._is_empty, name), 30)

    @property
    def partitions(self) -> int:
        return self.settings().partitions

    async def clear(self) -> None:
        """Put away what a run left that did not come to its end: workers, jobs, what is broken."""
        self._end_workers()
        self.model.on_call, self.model.waits_before = lambda _: None, -1
        if self.setup.kind == "server":
            await self.proxy.accept()
            self.proxy.mend()
            await asyncio.to_thread(self.server.restart)
            await self.redis.flushall()
            return
        await self._several.mend()
        for master in await self._several.masters():
            await master.ask("FLUSHALL")

    async def settled(self) -> None:
        """Wait until the servers agree who is master, and every replica is in step."""
        if self.setup.kind != "server":
            await self._several.settled()

    @property
    def _several(self) -> RealCluster | Watched:
        return self.cluster if self.setup.kind == "cluster" else self.sentinel

    async def _is_empty(self, queue_name: str) -> bool:
        return bool(await self.redis.zcard(queue_name) == 0)

    def _end_workers(self) -> None:
        for worker in self.workers:
            worker.end()


async def is_ready(worker: WorkerProcess) -> None:
    """Wait until a worker has said that it is ready."""
    await wait_until("a worker to be ready", lambda: worker.ready, 20)
