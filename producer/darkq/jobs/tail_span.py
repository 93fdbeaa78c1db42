"""The span of one reader: from when it came to the end of the job, or to when it left.

A reader that has a trace of its own, such as a web request, stays in it, and links to the attempts
that it has read of. One that has none becomes part of the job's trace. Which that is, it hears from
the attempts: so the span is made when all is over, and says when it began.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING

import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError

from darkq.event import TERMINAL, Chunk, Cursor, Started
from darkq.jobs import tail as log_pages
from darkq.jobs.tail import EventBatch
from darkq.protocol.keys import JobKeys
from darkq.telemetry.tracing import NOTHING, TraceContext, fail, messaging

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Tracer

_MAX_LINKS = 16


async def traced(
    tail: AsyncGenerator[EventBatch, None], tracer: Tracer, redis: Redis, keys: JobKeys
) -> AsyncGenerator[EventBatch, None]:
    """Yield what a tail yields. Raises what it raises, and nothing else."""
    reading = _Reading(tracer, keys)
    try:
        async with aclosing(tail) as batches:
            async for batch in batches:
                if reading.is_new and batch[0].cursor.attempt and batch[0].cursor.seq:
                    await reading.ask(redis, batch[0].cursor)
                reading.take_note(batch)
                yield batch
    except Exception as error:
        reading.error = type(error).__name__
        raise
    finally:
        reading.end()


class _Reading:
    """What one reader has read."""

    def __init__(self, tracer: Tracer, keys: JobKeys) -> None:
        from opentelemetry.context import get_current

        self.is_new = True
        self.error = ""
        self._tracer = tracer
        self._keys = keys
        self._context = get_current()  # of who reads: this may end in another's
        self._began_ns = time.time_ns()
        self._first_text_ns = 0
        self._events = 0
        self._outcome = "left"
        self._attempts: dict[TraceContext, None] = {}

    async def ask(self, redis: Redis, cursor: Cursor) -> None:
        """Ask the log which attempt a cursor is in the middle of. Best effort."""
        with suppress(RedisError, OSError, msgspec.MsgspecError, KeyError, ValueError):
            self._note(await log_pages.read_started(redis, self._keys, cursor))

    def take_note(self, batch: EventBatch) -> None:
        """Take note of what is handed on."""
        self.is_new = False
        self._events += len(batch)
        for event in batch:
            if isinstance(event, Chunk):
                self._first_text_ns = self._first_text_ns or time.time_ns()
            else:
                self._note(event)

    def _note(self, event: object) -> None:
        if isinstance(event, Started):
            carried = TraceContext.checked(event.traceparent)
            if carried is not NOTHING and len(self._attempts) < _MAX_LINKS:
                self._attempts[carried] = None
        elif isinstance(event, TERMINAL):
            self._outcome = type(event).__name__.lower()

    def end(self) -> None:
        """Make the span."""
        from opentelemetry.trace import Link, SpanKind

        contexts = [context for c in self._attempts if (context := c.span_context())]
        span = self._tracer.start_span(
            "tail",
            context=self._parent(),
            kind=SpanKind.CONSUMER,
            attributes={
                **messaging("tail", "receive"),
                "messaging.message.id": self._keys.public_id,
                "darkq.events": self._events,
                "darkq.outcome": "failed" if self.error else self._outcome,
            },
            links=[Link(context) for context in contexts],
            start_time=self._began_ns,
        )
        if self._first_text_ns:
            span.add_event("first chunk", timestamp=self._first_text_ns)
        if self.error:
            fail(span, self.error)
        span.end()

    def _parent(self) -> Context | None:
        from opentelemetry.trace import get_current_span

        has_own = get_current_span(self._context).get_span_context().is_valid
        first = next(iter(self._attempts), NOTHING)
        return self._context if has_own else first.context() or self._context
