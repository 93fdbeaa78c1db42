"""An answer in few events: a whole one, or the pieces that a reader has missed. No I/O.

In a whole answer a kind of piece is one event. Only reasoning may be several: models also reason
between two pieces of another kind.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from itertools import count

from msgspec.structs import replace

from darkq import event as ev
from darkq.event import AnyEvent, Cursor
from darkq.protocol.record import Failure, ResultRecord
from darkq.protocol.result import Result


def answer_to_events(result: Result) -> list[ev.Piece]:
    """Return the pieces of an answer, in the order in which they began."""
    ids = (str(Cursor(result.attempt, seq)) for seq in count(1))
    events: list[ev.Piece] = []
    reasoned = 0
    for kind, number in result.outline or _usual_outline(result):
        match kind:
            case "reasoning":
                text = result.reasoning[reasoned : reasoned + number]
                reasoned += number
                events.append(ev.Reasoning(id=next(ids), text=text))
            case "chunk":
                chunk = ev.Chunk(
                    id=next(ids),
                    text=result.text,
                    merged=result.chunks,
                    logprobs=result.logprobs,
                    annotations=result.annotations,
                )
                events.append(chunk)
            case "refusal":
                events.append(ev.Refusal(id=next(ids), text=result.refusal))
            case "tool_call":
                call = result.tool_calls[number]
                events.append(
                    ev.ToolCall(
                        id=next(ids),
                        index=number,
                        arguments=call.arguments,
                        call_id=call.id,
                        name=call.name,
                    )
                )
    return events


def _usual_outline(result: Result) -> list[tuple[str, int]]:
    outline = [("reasoning", len(result.reasoning))] if result.reasoning else []
    others = result.reasoning or result.tool_calls or result.refusal
    if result.text or result.logprobs or result.annotations or not others:
        outline.append(("chunk", 0))
    if result.refusal:
        outline.append(("refusal", 0))
    return outline + [("tool_call", index) for index in range(len(result.tool_calls))]


def build_terminal_event(record: ResultRecord, at: Cursor) -> ev.Terminal:
    """Return the event that ended the job of a result record."""
    if isinstance(record.r, Failure):
        if record.r.type == "JobCancelled":
            return ev.Cancelled(id=str(at), at_ms=record.ft)
        return ev.Failed(id=str(at), code=record.r.code, message=record.r.message, at_ms=record.ft)
    # msgspec omits a default only if it is the same object, and the bytes must be the same again.
    finish_reason = sys.intern(record.d.finish_reason)
    return ev.Completed(
        id=str(at), finish_reason=finish_reason, usage=record.d.usage, at_ms=record.ft
    )


MERGED_CHARS = 64 << 10


def merge_pieces(events: Iterable[AnyEvent]) -> list[AnyEvent]:
    """Return the events with consecutive pieces of the same kind as one, of `MERGED_CHARS` at most.

    It has the id of the last one: from there a reader continues after all of them.
    """
    merged: list[AnyEvent] = []
    run: list[AnyEvent] = []
    chars = 0
    for event in events:
        chars += count_chars(event)
        if run and (chars > MERGED_CHARS or not _continues(run[-1], event)):
            merged.append(_merge(run))
            run, chars = [], count_chars(event)
        run.append(event)
    return [*merged, _merge(run)] if run else merged


def count_chars(event: AnyEvent) -> int:
    """Return how many characters of an answer an event has."""
    if isinstance(event, ev.ToolCall):
        return len(event.arguments)
    return len(event.text) if isinstance(event, ev.PIECES) else 0


def _continues(last: AnyEvent, event: AnyEvent) -> bool:
    match last, event:
        case ev.Chunk(), ev.Chunk():
            return not any(each.logprobs or each.annotations for each in (last, event))
        case ev.ToolCall(), ev.ToolCall():
            return last.index == event.index and not (event.call_id or event.name)
        case (ev.Reasoning(), ev.Reasoning()) | (ev.Refusal(), ev.Refusal()):
            return True
    return False


def _merge(run: Sequence[AnyEvent]) -> AnyEvent:
    first, last_id = run[0], run[-1].id
    if len(run) == 1 or not isinstance(first, ev.PIECES):
        return first
    pieces = [each for each in run if isinstance(each, ev.PIECES)]
    merged = sum(piece.merged for piece in pieces)
    if isinstance(first, ev.ToolCall):
        arguments = "".join(each.arguments for each in pieces if isinstance(each, ev.ToolCall))
        return replace(first, id=last_id, arguments=arguments, merged=merged)
    text = "".join(each.text for each in pieces if not isinstance(each, ev.ToolCall))
    return replace(first, id=last_id, text=text, merged=merged)
