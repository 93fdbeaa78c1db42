"""The span of one reader: from its start to the end of the job, or until it stops.

If the reader has a trace, for example a web request, the span belongs to that trace and links to
the attempts that were read. Otherwise the span joins the job's trace. Only the attempts' events
name that trace, so the span is created at the end, with its true start time.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Self

import msgspec
from redis.exceptions import RedisError

from darkq.event import PIECES, TERMINAL, AnyEvent, Cursor, Started
from darkq.protocol.keys import JobKeys
from darkq.telemetry.tracing import (
    NO_CONTEXT,
    TraceContext,
    mark_failed,
    messaging_attributes,
    tracer,
)

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Tracer

_MAX_LINKS = 16


class TailSpan:
    """Records what a reader reads. Does nothing in a program that does not trace."""

    __slots__ = (
        *("_attempts", "_began_ns", "_begun_within", "_context", "_events", "_first_text_ns"),
        *("_keys", "_outcome", "_tracer"),
    )

    def __init__(self, keys: JobKeys) -> None:
        self._tracer = tracer()
        if self._tracer is None:
            return
        from opentelemetry.context import get_current

        self._keys = keys
        self._context = get_current()  # the reader's; the generator may be closed in another
        self._began_ns = time.time_ns()
        self._first_text_ns = 0
        self._begun_within: AnyEvent | None = None
        self._events = 0
        self._outcome = "left"
        self._attempts: dict[TraceContext, None] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._tracer is not None:
            failed = kind is not None and issubclass(kind, Exception)  # not when the reader stopped
            self._end(self._tracer, kind.__name__ if failed and kind else "")

    @property
    def is_recorded(self) -> bool:
        """Whether the program traces."""
        return self._tracer is not None

    async def begin(
        self, after: Cursor, read_started: Callable[[Cursor], Awaitable[AnyEvent | None]]
    ) -> None:
        """Read the `started` event of the attempt, if the reader begins within one."""
        if self._tracer is not None and after.attempt:
            with suppress(RedisError, OSError, msgspec.MsgspecError, KeyError, ValueError):
                self._begun_within = await read_started(after)

    def record(self, events: list[AnyEvent]) -> None:
        """Record events before they are yielded."""
        if self._tracer is None:
            return
        begun, first = self._begun_within, events[0].cursor
        if not self._events and first.seq and begun and begun.cursor.attempt == first.attempt:
            self._note(begun)
        self._events += len(events)
        for event in events:
            if isinstance(event, PIECES):
                self._first_text_ns = self._first_text_ns or time.time_ns()
            else:
                self._note(event)

    def _note(self, event: object) -> None:
        if isinstance(event, Started):
            carried = TraceContext.parse(event.traceparent)
            if carried is not NO_CONTEXT and len(self._attempts) < _MAX_LINKS:
                self._attempts[carried] = None
        elif isinstance(event, TERMINAL):
            self._outcome = type(event).__name__.lower()

    def _end(self, tracer: Tracer, error: str) -> None:
        from opentelemetry.trace import Link, SpanKind

        contexts = [context for c in self._attempts if (context := c.span_context())]
        span = tracer.start_span(
            "tail",
            context=self._parent(),
            kind=SpanKind.CONSUMER,
            attributes={
                **messaging_attributes("tail", "receive"),
                "messaging.message.id": self._keys.public_id,
                "darkq.events": self._events,
                "darkq.outcome": "failed" if error else self._outcome,
            },
            links=[Link(context) for context in contexts],
            start_time=self._began_ns,
        )
        if self._first_text_ns:
            span.add_event("first chunk", timestamp=self._first_text_ns)
        if error:
            mark_failed(span, error)
        span.end()

    def _parent(self) -> Context | None:
        from opentelemetry.trace import get_current_span

        has_own = get_current_span(self._context).get_span_context().is_valid
        first = next(iter(self._attempts), NO_CONTEXT)
        return self._context if has_own else first.context() or self._context
