"""A batch: many prompts as one unit that can be interrupted, resumed, followed and cancelled.

    async with client.batch(name="reviews") as batch:
        async for finished in batch.run(rows):
            print(finished.number, finished.result)

One process runs a batch: it adds lines and takes their ends. At most `window` lines are
outstanding, so the memory in Redis does not depend on the length of the input. The id of a line's
job is derived from the batch and the line's number, so adding a line again changes nothing.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Container, Iterable, Mapping, Sequence
from contextlib import aclosing, suppress
from functools import partial
from typing import Self

from redis.asyncio import Redis

from darkq.batches import lease as batch_control
from darkq.batches import results as batch_ends
from darkq.batches.feed import Columns, Feed, Row, row_to_line, rows_to_lines
from darkq.batches.lease import BatchLease, Part
from darkq.batches.lines import ForAllLines, Line
from darkq.batches.results import Feeding, Finished, LineEnded, Position, take_ends
from darkq.batches.status import BatchStatus, read_batch
from darkq.batches.tail import SILENCE_S, BatchCursor, BatchTail, LineEvent
from darkq.errors import BatchClosed, CursorGone
from darkq.jobs.enqueue import Enqueuer
from darkq.jobs.mailbox import Mailbox
from darkq.jobs.tickets import Tickets
from darkq.protocol.job import Job
from darkq.protocol.keys import BatchKeys
from darkq.protocol.prompt import Prompt
from darkq.protocol.ticket import DEFAULT_TTL_S
from darkq.redis.durability import replicated
from darkq.redis.pool import speaking_darkq
from darkq.redis.pubsub import Live
from darkq.settings.settings import Settings

FOR_ALL = ForAllLines()
COLUMNS = Columns()


class Batch:
    """A batch by its id. As a context manager it is the runner, which adds lines and takes ends.

    Without entering it, any process may call `status()`, `events()`, `tail()` and `cancel()`.
    """

    def __init__(
        self,
        keys: BatchKeys,
        redis: Redis,
        live: Live,
        orders: Enqueuer,
        settings: Settings,
        tickets: Tickets,
        made_with: Mapping[str, str | int] | None,
    ) -> None:
        """Use the fields of a new batch, see `describe_batch`, or None for an existing one."""
        ttl_s = 2 * max(settings.job_ttl_s, settings.result_ttl_s, settings.failed_ttl_s)
        self._keys = keys
        self._redis = redis
        self._live = live
        self._settings = settings
        self._tickets = tickets
        self._lease = BatchLease(redis, keys, ttl_s=ttl_s)
        self._feed = Feed(keys, orders)
        self._closed = False
        self._made_with = made_with

    @property
    def id(self) -> str:
        """The public id, with which any process can resume the batch."""
        return self._keys.public_id

    @property
    def runner(self) -> str:
        """The token of this handle's lease, once entered: `<host>:<pid>:<random>`."""
        return self._lease.token

    async def __aenter__(self) -> Self:
        """Become the batch's runner. Raises `BatchTaken`, `BatchNotFound`, `RedisUnavailable`.

        When the lease is lost later, to another process or with the batch, the task that entered
        is cancelled, and the block ends with `BatchTaken` or `BatchNotFound`.
        """
        await self._lease.take(self._made_with)
        status = await self.status()
        self._feed.go_on_from(status)
        self._closed = status.total is not None
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._lease.leave()

    async def add_many(self, lines: Iterable[Line]) -> None:
        """Store lines in order, a few hundred per round trip; wait for room in the window.

        Lines that exist or have ended are left unchanged. Raises `InvalidLine`, `BatchFull` when
        no task takes results, `BatchClosed`, `BatchNotFound`, `RedisUnavailable`. After a
        cancellation, some lines may have been stored.
        """
        self._run_by_us()
        await self._feed.put(lines)

    async def add(self, prompt: Prompt | Job, custom_id: str | None = None) -> int:
        """Store one line after the last one, and return its number. Raises as `add_many`.

        Each call is a round trip and stores another line. `run` and `add_many` are idempotent.
        """
        number = self._feed.last_line + 1
        row = {"prompt": prompt, "custom_id": custom_id}
        await self.add_many([row_to_line(row, number, COLUMNS, FOR_ALL)])
        return number

    async def close_input(self, *, least: int = 0) -> bool:
        """Close the input: the batch is completed when all its lines have ended.

        Returns False and changes nothing if Redis has fewer than `least` lines: it has lost some
        in a failover or a crash. Then add all again; existing lines stay unchanged. Raises
        `BatchNotFound`, `RedisUnavailable`.
        """
        self._run_by_us()
        async with speaking_darkq():
            done = await batch_control.close_input(self._redis, self._keys, least=least)
        self._closed = self._closed or done
        return done

    async def collected(self) -> AsyncGenerator[list[Finished], None]:
        """Yield the ends of lines in pages: first those not acknowledged, then new ones.

        A page has up to 200 ends and a megabyte of results, or a single larger result. Store
        each page, pass it to `acknowledge`, then ask for the next. The generator ends when the
        input is closed or the batch cancelled, and no line is unfinished. Raises
        `BatchNotFound`, `RedisUnavailable`. Raises `CursorGone` when Redis has lost ends that were
        yielded, or that the input was closed: add all lines again, then call this again.
        """
        self._run_by_us()
        async with speaking_darkq():
            after = await batch_ends.acknowledged(self._redis, self._keys)
            with self._feed.reader():
                async with aclosing(self._ends(after)) as pages:
                    async for ends in pages:
                        for part in await batch_ends.split_by_size(self._redis, ends):
                            yield await batch_ends.read_results(self._redis, part)
                            self._feed.reading()  # another task may ask for the next page

    async def acknowledge(
        self, page: Sequence[Finished], *, part: Part | None = None, keep: Container[int] = ()
    ) -> None:
        """Delete the results of these lines from Redis; the lines will not run again.

        Results of the lines whose numbers are in `keep` stay as long as those of any other job.

        Pages are acknowledged in the order of `collected`. `missing` lines may be added again
        after this. A `part` is recorded in the same step. Raises `BatchTaken` when another process
        has the lease, `BatchNotFound`, `RedisUnavailable`; then nothing was changed, or all.
        Raises `CursorGone` when Redis has lost some of these ends, in a failover or a crash. Then
        those before the first lost one are acknowledged, with a `part` none; call `collected`
        again.
        """
        self._run_by_us()
        if not page:
            return
        async with speaking_darkq():
            count = await batch_control.acknowledge(
                self._redis, self._keys, self._lease, page, part, keep
            )
        self._feed.forget(end.number for end in page[:count] if end.outcome != "missing")
        if count < len(page):
            raise CursorGone(self.id, page[count].cursor)

    async def answered_lines(self) -> bytes:
        """Return one bit per line, the highest first: whether its end is acknowledged."""
        async with speaking_darkq():
            return await self._redis.get(self._keys.acknowledged) or b""

    def results(self, *, after: str | None = None) -> AsyncGenerator[Finished, None]:
        """Yield the ends of lines, and acknowledge those that were taken.

        An end is taken when the next one is requested. A process that crashes gets up to a page of
        them again. To avoid that, store the `cursor` of each end together with its result, and
        pass the last one as `after`. Raises `ValueError` for an invalid cursor, and what
        `collected` and `acknowledge` raise.
        """
        return take_ends(self, after)

    def run(
        self,
        rows: Iterable[Row] | AsyncIterable[Row],
        *,
        columns: Columns = COLUMNS,
        common: ForAllLines = FOR_ALL,
        after: str | None = None,
    ) -> AsyncGenerator[Finished, None]:
        """Add rows, close the input, and yield the ends of their lines as `results` does.

        Rows are prompts, `Job`s, dicts, named tuples or `Line`s, from any iterable or async
        iterable. They are pulled as there is room, and those of a window are kept in memory. Called
        again with the same rows, it continues where it was; `after` as in `results`. A line whose
        result expired before it was taken runs again. When Redis loses its latest writes, in
        a failover or a crash, lost lines are added again, and an end whose acknowledgement was lost
        may be yielded by the next call again. When too few replicas confirm a write in time, it is
        tried again for five minutes. Raises what `add_many` and `results` raise, except
        `CursorGone`.
        """
        add_all = partial(self._feed_all, rows, columns, common)
        feeding = Feeding(add_all, self._feed_again, self._feed.put_again)
        return take_ends(self, after, feeding)

    async def events(self, after: str | None = None) -> AsyncGenerator[LineEnded, None]:
        """Yield the end of each line in order, once, until the batch ends. From any process.

        `after` is the cursor of the last end seen. "0" means all; None means those that are kept,
        the last ten thousand acknowledged ones, and all later ones. Raises `ValueError` for an
        invalid cursor, `CursorGone` for one too far back, `BatchNotFound`, `RedisUnavailable`.
        """
        start = BatchCursor.parse(after).ends if after is not None else None
        async with speaking_darkq(), aclosing(self._ends(start)) as pages:
            async for ends in pages:
                for end in ends:
                    yield end

    async def tail(self, after: str | None = None) -> AsyncGenerator[LineEvent | LineEnded, None]:
        """Yield what `events` yields, and before each end the events of the line's job.

        Each event is yielded once, in order within a line, except for `queued`. Redis has them
        until the end is acknowledged. Cursors of `events` and `tail` are interchangeable. Those of
        `tail` also contain the position in each unfinished line, so their length grows with the
        number of those. Raises what `events` raises.
        """
        cursor = BatchCursor.parse(after) if after is not None else None
        items = BatchTail(self._redis, self._live, self._keys, cursor).items()
        async with speaking_darkq(), aclosing(items):
            async for item in items:
                yield item

    async def status(self) -> BatchStatus:
        """Return the batch's state and counts. Raises `BatchNotFound`, `RedisUnavailable`."""
        async with speaking_darkq():
            return await read_batch(self._redis, self._keys)

    async def cancel(self) -> BatchStatus:
        """Cancel the batch, and each of its jobs that has not ended. Idempotent.

        The batch is `cancelling` until the workers have stopped its running jobs. Raises
        `BatchNotFound`, `RedisUnavailable`. If this call itself is cancelled, repeat it.
        """
        async with speaking_darkq():
            ttl_s = self._settings.result_ttl_s
            await batch_control.cancel(self._redis, self._keys, result_ttl_s=ttl_s)
            return await read_batch(self._redis, self._keys)

    async def ticket(
        self, *, ttl_s: float = DEFAULT_TTL_S, cancel: bool = False, tenant: str | None = None
    ) -> str:
        """Return a ticket for the status and the ends of this batch; see `JobHandle.ticket`.

        It does not open the jobs of the lines. The tenant of a batch is its `metadata["tenant"]`.
        """
        return await self._tickets.make_for(self.id, ttl_s=ttl_s, cancel=cancel, tenant=tenant)

    async def _feed_all(
        self, rows: Iterable[Row] | AsyncIterable[Row], columns: Columns, common: ForAllLines
    ) -> None:
        await self._feed.put_all(rows_to_lines(rows, columns, common))
        if not await self._close_when_replicated():
            await self._feed_again()

    async def _feed_again(self) -> None:
        """Add the lines that Redis may have lost, until it has all of them and is closed."""
        with suppress(BatchClosed):  # the batch was cancelled meanwhile
            while True:
                await self._feed.put_outstanding(await self.status())
                if await self._close_when_replicated():
                    return

    async def _close_when_replicated(self) -> bool:
        return await replicated(partial(self.close_input, least=self._feed.added))

    async def number_at(self, cursor: str | None) -> int:
        """Return the number of the end at a cursor; 0 if Redis has lost it, or without a cursor.

        Lost numbers may have been given to other ends since, which the caller has not taken.
        """
        if cursor is None:
            return 0
        position = BatchCursor.parse(cursor).ends
        async with speaking_darkq():
            known = await batch_ends.holds(self._redis, self._keys, position)
        return position.number if known else 0

    async def _ends(self, after: Position | None) -> AsyncGenerator[list[LineEnded], None]:
        mailbox = Mailbox()
        async with self._live.subscribed(self._keys.live, mailbox):
            while True:
                mailbox.forget()
                was_closed = self._closed  # before the read: the reply may be older than a close
                page = await batch_ends.read_ends(self._redis, self._keys, after)
                if page.ends:
                    after = Position.parse(page.ends[-1].cursor)
                    yield page.ends
                elif page.last:
                    return
                elif was_closed and not page.closed:
                    # Redis has lost that the input was closed, so this loop would never end.
                    raise CursorGone(self.id, str(after))
                else:
                    await mailbox.take(SILENCE_S)

    def _run_by_us(self) -> None:
        if not self._lease.held:
            raise RuntimeError("only the runner can do this: async with client.batch(…) as batch")

    def __repr__(self) -> str:
        return f"Batch({self.id!r})"
