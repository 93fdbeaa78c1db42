"""The client without `await`: the same answers, from any thread, and after a fork.

A blocking call stands in a thread of its own here, so that the test can play the worker.
"""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import threading
import time
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import CancelledError
from typing import Any, TypeVar

import pytest
from redis.asyncio import Redis

from darkq import (
    ConfigurationError,
    IdempotencyConflict,
    InvalidJob,
    Job,
    JobCancelled,
    JobNotFound,
    RedisUnavailable,
    ResultTimeout,
    Settings,
)
from darkq.event import Cursor
from darkq.protocol.keys import JobKeys, PartitionKeys
from darkq.sync import Client, JobHandle
from support.by_hand import Hand, chunk, event_ids, heard, silent, started
from support.servers import Server
from support.waiting import wait_until

T = TypeVar("T")


async def blocking(call: Callable[..., T], *args: Any, **options: Any) -> T:
    return await asyncio.wait_for(asyncio.to_thread(call, *args, **options), 20)


@pytest.fixture
def hand(redis: Redis) -> Hand:
    return Hand(redis)


@pytest.fixture
async def client(settings: Settings) -> AsyncIterator[Client]:
    client = Client(settings=settings)
    yield client
    await blocking(client.close)


def sync_threads() -> int:
    return sum(thread.name == "darkq-sync" for thread in threading.enumerate())


async def test_a_job_from_one_end_to_the_other(client: Client, redis: Redis, hand: Hand) -> None:
    job = await blocking(
        client.enqueue, "hi", model="m", priority="bulk", timeout_s=5, tries=2,
        metadata={"a": "b"}, upstream="u", proxy="http://p:1", idempotency_key="k",
    )  # fmt: skip
    assert (await blocking(job.status)).state == "queued"
    claim = await hand.claim_one()
    waiting = asyncio.create_task(blocking(job.result, timeout_s=10))
    reading = asyncio.create_task(blocking(lambda: "".join(job.text())))
    await hand.append(claim, started(1), chunk(1, 1, "a"), chunk(1, 2, "b"))
    await hand.complete(claim, "ab", Cursor(1, 3))
    assert (await waiting).text == await reading == "ab"
    events = await blocking(lambda: [*client.job(job.id).events(after="0-1")])
    assert [event.id for event in events] == (await event_ids(redis, claim.keys))[1:]
    again = await blocking(
        client.enqueue, "hi", model="m", priority="bulk", timeout_s=5, tries=2,
        metadata={"a": "b"}, upstream="u", proxy="http://p:1", idempotency_key="k",
    )  # fmt: skip
    assert (again.id, again.duplicate, job.duplicate) == (job.id, True, False)
    assert repr(job) == f"JobHandle({job.id!r})"


async def test_many_jobs(client: Client, redis: Redis) -> None:
    jobs = await blocking(client.enqueue_many, (f"prompt {n}" for n in range(700)))
    assert len({job.id for job in jobs}) == 700
    assert await redis.zcard(PartitionKeys(0).queue("interactive")) == 700
    assert isinstance(jobs[0], JobHandle)


async def test_it_connects_on_first_use_and_close_ends_the_thread(settings: Settings) -> None:
    before = sync_threads()
    with Client(settings=settings) as client:
        assert sync_threads() == before
        await blocking(client.enqueue, "hi")
        assert sync_threads() == before + 1
    assert sync_threads() == before
    client.close()
    with client:  # it may be used again
        await blocking(client.enqueue, "hi")
    assert sync_threads() == before


async def test_threads_share_a_client_and_its_thread(client: Client, redis: Redis) -> None:
    before = sync_threads()
    jobs = await asyncio.gather(*(blocking(client.enqueue, f"{n}") for n in range(40)))
    assert sync_threads() == before + 1
    assert len({job.id for job in jobs}) == 40
    assert await redis.zcard(PartitionKeys(0).queue("interactive")) == 40


class TestErrors:
    async def test_they_are_the_same(self, client: Client) -> None:
        await blocking(client.enqueue, "hi", idempotency_key="k")
        with pytest.raises(InvalidJob) as invalid:
            await blocking(client.enqueue, "")
        assert invalid.value.field == "prompt"
        with pytest.raises(InvalidJob, match=r"jobs\[1\]"):
            await blocking(client.enqueue_many, ["x", ""])
        with pytest.raises(IdempotencyConflict):
            await blocking(client.enqueue, "ho", idempotency_key="k")
        with pytest.raises(JobNotFound):
            await blocking(client.job, "nonsense")
        unknown = await blocking(client.job, JobKeys.new(0).public_id)
        with pytest.raises(JobNotFound):
            await blocking(unknown.status)
        with pytest.raises(JobNotFound):
            await blocking(lambda: next(unknown.events()))

    async def test_of_waiting(self, client: Client) -> None:
        job = await blocking(client.enqueue, "hi")
        with pytest.raises(ResultTimeout):
            await blocking(job.result, timeout_s=0.05)
        assert (await blocking(job.cancel)).state == "cancelled"
        with pytest.raises(JobCancelled):
            await blocking(job.result)
        with pytest.raises(JobCancelled):
            await blocking(lambda: [*job.text()])

    async def test_without_redis(self) -> None:
        url, patience_s = "redis://:hunter2@127.0.0.1:1", 0.05
        settings = Settings.model_validate({"redis_url": url, "redis_patience_s": patience_s})
        with (
            Client(settings=settings) as client,
            pytest.raises(RedisUnavailable, match="DARKQ_REDIS_URL"),
        ):
            await blocking(client.enqueue, "hi")

    async def test_of_a_wrong_url_and_no_thread_stays(self) -> None:
        before = sync_threads()
        client = Client("http://nonsense")
        with pytest.raises(ConfigurationError):
            await blocking(client.enqueue, "hi")
        assert sync_threads() == before


class TestIterators:
    async def test_left_early_nothing_listens_any_more(
        self, client: Client, redis: Redis, hand: Hand
    ) -> None:
        job = await blocking(client.enqueue, "hi")
        claim = await hand.claim_one()
        await hand.append(claim, started(1), chunk(1, 1, "a"))

        def read_one() -> str:
            for text in job.text():
                return text  # the iterator is dropped in mid-air
            raise AssertionError

        assert await blocking(read_one) == "a"
        await wait_until("nobody to listen", lambda: silent(redis, claim.keys.live))

    async def test_closed_explicitly(self, client: Client, redis: Redis, hand: Hand) -> None:
        job = await blocking(client.enqueue, "hi")
        events: Iterator[Any] = job.events()
        assert (await blocking(next, events)).id == "0-1"
        await blocking(events.close)  # type: ignore[attr-defined]
        await wait_until("nobody to listen", lambda: silent(redis, JobKeys.parse(job.id).live))

    async def test_collected_in_the_background_thread_itself(
        self, client: Client, redis: Redis
    ) -> None:
        """In a reference cycle it is collected wherever the collector happens to run. Red when
        the thread waits there for itself: everything would stand still for ever.
        """
        job = await blocking(client.enqueue, "hi")

        def leave_in_a_cycle() -> None:
            events = job.events()
            next(events)
            cycle: list[Any] = [events]
            cycle.append(cycle)

        gc.disable()
        try:
            await blocking(leave_in_a_cycle)
            portal = client._portal
            assert portal is not None
            portal._loop.call_soon_threadsafe(gc.collect)
            assert (await blocking(job.status)).state == "queued"
        finally:
            gc.enable()
        await wait_until("nobody to listen", lambda: silent(redis, JobKeys.parse(job.id).live))


class TestClosing:
    async def test_a_thread_that_waits_is_told(self, client: Client, redis: Redis) -> None:
        """Red when closing just stops the loop: the thread would wait for ever."""
        job = await blocking(client.enqueue, "hi")
        waiting = asyncio.create_task(blocking(job.result))
        reading = asyncio.create_task(blocking(lambda: [*job.text()]))
        await wait_until("both to wait", lambda: heard(redis, JobKeys.parse(job.id).live))
        await blocking(client.close)
        for task in (waiting, reading):
            # If the client is closed between two calls of a thread, the next call raises this.
            with pytest.raises((CancelledError, asyncio.CancelledError, RuntimeError)):
                await task

    async def test_an_iterator_may_be_left_after_it(self, client: Client) -> None:
        job = await blocking(client.enqueue, "hi")
        events: Iterator[Any] = job.events()
        await blocking(next, events)
        await blocking(client.close)
        await blocking(events.close)  # type: ignore[attr-defined]
        gc.collect()

    async def test_a_handle_works_after_it(self, client: Client) -> None:
        """It asks its client, which connects anew."""
        job = await blocking(client.enqueue, "hi")
        await blocking(client.close)
        assert (await blocking(job.status)).state == "queued"


def in_child(client: Client, job: JobHandle, replies: Any) -> None:
    """What a forked process does with what it inherited."""
    gc.collect()
    new = client.enqueue("from the child")
    replies.put((new.id, new.status().state, job.status().state, next(job.events()).id))
    client.close()
    gc.collect()


async def collected() -> None:
    gc.collect()


def serve_as_a_forked_worker(client: Client, job: JobHandle, replies: Any) -> None:
    """What a worker of a preloaded app does: its requests, and now and then a full collection."""
    try:
        client.enqueue("from the worker")
        client._open().call(collected())  # in the loop's thread, as it happens when most is made
        replies.put((job.status().state, ""))
    except BaseException as error:
        replies.put(("", repr(error)))


def forked(target: Callable[..., None], *args: Any) -> Any:
    child = multiprocessing.get_context("fork").Process(target=target, args=args)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside a thread
        child.start()
    return child


def test_workers_of_a_preloaded_app_do_their_parent_no_harm(redis_server: Server) -> None:
    """As gunicorn --preload: the app makes its client and uses it, then forks; so does the parent.

    Red when the child drops the portal that it has inherited: collected there, its sockets leave
    the selector of the parent, which then waits without end.
    """
    settings = Settings.model_validate({"redis_url": redis_server.url, "redis_timeout_s": 60})
    with Client(settings=settings) as client:
        job = client.enqueue("from the parent")
        replies = multiprocessing.get_context("fork").Queue()
        workers = [forked(serve_as_a_forked_worker, client, job, replies) for _ in range(3)]
        assert [replies.get(timeout=20) for _ in workers] == [("queued", "")] * 3
        for worker in workers:
            worker.join(20)
        begun_s = time.monotonic()
        assert job.status().state == "queued"
        assert time.monotonic() - begun_s < 30, "else it waits for the timeout"
        client._open().call(asynchronously_flush(client))


async def asynchronously_flush(client: Client) -> None:
    await client._open().client._redis.flushall()


def test_a_fork_while_another_thread_opens_the_client(redis_server: Server) -> None:
    """Red without a new lock in the child: the thread that holds it is not there."""
    settings = Settings.model_validate({"redis_url": redis_server.url})
    with Client(settings=settings) as client:
        job = client.enqueue("from the parent")
        replies = multiprocessing.get_context("fork").Queue()
        with client._lock:
            worker = forked(serve_as_a_forked_worker, client, job, replies)
        assert replies.get(timeout=20) == ("queued", "")
        worker.join(20)
        client._open().call(asynchronously_flush(client))


def go_on_with(iterator: Iterator[str], replies: Any) -> None:
    try:
        next(iterator)
    except RuntimeError as error:
        replies.put(str(error))


def test_an_iterator_of_the_parent_is_refused_in_the_child(redis_server: Server) -> None:
    settings = Settings.model_validate({"redis_url": redis_server.url})
    with Client(settings=settings) as client:
        job = client.enqueue("from the parent")
        events = job.events()
        assert next(events).id == "0-1"
        replies = multiprocessing.get_context("fork").Queue()
        child = forked(go_on_with, events, replies)
        assert "parent process" in replies.get(timeout=20)
        child.join(20)
        client._open().call(asynchronously_flush(client))


def test_a_forked_child_has_connections_of_its_own(redis_server: Server) -> None:
    """As under gunicorn; also for a handle that it inherited. The parent goes on reading."""
    settings = Settings.model_validate({"redis_url": redis_server.url})
    fork = multiprocessing.get_context("fork")
    with asyncio.Runner() as worker, Client(settings=settings) as client:
        redis = Redis.from_url(redis_server.url)
        worker.run(redis.flushall())
        hand = Hand(redis)
        job = client.enqueue("from the parent")
        claim = worker.run(hand.claim_one())
        texts: list[str] = []
        reader = threading.Thread(target=lambda: texts.extend(job.text()), daemon=True)
        reader.start()
        worker.run(hand.append(claim, started(1), chunk(1, 1, "before ")))
        _wait(lambda: texts == ["before "])
        replies = fork.Queue()
        child = fork.Process(target=in_child, args=(client, job, replies))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside a thread
            child.start()
        try:
            child_id, *states = replies.get(timeout=20)
            child.join(20)
            assert child.exitcode == 0
        finally:
            child.kill()
        assert states == ["queued", "running", "0-1"]
        assert client.job(child_id).status().state == "queued"
        worker.run(hand.append(claim, chunk(1, 2, "after")))
        _wait(lambda: "".join(texts) == "before after")
        worker.run(hand.complete(claim, "before after", Cursor(1, 3)))
        reader.join(10)
        assert not reader.is_alive()
        assert client.enqueue_many([Job.create("and more")])[0].status().state == "queued"
        worker.run(redis.aclose())


def _wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)
