"""The handle of one job, for producers and readers."""

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
from darkq.event import (
    PIECES,
    START,
    AnyEvent,
    Cancelled,
    Chunk,
    Cursor,
    Failed,
    Piece,
    Started,
)
from darkq.jobs import cancel as cancellation
from darkq.jobs import failed as failures
from darkq.jobs.status import Status, read_request, read_status
from darkq.jobs.tail import EventBatch, find_latest_attempt, read_history, read_last_cursor, tail
from darkq.jobs.tickets import Tickets
from darkq.protocol.job import Job
from darkq.protocol.keys import JobKeys
from darkq.protocol.output import Output
from darkq.protocol.record import KeptRequest, read_result
from darkq.protocol.result import Result, build_result
from darkq.protocol.ticket import DEFAULT_TTL_S
from darkq.redis import scripts
from darkq.redis.pool import speaking_darkq
from darkq.redis.pubsub import Live
from darkq.settings.settings import Settings


class JobHandle:
    """A job by its id. Cheap to create; every method reads from Redis.

    After `enqueue` with an idempotency key, `duplicate` is True if the job already existed.
    """

    def __init__(
        self,
        keys: JobKeys,
        redis: Redis,
        live: Live,
        settings: Settings,
        tickets: Tickets,
        *,
        duplicate: bool = False,
    ) -> None:
        self._keys = keys
        self._redis = redis
        self._live = live
        self._settings = settings
        self._tickets = tickets
        self.duplicate = duplicate
        self._output: Output | None = None

    def with_output(self, output: Output | None) -> JobHandle:
        """Set the type of `Result.parsed`, and return this handle."""
        self._output = output
        return self

    @property
    def id(self) -> str:
        """The public id: with it, any process can read the job."""
        return self._keys.public_id

    async def events(
        self, after: str | None = None, *, compact: bool = False
    ) -> AsyncGenerator[AnyEvent, None]:
        """Yield the job's events in order, each once, to the terminal one.

        `after` is the id of the last event seen, exclusive. Past events come first; with `compact`,
        up to 256 pieces of one kind are merged into one. A reader may stop at any time, and resume
        with the id of its last event. Raises `ValueError` for an
        invalid `after`, `JobNotFound`, `CursorGone`, and `RedisUnavailable` if Redis does not
        answer within the retries.
        """
        async with aclosing(self.event_batches(after, compact=compact)) as batches:
            async for batch in batches:
                for event in batch:
                    yield event

    def event_batches(
        self, after: str | None = None, *, compact: bool = False
    ) -> AsyncGenerator[EventBatch, None]:
        """Yield the events of `events` in batches, as many as are available.

        For callers that forward them: a batch needs one write.
        """
        cursor = Cursor.parse(after) if after else START
        return tail(self._redis, self._live, self._keys, cursor, compact=compact)

    def history(
        self, after: str | None = None, *, compact: bool = False
    ) -> AsyncGenerator[list[AnyEvent], None]:
        """Yield the events that the log has now after a cursor, without waiting for more.

        Raises `ValueError` for an invalid `after`, `JobNotFound`, `CursorGone`, `RedisUnavailable`.
        """
        cursor = Cursor.parse(after) if after else START
        return read_history(self._redis, self._keys, cursor, compact=compact)

    async def latest_event(self) -> str:
        """Return the id of the job's last event until now: an `after` that skips all past events.

        Raises `JobNotFound`, `RedisUnavailable`.
        """
        async with speaking_darkq():
            last = await read_last_cursor(self._redis, self._keys)
            if last == START:  # no log, or no such job
                await read_status(self._redis, self._keys)
            return str(last)

    async def latest_attempt(self) -> str:
        """Return a cursor before the latest attempt: an `after` that skips all invalid text.

        Between two attempts, the next event is `retrying`, with the reason and the delay. Raises
        `JobNotFound` if a job that ran is lost, `RedisUnavailable`.
        """
        async with speaking_darkq():
            return str(await find_latest_attempt(self._redis, self._keys))

    async def text(self, after: str | None = None) -> AsyncGenerator[str, None]:
        """Yield the text of the answer as it arrives, from the start of the latest attempt.

        Never mixes two attempts: if a new one begins after text was yielded, raises
        `AttemptSuperseded`. Then discard that text and continue with `text(after=error.cursor)`.
        Ends when the answer is complete. Raises `JobFailed`, `JobCancelled`, and the errors of
        `events`.
        """
        async with aclosing(self.parts(after)) as parts:
            async for part in parts:
                if isinstance(part, Chunk) and part.text:
                    yield part.text

    async def parts(self, after: str | None = None) -> AsyncGenerator[Piece, None]:
        """Yield the pieces of the answer: `Chunk`, `Reasoning`, `ToolCall` and `Refusal`.

        Otherwise the same as `text`, and with the same errors.
        """
        cursor = Cursor.parse(after or await self.latest_attempt())
        # A caller with a cursor inside an attempt has had the pieces before it.
        given = bool(after) and cursor.attempt > 0 and cursor.seq > 0
        async with aclosing(self.event_batches(str(cursor))) as batches:
            async for batch in batches:
                for event in batch:
                    if isinstance(event, PIECES):
                        given = True
                        yield event
                    elif isinstance(event, Started) and given:
                        raise AttemptSuperseded(event.attempt, event.id)
                    elif isinstance(event, Failed):
                        raise JobFailed(self.id, event.code, event.message)
                    elif isinstance(event, Cancelled):
                        raise JobCancelled(self.id)

    async def result(self, timeout_s: float | None = None) -> Result:
        """Wait for the answer and return it.

        Raises `JobFailed`, `JobCancelled`, `JobNotFound`, `RedisUnavailable`, or `ResultTimeout`
        after `timeout_s` seconds. A timeout or a cancellation of this call does not stop the job.
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
        """Return the job's status. Raises `JobNotFound`."""
        async with speaking_darkq():
            return await read_status(self._redis, self._keys)

    async def cancel(self) -> Status:
        """Cancel the job, or request its worker to cancel it, and return the new status.

        A waiting job is cancelled at once. A running one is `cancelling` until its worker has
        closed the upstream's connection. A finished one does not change. May be repeated. Raises
        `JobNotFound`.
        """
        async with speaking_darkq():
            ttl_s = self._settings.result_ttl_s
            await cancellation.cancel(self._redis, self._keys, result_ttl_s=ttl_s)
            return await read_status(self._redis, self._keys)

    async def retry(self) -> Status:
        """Return a failed job to its queue, and return the new status.

        Its tries start from 0, its attempt numbers continue, and readers with any cursor continue
        with a `queued` event. Raises `CannotRetry` for a job that has not failed or whose prompt is
        no longer kept (`DARKQ_FAILED_TTL_S`), `QueueFull`, `JobNotFound`, `RedisUnavailable`.
        """
        async with speaking_darkq():
            await failures.retry(self._redis, self._keys, self._settings)
            return await read_status(self._redis, self._keys)

    async def kept_job(self) -> Job:
        """Return the job that `retry` would queue. Raises `CannotRetry`, `CorruptRecord`."""
        async with speaking_darkq():
            return await failures.kept_job(self._redis, self._keys)

    async def kept_request(self) -> KeptRequest | None:
        """Return the prompt and the parameters; None if the job has ended and they are not kept.

        Raises `JobNotFound`, `CorruptRecord`.
        """
        async with speaking_darkq():
            return await read_request(self._redis, self._keys)

    async def delete(self) -> None:
        """Delete a finished job with its result and its events.

        Raises `JobUnfinished`, `JobNotFound`, `RedisUnavailable`.
        """
        keys = self._keys
        async with speaking_darkq():
            if not await scripts.forget(self._redis, keys):
                await read_status(self._redis, keys)
                raise JobUnfinished(self.id)

    async def ticket(
        self, *, ttl_s: float = DEFAULT_TTL_S, cancel: bool = False, tenant: str | None = None
    ) -> str:
        """Return a ticket: with `?ticket=` a page can read this job from a gateway, without a key.

        With `cancel` the page can cancel the job, too. With a `tenant` the ticket opens nothing
        unless the job belongs to that tenant. A ticket cannot be revoked; it ends after `ttl_s`
        seconds, at most 7 days. Does not call Redis, except for the client's first ticket in a
        minute if `DARKQ_TICKET_SECRETS` is not set. Raises `InvalidJob` for an invalid `ttl_s`,
        `RedisUnavailable`.
        """
        return await self._tickets.make_for(self.id, ttl_s=ttl_s, cancel=cancel, tenant=tenant)

    async def _wait(self) -> Result:
        """Wait for the end without reading the earlier events."""
        ended = False
        while (result := await self._read_stored()) is None:
            if ended:  # the result expired before the log, or the job was retried
                await self.status()
            async with speaking_darkq():
                last = await read_last_cursor(self._redis, self._keys)
            with suppress(CursorGone):  # the log is lost, but the result may exist
                async with aclosing(self.event_batches(str(last))) as batches:
                    async for _ in batches:
                        pass
                ended = True
        return result

    async def _read_stored(self) -> Result | None:
        async with speaking_darkq():
            record = await self._redis.get(self._keys.result)
        if record is None:
            return None
        return build_result(read_result(record, self._keys)).with_output(self._output)

    def __repr__(self) -> str:
        return f"JobHandle({self.id!r})"
