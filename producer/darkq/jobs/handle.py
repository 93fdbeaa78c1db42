"""One job, from a producer's or a reader's side."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress

from redis.asyncio import Redis

from darkq.errors import (
    AttemptSuperseded,
    CursorGone,
    JobCancelled,
    JobFailed,
    JobUnfinished,
    ResultTimeout,
)
from darkq.event import START, AnyEvent, Cancelled, Chunk, Cursor, Failed, Started
from darkq.jobs import cancel as cancellation
from darkq.jobs import failed as failures
from darkq.jobs.status import Status, read_status
from darkq.jobs.tail import EventBatch, history, last_cursor, latest_attempt, tail
from darkq.protocol.job import Job
from darkq.protocol.keys import JobKeys
from darkq.protocol.record import Result, read_result, result_of
from darkq.redis import scripts
from darkq.redis.pool import speaking_darkq
from darkq.redis.pubsub import Live
from darkq.settings.settings import Settings


class JobHandle:
    """A job by its id. Cheap to make; every method asks Redis.

    `duplicate` tells, after `enqueue` with an idempotency key, that the job was there before.
    """

    def __init__(
        self,
        keys: JobKeys,
        redis: Redis,
        live: Live,
        settings: Settings,
        *,
        duplicate: bool = False,
    ) -> None:
        self._keys = keys
        self._redis = redis
        self._live = live
        self._settings = settings
        self.duplicate = duplicate

    @property
    def id(self) -> str:
        """The public id: keep it, and come back from any process."""
        return self._keys.public_id

    async def events(self, after: str | None = None) -> AsyncGenerator[AnyEvent, None]:
        """Yield the job's events in order, each once, to the terminal one.

        `after` is the id of the last event seen, exclusive. Late readers get the past first.
        Raises `ValueError` for an `after` that is no cursor, `JobNotFound`, `CursorGone`, and
        `RedisUnavailable` when Redis is away for longer than the retries. Leave at any time,
        and come back with the last id.
        """
        async with aclosing(self.event_batches(after)) as batches:
            async for batch in batches:
                for event in batch:
                    yield event

    def event_batches(self, after: str | None = None) -> AsyncGenerator[EventBatch, None]:
        """Yield what `events` yields, as many at once as there are.

        For callers that hand them on: a batch is written in one go.
        """
        return tail(self._redis, self._live, self._keys, Cursor.parse(after) if after else START)

    def history(self) -> AsyncGenerator[list[AnyEvent], None]:
        """Yield what the log holds now, from its beginning, without waiting for more.

        Raises `JobNotFound`, `CursorGone`, `RedisUnavailable`.
        """
        return history(self._redis, self._keys)

    async def latest_attempt(self) -> str:
        """Return where the latest attempt begins: an `after` that passes over all void text.

        Between two attempts, the first event after it is the `retrying` that says why and how
        long the job waits. Raises `JobNotFound` when a job that ran is lost, `RedisUnavailable`.
        """
        async with speaking_darkq():
            return str(await latest_attempt(self._redis, self._keys))

    async def text(self, after: str | None = None) -> AsyncGenerator[str, None]:
        """Yield the answer as it comes, beginning with the latest attempt's first word.

        Never joins two attempts: when a new one begins after text has been given out, raises
        `AttemptSuperseded`; discard that text and go on with `text(after=error.cursor)`. Ends
        when the answer is complete. Raises `JobFailed`, `JobCancelled`, and what `events`
        raises.
        """
        cursor = Cursor.parse(after or await self.latest_attempt())
        # Whoever comes with a cursor has had the text before it, if there was any.
        given = bool(after) and cursor.attempt > 0 and cursor.seq > 0
        async with aclosing(self.event_batches(str(cursor))) as batches:
            async for batch in batches:
                for event in batch:
                    if isinstance(event, Chunk):
                        given = True
                        yield event.text
                    elif isinstance(event, Started) and given:
                        raise AttemptSuperseded(event.attempt, event.id)
                    elif isinstance(event, Failed):
                        raise JobFailed(self.id, event.code, event.message)
                    elif isinstance(event, Cancelled):
                        raise JobCancelled(self.id)

    async def result(self, timeout_s: float | None = None) -> Result:
        """Wait for the answer and return it.

        Raises `JobFailed`, `JobCancelled`, `JobNotFound`, `RedisUnavailable`, or `ResultTimeout`
        after `timeout_s` seconds; the job goes on then, as it does when this is cancelled.
        """
        deadline = asyncio.timeout(timeout_s)
        try:
            async with deadline:
                return await self._wait()
        except TimeoutError:
            if timeout_s is None or not deadline.expired():
                raise
            raise ResultTimeout(self.id, timeout_s) from None

    async def status(self) -> Status:
        """Return where the job stands now. Raises `JobNotFound`."""
        async with speaking_darkq():
            return await read_status(self._redis, self._keys)

    async def cancel(self) -> Status:
        """Cancel the job, or ask its worker to, and return where it stands now.

        A waiting job is gone at once. A running one is `cancelling` until its worker has
        closed the upstream's connection. A finished one stays what it is. May be repeated.
        Raises `JobNotFound`.
        """
        async with speaking_darkq():
            ttl_s = self._settings.result_ttl_s
            await cancellation.cancel(self._redis, self._keys, result_ttl_s=ttl_s)
            return await read_status(self._redis, self._keys)

    async def retry(self) -> Status:
        """Run the job again, which has failed, and return where it stands now.

        Its tries begin anew, its attempts count on, and readers with any cursor go on with a
        `queued` event. Raises `CannotRetry` for a job that has not failed or whose prompt is not
        kept any more (`DARKQ_FAILED_TTL_S`), `QueueFull`, `JobNotFound`, `RedisUnavailable`.
        """
        async with speaking_darkq():
            await failures.retry(self._redis, self._keys, self._settings)
            return await read_status(self._redis, self._keys)

    async def kept_job(self) -> Job:
        """Return the job that `retry` would run. Raises `CannotRetry`, `CorruptRecord`."""
        async with speaking_darkq():
            return await failures.kept_job(self._redis, self._keys)

    async def delete(self) -> None:
        """Forget the job, which has ended: result, events and all.

        Raises `JobUnfinished`, `JobNotFound`, `RedisUnavailable`.
        """
        keys = self._keys
        async with speaking_darkq():
            if not await scripts.forget(self._redis, keys):
                await read_status(self._redis, keys)
                raise JobUnfinished(self.id)

    async def _wait(self) -> Result:
        """Wait for the end without reading the text on the way."""
        ended = False
        while (result := await self._stored()) is None:
            if ended:  # the log has outlived the result, or the job is run again
                await self.status()
            async with speaking_darkq():
                last = await last_cursor(self._redis, self._keys)
            with suppress(CursorGone):  # the log is lost, but the result may be there
                async with aclosing(self.event_batches(str(last))) as batches:
                    async for _ in batches:
                        pass
                ended = True
        return result

    async def _stored(self) -> Result | None:
        async with speaking_darkq():
            record = await self._redis.get(self._keys.result)
        return result_of(read_result(record, self._keys)) if record is not None else None

    def __repr__(self) -> str:
        return f"JobHandle({self.id!r})"
