"""A worker played by hand: one script call each, with the arguments a real one would send."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import msgspec
from msgspec import UNSET, UnsetType
from redis.asyncio import Redis

from darkq import event as ev
from darkq.event import AnyEvent, Cursor
from darkq.protocol.history import pack
from darkq.protocol.job import Job, Priority
from darkq.protocol.keys import JobKeys, PartitionKeys
from darkq.protocol.record import (
    Arguments,
    Details,
    Failure,
    History,
    JobRecord,
    ResultRecord,
    Stretch,
    encode,
)
from darkq.redis import scripts
from darkq_worker.leases import Claim, Leases

TTL_MS = 60_000


class Receipt(NamedTuple):
    verdict: str
    arq_id: str


async def put(
    redis: Redis,
    *jobs: JobKeys,
    record: bytes = b"record",
    priority: Priority = "interactive",
    key: str = "",
    digest: str = "",
    ttl_ms: int = TTL_MS,
    limit: int = 1_000_000,
) -> list[Receipt]:
    """Enqueue jobs of one partition in one call."""
    receipts = await scripts.enqueue(
        redis,
        [
            scripts.NewJob(job, priority, None, record, key if digest else None, digest)
            for job in jobs
        ],
        event=ev.encode(ev.Queued(id="0-1", at_ms=1)),
        job_ttl_s=ttl_ms / 1000,
        queue_max_jobs=limit,
        max_listed=1000,
    )
    return [Receipt(outcome, keys.arq_id) for outcome, keys in receipts]


class Hand:
    """Enqueues, claims, writes and ends jobs of partition 0, one script call at a time."""

    def __init__(self, redis: Redis, worker_id: str = "hand", *, lease_s: float = 30.0) -> None:
        self.redis = redis
        self.leases = Leases(redis, worker_id, lease_s=lease_s, job_ttl_s=TTL_MS / 1000)

    async def enqueue(self, prompt: str = "hello", priority: Priority = "interactive") -> JobKeys:
        keys = JobKeys.new(0)
        record = JobRecord(k=Arguments(Job.create(prompt, priority=priority)), et=1)
        await put(self.redis, keys, record=encode(record), priority=priority)
        return keys

    async def claim(self, slots: int = 1000, bulk_slots: int = 1000) -> list[Claim]:
        claims, _ = await self.leases.claim(0, slots=slots, bulk_slots=bulk_slots)
        return claims

    async def claim_one(self) -> Claim:
        (claim,) = await self.claim(slots=1)
        return claim

    async def take(self) -> Claim:
        """Enqueue a job and claim it."""
        keys = await self.enqueue()
        claim = await self.claim_one()
        assert claim.keys == keys
        return claim

    async def append(self, claim: Claim, *events: AnyEvent) -> list[int]:
        """Return the numbers of the events that were refused."""
        return await scripts.append(self.redis, [(claim.keys, entries(events))])

    async def finish(
        self,
        claim: Claim,
        *events: AnyEvent,
        result: bytes = b"result",
        ttl_ms: int = TTL_MS,
        has_history: bool = False,
    ) -> bool:
        return await scripts.finish(
            self.redis,
            claim,
            entries(events),
            result=result,
            result_ttl_s=ttl_ms / 1000,
            has_history=has_history,
        )

    async def release(
        self,
        claim: Claim,
        *events: AnyEvent,
        delay_ms: int | None = None,
        queued_at_ms: int = 1,
        burns: bool = False,
    ) -> bool:
        return await scripts.release(
            self.redis,
            claim,
            entries(events),
            delay_s=None if delay_ms is None else delay_ms / 1000,
            queued_at_ms=queued_at_ms,
            burns_try=burns,
            job_ttl_s=TTL_MS / 1000,
        )

    async def complete(
        self, claim: Claim, text: str, at: Cursor, *, history: History | UnsetType = UNSET
    ) -> ResultRecord:
        """End a job as a worker does whose upstream said that the answer is complete.

        Without a history it is a worker of a version before there were any.
        """
        record = result_record(claim.keys, text, attempt=claim.attempt, queue=claim.queue)
        record = msgspec.structs.replace(record, h=history)
        event = ev.Completed(id=str(at), at_ms=record.ft)
        assert await self.finish(
            claim, event, result=encode(record), has_history=history is not UNSET
        )
        return record

    async def fail(self, claim: Claim, at: Cursor, *, ttl_ms: int = TTL_MS) -> bytes:
        """End a job as a worker does whose upstream refused; return the result record."""
        keys = claim.keys
        failure = Failure(type="JobFailed", code="rejected", message="no")
        record = result_record(keys, failure, attempt=claim.attempt, queue=claim.queue)
        event = ev.Failed(id=str(at), code=failure.code, message=failure.message, at_ms=record.ft)
        result = encode(record)
        assert await scripts.finish(
            self.redis,
            claim,
            entries([event]),
            result=result,
            result_ttl_s=ttl_ms / 1000,
            failed=True,
        )
        return result


def result_record(
    keys: JobKeys,
    answer: str | Failure,
    *,
    attempt: int = 1,
    queue: str = PartitionKeys(0).queue("interactive"),
) -> ResultRecord:
    outcome = "completed"
    if isinstance(answer, Failure):
        outcome = "cancelled" if answer.type == "JobCancelled" else "failed"
    return ResultRecord(
        t=attempt,
        et=1,
        s=outcome == "completed",
        r=answer,
        st=2,
        ft=3,
        q=queue,
        id=keys.arq_id,
        d=Details(outcome=outcome, finish_reason="stop", chunks=1),  # type: ignore[arg-type]
    )


def history_of(events: Sequence[AnyEvent]) -> History:
    """The history of an attempt that wrote `started` and chunks of one piece each."""
    first, *chunks = events
    sizes = [len(each.text) for each in chunks if isinstance(each, ev.Chunk)]
    stretches = (Stretch("chunk", 0, pack(sizes)),) if sizes else ()
    return History(started=msgspec.Raw(ev.encode(first)), stretches=stretches)


def started(attempt: int) -> ev.Started:
    return ev.Started(id=f"{attempt}-0", attempt=attempt, model="m", upstream="u", at_ms=1)


def chunk(attempt: int, seq: int, text: str = "x") -> ev.Chunk:
    return ev.Chunk(id=f"{attempt}-{seq}", text=text)


async def event_ids(redis: Redis, keys: JobKeys) -> list[str]:
    """The ids of everything in a job's event log."""
    return [entry_id.decode() for entry_id, _ in await redis.xrange(keys.events)]


async def gone(redis: Redis, name: str) -> bool:
    """Whether a key is not there, or not any more."""
    return bool(await redis.exists(name) == 0)


async def silent(redis: Redis, *channels: str) -> bool:
    """Whether nobody listens to any of the channels."""
    return not any(count for _, count in await redis.pubsub_numsub(*channels))


async def heard(redis: Redis, channel: str) -> bool:
    """Whether somebody listens to a channel."""
    return not await silent(redis, channel)


async def snapshot(redis: Redis) -> dict[bytes, bytes]:
    """Everything in Redis, to compare before and after."""
    return {key: await redis.dump(key) for key in sorted(await redis.keys("*"))}


WOKEN = PartitionKeys(0).wake_worker("sleeper")
"""The channel of a worker that `asleep` notes."""


async def asleep(
    redis: Redis, *workers: str, priority: Priority = "interactive", free: int = 1
) -> None:
    """Note workers with room for jobs, as `claim` does."""
    name = PartitionKeys(0).idle(priority)
    await redis.zadd(name, dict.fromkeys(workers or ("sleeper",), -free))
    await redis.pexpire(name, TTL_MS)


class Ear:
    """Hears channels, on a connection of its own."""

    def __init__(self, redis: Redis, *channels: str) -> None:
        self._redis = redis
        self._channels = channels
        self._pubsub = redis.pubsub(ignore_subscribe_messages=True)

    async def __aenter__(self) -> Ear:
        await self._pubsub.subscribe(*self._channels)
        await self.heard()
        return self

    async def __aexit__(self, *_: object) -> None:
        await cast(Any, self._pubsub).aclose()

    async def heard(self) -> list[tuple[str, bytes]]:
        """Return channel and message of all that was published since the last call."""
        end = secrets.token_bytes(16)
        await self._redis.publish(self._channels[0], end)
        messages: list[tuple[str, bytes]] = []
        while True:
            message = await self._pubsub.get_message(timeout=5)
            if message is None:
                continue  # the reply to SUBSCRIBE
            if message["data"] == end:
                return messages
            messages.append((message["channel"].decode(), message["data"]))


def entries(events: Sequence[AnyEvent]) -> list[tuple[str, bytes]]:
    """Events as the scripts take them: each with its id in the log."""
    return [(event.id, ev.encode(event)) for event in events]
