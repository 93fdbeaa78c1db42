"""A batch: many prompts as one thing that can be left, resumed, followed and cancelled.

    async with client.batch(name="reviews") as batch:
        async for finished in batch.run(rows):
            print(finished.number, finished.result)

One process runs a batch: it feeds lines and takes over how they ended. At most `window` lines are
outstanding, so that Redis holds no more than that however long the input is. A line's job has an
id that follows from the batch and the line's number: to add a line again changes nothing.
"""

from __future__ import annotations

from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Container,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import aclosing, suppress
from functools import partial
from typing import Self

from redis.asyncio import Redis

from darkq.batches import lease as batch_control
from darkq.batches import results as batch_ends
from darkq.batches.feed import Columns, Feed, Row, line_of, numbered
from darkq.batches.lease import BatchLease, Part, made_with
from darkq.batches.lines import ForAllLines, Line
from darkq.batches.results import Finished, LineEnded, Position, fed, taken
from darkq.batches.status import BatchStatus, read_batch
from darkq.batches.tail import SILENCE_S, BatchTail, LineEvent, Place
from darkq.errors import BatchClosed, CursorGone
from darkq.jobs.enqueue import Enqueuer
from darkq.jobs.mailbox import Mailbox
from darkq.protocol.job import Job, Prompt
from darkq.protocol.keys import BatchKeys
from darkq.redis.durability import replicated
from darkq.redis.pool import speaking_darkq
from darkq.redis.pubsub import Live
from darkq.settings.settings import Settings

FOR_ALL = ForAllLines()
COLUMNS = Columns()


class Batch:
    """A batch by its id. As a context manager: its runner, who feeds and collects.

    Without it anybody may ask for `status()`, follow `events()` and `cancel()`.
    """

    def __init__(
        self,
        keys: BatchKeys,
        redis: Redis,
        live: Live,
        orders: Enqueuer,
        settings: Settings,
        *,
        new: bool,
        name: str | None,
        window: int,
        metadata: Mapping[str, str] | None,
    ) -> None:
        ttl_s = 2 * max(settings.job_ttl_s, settings.result_ttl_s, settings.failed_ttl_s)
        self._keys = keys
        self._redis = redis
        self._live = live
        self._settings = settings
        self._lease = BatchLease(redis, keys, ttl_s=ttl_s)
        self._feed = Feed(keys, orders, window)
        self._closed = False
        self._made_with = (
            made_with(name=name, window=window, metadata=metadata, ttl_ms=self._lease.ttl_ms)
            if new
            else None
        )

    @property
    def id(self) -> str:
        """The public id: keep it, and come back from any process."""
        return self._keys.public_id

    @property
    def runner(self) -> str:
        """The token of this handle's lease, if it takes one: `<host>:<pid>:<random>`."""
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
        """Store lines, a few hundred per round trip, in their order; wait for room in the window.

        Lines that are there or have ended are left as they are. Raises `InvalidLine`,
        `BatchFull` when nobody takes results, `BatchClosed`, `BatchNotFound`,
        `RedisUnavailable`. Cancelled, some may have been stored.
        """
        self._run_by_us()
        await self._feed.put(lines)

    async def add(self, prompt: Prompt | Job, custom_id: str | None = None) -> int:
        """Store one line after the last one, and return its number. Raises as `add_many`.

        Each call is a round trip, and stores another line; `run` and `add_many` know them again.
        """
        number = self._feed.last_line + 1
        row = {"prompt": prompt, "custom_id": custom_id}
        await self.add_many([line_of(row, number, COLUMNS, FOR_ALL)])
        return number

    async def close_input(self, *, least: int = 0) -> bool:
        """Say that all lines have been added: the batch is completed when they have ended.

        Return False, having changed nothing, when Redis knows of fewer than `least` lines: it has
        lost some in a failover or a crash. Then add all again; those that are there stay as they
        are. Raises `BatchNotFound`, `RedisUnavailable`.
        """
        self._run_by_us()
        async with speaking_darkq():
            done = await batch_control.close_input(self._redis, self._keys, least=least)
        self._closed = self._closed or done
        return done

    async def collected(self) -> AsyncGenerator[list[Finished], None]:
        """Yield how lines ended, in pages: all that is not acknowledged, then what comes.

        A page has up to 200 ends and a megabyte of results, or a single larger one.
        Give each page to `acknowledge` once it is safe; then ask for the next. Ends when the
        input is closed, or the batch cancelled, and nothing runs any more. Raises
        `BatchNotFound`, `RedisUnavailable`; `CursorGone` when Redis has lost ends that were
        yielded, or that the input was closed: add all lines again, and call this again.
        """
        self._run_by_us()
        async with speaking_darkq():
            after = await batch_ends.acknowledged(self._redis, self._keys)
            with self._feed.reader():
                async with aclosing(self._ends(after)) as pages:
                    async for ends in pages:
                        async with aclosing(batch_ends.with_results(self._redis, ends)) as bounded:
                            async for page in bounded:
                                yield page
                                self._feed.reading()

    async def acknowledge(
        self, page: Sequence[Finished], *, part: Part | None = None, keep: Container[int] = ()
    ) -> None:
        """Forget what Redis holds of these lines; they will not be run again.

        What it holds of the lines whose numbers are in `keep` stays as long as of any other job.

        In the order of `collected`; `missing` ones may be added again after this. With a `part`
        that is noted in the same step. Raises `BatchTaken` when the lease was lost to another
        process, `BatchNotFound`, `RedisUnavailable`; nothing was changed then, or all.
        Raises `CursorGone` when Redis has lost some of these ends, in a failover or a crash: those
        before the first lost one are acknowledged, with a `part` none. Call `collected` again.
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
        """Return one bit per line, the highest bit first: its end is acknowledged."""
        async with speaking_darkq():
            return await self._redis.get(self._keys.acknowledged) or b""

    async def results(self, *, after: str | None = None) -> AsyncGenerator[Finished, None]:
        """Yield how lines ended, and acknowledge those that were taken.

        A line is taken when the next one is asked for. A process that dies gets up to a page of
        them once more when it comes back, unless it has kept the `cursor` of the last one together
        with its result: `after` that they do not come again. Raises `ValueError` for what is no
        cursor, and as `collected` and `acknowledge` do.
        """
        seen = await self._taken_through(after)
        async with aclosing(taken(self.collected(), self.acknowledge, after=seen)) as ends:
            async for finished in ends:
                yield finished

    async def run(
        self,
        rows: Iterable[Row] | AsyncIterable[Row],
        *,
        columns: Columns = COLUMNS,
        common: ForAllLines = FOR_ALL,
        after: str | None = None,
    ) -> AsyncGenerator[Finished, None]:
        """Feed rows, and yield how they ended, as `results` does; then the batch is closed.

        Rows are prompts, `Job`s, dicts, named tuples or `Line`s, from any iterable, also an async
        one; they are pulled as there is room, and those of a window are kept in memory. Run again
        with the same rows it goes on where it was; `after` as in `results`. What has expired before
        it was taken is run again. When Redis loses its latest writes, in a failover or a crash,
        lines are added again, and an end whose acknowledgement was lost comes once more. Where too
        few replicas have confirmed something in time, that is tried again for five minutes. Raises
        what `add_many` and `results` raise, but not `CursorGone`.
        """
        seen = await self._taken_through(after)
        feeding = self._feed_all(numbered(rows, columns, common))
        ends = fed(feeding, self, self._feed.put_again, self._feed_again, after=seen)
        async with aclosing(ends):
            async for finished in ends:
                yield finished

    async def events(self, after: str | None = None) -> AsyncGenerator[LineEnded, None]:
        """Yield each line's end in order, once, to the batch's own. From any process.

        `after` is the cursor of the last one seen; "0" asks for all, None for those that are kept:
        the last ten thousand that are acknowledged, and what follows. Raises `ValueError` for what
        is no cursor, `CursorGone` for one too far back, `BatchNotFound`, `RedisUnavailable`.
        """
        start = _position(after) if after is not None else None
        async with speaking_darkq(), aclosing(self._ends(start)) as pages:
            async for ends in pages:
                for end in ends:
                    yield end

    async def tail(self, after: str | None = None) -> AsyncGenerator[LineEvent | LineEnded, None]:
        """Yield what `events` yields, and before each end the events of the line's job.

        But for `queued`, and as far as Redis still has them: until the end is acknowledged. Each
        once and in order within a line. Cursors are good for both; as this one's also say how far
        each line has come that is under way, they grow with their number. Raises as `events`.
        """
        place = Place.parse(after) if after is not None else None
        items = BatchTail(self._redis, self._live, self._keys, place).items()
        async with speaking_darkq(), aclosing(items):
            async for item in items:
                yield item

    async def status(self) -> BatchStatus:
        """Return where the batch stands. Raises `BatchNotFound`, `RedisUnavailable`."""
        async with speaking_darkq():
            return await read_batch(self._redis, self._keys)

    async def cancel(self) -> BatchStatus:
        """Cancel the batch, and each of its jobs that has not ended. May be repeated.

        It is `cancelling` until those that run have been stopped by their workers. Raises
        `BatchNotFound`, `RedisUnavailable`; cancelled itself, call it again.
        """
        async with speaking_darkq():
            ttl_s = self._settings.result_ttl_s
            await batch_control.cancel(self._redis, self._keys, result_ttl_s=ttl_s)
            return await read_batch(self._redis, self._keys)

    async def _feed_all(self, lines: AsyncIterator[Line]) -> None:
        await self._feed.put_all(lines)
        if not await self._close_when_replicated():
            await self._feed_again()

    async def _feed_again(self) -> None:
        """Add what Redis may have lost, and close the input, until it loses nothing meanwhile."""
        with suppress(BatchClosed):  # cancelled meanwhile
            while True:
                await self._feed.put_outstanding(await self.status())
                if await self._close_when_replicated():
                    return

    async def _close_when_replicated(self) -> bool:
        return await replicated(partial(self.close_input, least=self._feed.added))

    async def _taken_through(self, cursor: str | None) -> int:
        """Return the number of the last end taken; 0 when Redis has lost the end at the cursor.

        Then numbers up to the cursor's may stand for other ends, which were not taken.
        """
        if cursor is None:
            return 0
        position = _position(cursor)
        async with speaking_darkq():
            known = await batch_ends.holds(self._redis, self._keys, position)
        return position.number if known else 0

    async def _ends(self, after: Position | None) -> AsyncGenerator[list[LineEnded], None]:
        mailbox = Mailbox()
        async with self._live.subscribed(self._keys.live, mailbox):
            while True:
                mailbox.forget()
                page = await batch_ends.read_ends(self._redis, self._keys, after)
                if page.ends:
                    after = Position.parse(page.ends[-1].cursor)
                    yield page.ends
                elif page.last:
                    return
                elif self._closed and not page.closed:
                    raise CursorGone(self.id, str(after))
                else:
                    await mailbox.take(SILENCE_S)

    def _run_by_us(self) -> None:
        if not self._lease.held:
            raise RuntimeError("only the runner may do this: async with client.batch(…) as batch")

    def __repr__(self) -> str:
        return f"Batch({self.id!r})"


def _position(cursor: str) -> Position:
    return Place.parse(cursor).ends
