"""The client: enqueue jobs, and read them from any process.

async with Client() as client:
    job = await client.enqueue("Write a haiku about queues.")
    async for piece in job.text():
        print(piece, end="", flush=True)
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from functools import cached_property
from typing import TYPE_CHECKING, Self, Unpack

from msgspec.structs import asdict
from pydantic import SecretStr
from redis.exceptions import NoPermissionError

from darkq.batches.batch import Batch
from darkq.batches.lease import describe_batch
from darkq.batches.status import BatchStatus, list_batches
from darkq.errors import InvalidJob
from darkq.jobs.enqueue import Enqueuer
from darkq.jobs.failed import FailedJob, list_failed
from darkq.jobs.handle import JobHandle
from darkq.jobs.job_lists import JobLists, list_batch_ids, list_job_ids, list_latest
from darkq.jobs.status import Status
from darkq.jobs.tickets import Tickets
from darkq.protocol.job import Job, JobArguments, Priority
from darkq.protocol.keys import PRIORITIES, BatchKeys, JobKeys
from darkq.protocol.output import Output, add_output
from darkq.protocol.prompt import Prompt
from darkq.redis.pool import speaking_darkq
from darkq.redis.pubsub import Live
from darkq.redis.servers import servers_of
from darkq.settings.settings import Settings

if TYPE_CHECKING:  # imported by the methods that use them, to keep `import darkq` fast
    from darkq.jobs.fanout import Fanouts
    from darkq.operate.purge import Purge
    from darkq.operate.queue import QueueHandle
    from darkq.operate.queue_state import QueueStatus
    from darkq.operate.stats import Stats
    from darkq.operate.upstreams import UpstreamStatus
    from darkq.operate.waiting import Conditions, Fleet
    from darkq.operate.workers import WorkerHandle, WorkerLeases
    from darkq.serving.api_keys import ApiKeys
    from darkq.serving.file_batches import FileBatches
    from darkq.serving.request_dedup import Chats, Reattachments, RepeatedRequests

CONDITIONS_S = 1.0
"""How old the conditions may be with which `explain` explains a wait."""


class Client:
    """The connection of a producer or reader to darkq. Tasks of one event loop may share it.

    It belongs to the event loop that uses it first. In another loop, all calls of it and of its
    handles raise `RuntimeError`. If each request has its own loop, as in async views of Flask and
    Django under WSGI, use `darkq.sync.Client`.

    Connects on first use. Close it with `aclose()`, or use it as a context manager.
    """

    def __init__(self, redis_url: str | None = None, *, settings: Settings | None = None) -> None:
        """Use the given URL, else `DARKQ_REDIS_URL`, else the embedded server that runs here.

        Raises `ConfigurationError`.
        """
        settings = settings or Settings.load()
        if redis_url is not None:
            settings = settings.model_copy(update={"redis_url": SecretStr(redis_url)})
        self._settings = settings
        servers = servers_of(settings)
        self._loop = servers.loop
        self._redis = servers.client()
        self._live = Live(servers, patience_s=settings.redis_patience_s)
        self._orders = Enqueuer(self._redis, settings)
        self._conditions: tuple[float, Conditions] | None = None
        self.tickets = Tickets(self._redis, settings)

    @cached_property
    def purge(self) -> Purge:
        """Cancels and deletes jobs by their properties."""
        from darkq.operate.purge import Purge

        return Purge(self._redis, self._settings)

    @cached_property
    def api_keys(self) -> ApiKeys:
        """The API keys of gateways."""
        from darkq.serving.api_keys import ApiKeys

        return ApiKeys(self._redis)

    @cached_property
    def job_lists(self) -> JobLists:
        """A tenant's jobs as a person sees them: states, and the beginning of prompts."""
        return JobLists(self._redis, self._settings)

    @cached_property
    def reattachments(self) -> Reattachments:
        """The latest job of a request, and the callers that wait for it."""
        from darkq.serving.request_dedup import Reattachments

        return Reattachments(self._redis)

    @cached_property
    def repeated_requests(self) -> RepeatedRequests:
        """The id seeds of requests that create several objects."""
        from darkq.serving.request_dedup import RepeatedRequests

        return RepeatedRequests(self._redis, ttl_s=self._settings.job_ttl_s)

    @cached_property
    def chats(self) -> Chats:
        """The latest jobs of the AI SDK's chats."""
        from darkq.serving.request_dedup import Chats

        return Chats(self._redis, ttl_s=self._settings.job_ttl_s)

    @cached_property
    def file_batches(self) -> FileBatches:
        """Batches over files."""
        from darkq.serving.file_batches import FileBatches

        return FileBatches(self._redis)

    def make_fanouts(
        self, *, ping_after_s: float, on_relayed: Callable[[float, int], None]
    ) -> Fanouts:
        """Return what delivers the events of jobs to many connections; for gateways."""
        from darkq.jobs.fanout import Fanouts

        return Fanouts(self._redis, self._live, ping_after_s=ping_after_s, on_relayed=on_relayed)

    async def enqueue(
        self,
        prompt: Prompt,
        *,
        idempotency_key: str | None = None,
        output: Output | None = None,
        **arguments: Unpack[JobArguments],
    ) -> JobHandle:
        """Store a job and return its handle. Once this returns, the job will be run.

        A prompt is a string or a list of messages. With an `output`, a Pydantic model, a type that
        msgspec can read or a JSON schema, the answer is JSON of that form, and `Result.parsed` is
        its value.

        With an idempotency key, a second call with the same content returns the first job, until
        the key expires (`DARKQ_JOB_TTL_S`); tenants do not share keys. The other arguments are
        those of `Job.create`. A job fails if its upstream does not support one of its options or
        parameters. Concurrent calls share round trips. If the call is cancelled, the job may or may
        not be stored.

        Raises `InvalidJob` before anything is stored, `IdempotencyConflict` for a key used with
        different content, `QueueFull`, `QueueClosed`, `RedisUnavailable`.
        """
        if output is not None:
            arguments["parameters"] = add_output(arguments.get("parameters"), output)
        job = Job.create(prompt, **arguments)
        handle = await self.enqueue_job(job, idempotency_key=idempotency_key)
        return handle.with_output(output)

    async def enqueue_job(self, job: Job, *, idempotency_key: str | None = None) -> JobHandle:
        """Store a job of `Job.create`; otherwise the same as `enqueue`."""
        self._loop.check()
        keys, duplicate = await self._orders.put(job, idempotency_key)
        return self._handle(keys, duplicate=duplicate)

    async def enqueue_many(
        self, jobs: Iterable[Prompt | Job] | AsyncIterable[Prompt | Job], *, seed: str | None = None
    ) -> list[JobHandle]:
        """Store many jobs, a few hundred per round trip, and return their handles in order.

        Takes prompts and jobs of `Job.create` from any iterable, async ones too. All are validated
        before the first is stored. With a `seed`, 32 random hexadecimal digits, a repeated call
        stores no job twice: ids are derived from the seed and the job's index. Raises `InvalidJob`,
        whose `field` begins with the item's index, `QueueFull` and `QueueClosed`, which have the
        ids of the stored jobs, and `RedisUnavailable`. After an error or a cancellation, some jobs
        may be stored.
        """
        checked = [_check_item(number, item) for number, item in enumerate(await _collect(jobs))]
        return [self._handle(keys) for keys in await self._orders.put_many(checked, seed)]

    def job(self, job_id: str, *, output: Output | None = None) -> JobHandle:
        """Return the handle of a job by its id, without a call to Redis.

        `output` is the type of `Result.parsed`, as in `enqueue`. Raises `JobNotFound` for a string
        that is no job id.
        """
        return self._handle(JobKeys.parse(job_id)).with_output(output)

    async def failed(self, limit: int | None = None) -> AsyncGenerator[FailedJob, None]:
        """Yield the failed jobs, the latest first within a partition.

        At most `limit` of them; None means all that are kept (`DARKQ_FAILED_TTL_S`). Raises
        `RedisUnavailable`.
        """
        found = list_failed(self._redis, range(self._settings.partitions))
        async with speaking_darkq(), aclosing(found) as pages:
            left = limit
            async for page in pages:
                for job in page[:left]:
                    yield job
                if left is not None and (left := left - len(page)) <= 0:
                    return

    async def jobs(self, *, tenant: str | None = None, limit: int = 100) -> list[Status]:
        """Return the status of a tenant's latest jobs, the newest first.

        None means the jobs without a tenant. Each partition lists a tenant's latest 1,000 jobs, in
        any state, until they expire. Raises `RedisUnavailable`.
        """
        async with speaking_darkq():
            partitions = self._settings.partitions
            return await list_latest(self._redis, partitions, tenant=tenant, limit=limit)

    async def job_ids(self) -> list[str]:
        """Return the ids of failed jobs, and of the latest jobs without a tenant, unsorted.

        With them an operator's tool can shorten ids. Raises `RedisUnavailable`.
        """
        async with speaking_darkq():
            return await list_job_ids(self._redis, self._settings.partitions)

    async def batch_ids(self) -> list[str]:
        """Return the ids of the batches, unsorted. Raises `RedisUnavailable`."""
        async with speaking_darkq():
            return await list_batch_ids(self._redis, self._settings.partitions)

    async def explain(self, statuses: Sequence[Status]) -> list[Status]:
        """Return the statuses with `why`: why each job waits, or why it has failed.

        What keeps all jobs waiting, as a paused queue, is read at most once a second. A Redis user
        who may not read it gets the statuses as they are. Raises `RedisUnavailable`.
        """
        from darkq.operate.waiting import EXPLAINED, explain, read_conditions

        if not any(status.state in EXPLAINED for status in statuses):
            return list(statuses)
        async with speaking_darkq():
            try:
                read_s, conditions = self._conditions or (0.0, None)
                if conditions is None or time.monotonic() - read_s > CONDITIONS_S:
                    conditions = await read_conditions(self._redis, self._settings.partitions)
                    self._conditions = time.monotonic(), conditions
                return await explain(self._redis, statuses, conditions)
            except NoPermissionError:
                return list(statuses)

    def batch(
        self,
        batch_id: str | None = None,
        *,
        seed: str | None = None,
        name: str | None = None,
        window: int = 2000,
        metadata: Mapping[str, str] | None = None,
        lines: int | None = None,
    ) -> Batch:
        """Return the handle of a new batch, or of one by its id, without a call to Redis.

        A new batch is created when its handle is entered (`async with`). At most `window` of its
        lines are unfinished in Redis at the same time. With a `seed`, 32 random hexadecimal digits,
        the id is derived from it, and an existing batch is entered. Raises `BatchNotFound` for a
        string that is no batch id, `InvalidJob` for an invalid `name`, `window` or `metadata`.
        `lines` is how many there will be, if that is known; it is only shown.
        """
        if seed is not None:
            keys = BatchKeys(int(seed, 16) % self._settings.partitions, seed)
        elif batch_id is None:
            keys = BatchKeys.new(secrets.randbelow(self._settings.partitions))
        else:
            keys = BatchKeys.parse(batch_id)
        made_with = None
        if batch_id is None:
            made_with = describe_batch(name=name, window=window, metadata=metadata, lines=lines)
        return Batch(
            keys, self._redis, self._live, self._orders, self._settings, self.tickets, made_with
        )

    async def batches(self) -> AsyncGenerator[BatchStatus, None]:
        """Yield the status of each batch, the latest used first within a partition.

        Raises `RedisUnavailable`.
        """
        found = list_batches(self._redis, range(self._settings.partitions))
        async with speaking_darkq(), aclosing(found) as statuses:
            async for status in statuses:
                yield status

    async def workers(self) -> list[str]:
        """Return the ids of the workers that are alive: `<host>:<pid>:<random>`.

        A killed worker is listed until its health record expires, some seconds later. Raises
        `RedisUnavailable`.
        """
        from darkq.operate.workers import live_workers

        async with speaking_darkq():
            return await live_workers(self._redis)

    def worker(self, worker_id: str) -> WorkerHandle:
        """Return the handle of a worker by its id, alive or not, to drain it."""
        from darkq.operate.workers import WorkerHandle

        return WorkerHandle(worker_id, self._redis)

    async def upstreams(self) -> list[UpstreamStatus]:
        """Return the upstreams that live workers serve: models, limits and state.

        Raises `RedisUnavailable`.
        """
        from darkq.operate.upstreams import list_upstreams

        async with speaking_darkq():
            return await list_upstreams(self._redis)

    async def leases(self) -> list[WorkerLeases]:
        """Return the number of jobs that each live worker runs. Raises `RedisUnavailable`."""
        from darkq.operate.workers import live_workers, read_leases

        async with speaking_darkq():
            workers = await live_workers(self._redis)
            return await read_leases(self._redis, workers, self._settings.partitions)

    async def queues(self) -> list[QueueStatus]:
        """Return the number of waiting and running jobs of each queue, most urgent first.

        Raises `RedisUnavailable`.
        """
        from darkq.operate.queue_state import read_queues

        async with speaking_darkq():
            return await read_queues(self._redis, self._settings.partitions)

    async def fleet(self) -> Fleet:
        """Return the state of queues, workers and upstreams, at one time.

        Raises `RedisUnavailable`.
        """
        from darkq.operate.waiting import read_fleet

        async with speaking_darkq():
            return await read_fleet(self._redis, self._settings.partitions)

    def queue(self, priority: Priority) -> QueueHandle:
        """Return the handle of a priority's queue, to pause, close, move or purge it.

        Raises `InvalidJob` for a priority that there is not.
        """
        from darkq.operate.queue import QueueHandle

        if priority not in PRIORITIES:
            raise InvalidJob("priority", f"must be one of: {', '.join(PRIORITIES)}")
        return QueueHandle(priority, self._redis, self._settings)

    async def stats(self) -> Stats:
        """Return the counters of all workers. Raises `RedisUnavailable`."""
        from darkq.operate.stats import read_stats

        async with speaking_darkq():
            return await read_stats(self._redis)

    @property
    def overflows(self) -> int:
        """How often a reader of this client was too slow for the live events.

        It then continued from the event log, and missed no event.
        """
        return self._live.overflows

    async def ping(self) -> None:
        """Check that Redis answers. Raises `RedisUnavailable`."""
        async with speaking_darkq():
            await self._redis.ping()

    async def aclose(self) -> None:
        """Send waiting jobs, and close all connections."""
        self._loop.check()
        await self._orders.aclose()
        await self._live.aclose()
        await self._redis.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def _handle(self, keys: JobKeys, *, duplicate: bool = False) -> JobHandle:
        return JobHandle(
            keys, self._redis, self._live, self._settings, self.tickets, duplicate=duplicate
        )


async def _collect(
    jobs: Iterable[Prompt | Job] | AsyncIterable[Prompt | Job],
) -> list[Prompt | Job]:
    """Collect all items. Raises `InvalidJob` for a single prompt."""
    if isinstance(jobs, str | bytes | Mapping) or not isinstance(jobs, Iterable | AsyncIterable):
        raise InvalidJob("jobs", f"must be several prompts, not one {type(jobs).__name__}")
    if isinstance(jobs, AsyncIterable):
        return [job async for job in jobs]
    return list(jobs)


def _check_item(number: int, item: Prompt | Job) -> Job:
    """Return an item as a validated job. Raises `InvalidJob` with the item's index."""
    try:
        # A `Job` made without `create` is not validated.
        return Job.create(**asdict(item)) if isinstance(item, Job) else Job.create(item)
    except InvalidJob as error:
        raise InvalidJob(f"jobs[{number}].{error.field}", error.reason) from None
