"""A job's events as the events of a Response. No I/O.

    queued      response.created, response.queued
    started     response.in_progress
    a piece     if it begins an item or a part: output_item.added, content_part.added; then
                response.output_text.delta, .refusal.delta, .reasoning_text.delta or
                .function_call_arguments.delta
    retrying    the open items end as incomplete; the next attempt adds others
    completed   the open items end as completed; response.completed. If the answer was truncated or
                filtered, the last item ends as incomplete; response.incomplete

Reasoning ends when anything else begins. A message and calls stay open to the end of the attempt,
because more of each may come between the pieces of the others.

After a retry the items of the lost attempt remain, incomplete and empty. So a client that joins the
texts of all items, as `output_text` of the SDK does, gets the text of one attempt. A call of a lost
attempt has no `done` events, since programs run a call as soon as it is done, whatever its status.

The same events of a job always give the same events of a Response, with the same numbers, in every
process. So a client can resume with any number that it has seen, and the Response is not stored.

The API has no event for a cancelled Response: the stream ends with `response.incomplete`, and the
`status` of the Response is `cancelled`.
"""

from __future__ import annotations

from collections import Counter
from http import HTTPStatus
from typing import Any

from darkq import event as ev
from darkq.openai.body import RESPONSES
from darkq.openai.errors import WireError, build_job_error
from darkq.openai.response import INCOMPLETE_REASONS, build_response, build_usage
from darkq.openai.response_items import (
    ITEM_KINDS,
    PART_KINDS,
    Item,
    ItemKind,
    Json,
    make_item_id,
    read_annotations,
    read_logprobs,
)

_ERROR_CODES = {"rate_limited": "rate_limit_exceeded", "rejected": "invalid_prompt"}
"""The API's error codes. An error that the request did not cause is a `server_error`."""


class ResponseBuilder:
    """Builds one Response from the events of its job."""

    def __init__(self, response_id: str, *, asked: Json) -> None:
        """`asked` has the fields that a Response repeats of its request."""
        self.asked = asked
        self.has_answer = False
        """Whether there was an event with a piece of the answer, or its end."""
        self.failure: WireError | None = None
        """The error, if the job failed or was cancelled."""
        self._response: Json = build_response(response_id) | asked
        self._job_id = response_id.removeprefix("resp_")
        self._number = 0
        self._items: list[Item] = []
        self._attempt = 0
        self._begun: Counter[ItemKind] = Counter()  # items of the attempt
        self._open: dict[tuple[ItemKind, int], Item] = {}

    def feed(self, event: ev.AnyEvent) -> list[Json]:
        """Return the events for one event of the job, possibly none."""
        match event:
            case ev.Queued():
                return self._queued(event)
            case ev.Started():
                return self._started(event)
            case ev.Chunk() | ev.Reasoning() | ev.Refusal() | ev.ToolCall():
                return self._piece(event)
            case ev.Retrying():
                return self._abandon_items()
            case ev.Completed():
                return self._completed(event)
            case ev.Failed():
                return self._failed(event)
            case ev.Cancelled():
                message = "the job was cancelled"
                self.failure = build_job_error("cancelled", message, RESPONSES)
                return self._end_without_answer("cancelled", "response.incomplete")
        return []

    def snapshot(self) -> Json:
        """Return the Response now, with what there is of open items."""
        return {**self._response, "output": [item.build() for item in self._items]}

    def _queued(self, event: ev.Queued) -> list[Json]:
        if self._response["created_at"]:  # a failed job is retried
            return []
        self._response["created_at"] = event.at_ms // 1000
        return [
            self._make_response_event("response.created"),
            self._make_response_event("response.queued"),
        ]

    def _started(self, event: ev.Started) -> list[Json]:
        events = self._abandon_items()
        for lost in self._items:
            lost.void()
        has_begun = self._attempt > 0
        self._attempt = event.attempt
        self._begun.clear()
        self.failure = None
        self._response.update(status="in_progress", model=event.model, error=None)
        return events if has_begun else [*events, self._make_response_event("response.in_progress")]

    def _piece(self, piece: ev.Piece) -> list[Json]:
        self.has_answer = True
        item, events = self._find_item(piece)
        if isinstance(piece, ev.ToolCall):
            item.arguments.append(piece.arguments)
            return [*events, *self._delta("function_call_arguments", item, piece.arguments)]
        number, is_new = item.find_part(PART_KINDS[type(piece)])
        part, at = item.parts[number], {"content_index": number}
        if is_new:
            events.append(self._item_event("content_part.added", item, part=part.build(), **at))
        part.pieces.append(piece.text)
        if not isinstance(piece, ev.Chunk):
            return [*events, *self._delta(part.kind, item, piece.text, **at)]
        logprobs = read_logprobs(piece)
        part.logprobs += logprobs
        events += self._delta("output_text", item, piece.text, logprobs=logprobs, **at)
        for annotation in read_annotations(piece):
            at["annotation_index"] = len(part.annotations)
            part.annotations.append(annotation)
            name = "output_text.annotation.added"
            events.append(self._item_event(name, item, annotation=annotation, **at))
        return events

    def _delta(self, name: str, item: Item, text: str, **fields: Any) -> list[Json]:
        return [self._item_event(f"{name}.delta", item, delta=text, **fields)] if text else []

    def _find_item(self, piece: ev.Piece) -> tuple[Item, list[Json]]:
        """Return the item of a piece, and the events of those that it ends and begins."""
        kind = ITEM_KINDS[type(piece)]
        key = (kind, piece.index if isinstance(piece, ev.ToolCall) else 0)
        events: list[Json] = []
        if kind != "reasoning" and (reasoning := self._open.pop(("reasoning", 0), None)):
            events = self._close_item(reasoning, "completed")
        if (item := self._open.get(key)) is not None:
            return item, events
        attempt = self._attempt or piece.cursor.attempt
        item_id = make_item_id(kind, self._job_id, attempt, self._begun[kind])
        item = self._open[key] = Item(kind, item_id, len(self._items))
        if isinstance(piece, ev.ToolCall):
            item.call_id, item.name = piece.call_id, piece.name
        self._items.append(item)
        self._begun[kind] += 1
        return item, [*events, self._make_item_event("added", item)]

    def _completed(self, event: ev.Completed) -> list[Json]:
        self._response["usage"] = build_usage(event.usage)
        self.has_answer = True
        reason = INCOMPLETE_REASONS.get(event.finish_reason)
        if reason is not None:
            self._response["incomplete_details"] = {"reason": reason}
            events = self._close_items("incomplete")
            return [*events, self._end("incomplete", "response.incomplete")]
        events = self._close_items("completed")
        self._response["completed_at"] = event.at_ms // 1000
        return [*events, self._end("completed", "response.completed")]

    def _failed(self, event: ev.Failed) -> list[Json]:
        error = self.failure = build_job_error(event.code, event.message, RESPONSES)
        code = _ERROR_CODES.get(error.code, error.code)
        self._response["error"] = {
            "code": code if error.status < HTTPStatus.INTERNAL_SERVER_ERROR else "server_error",
            "message": error.named_message,
            "type": error.type,
            "param": error.param,
        }
        return self._end_without_answer("failed", "response.failed")

    def _end_without_answer(self, status: str, name: str) -> list[Json]:
        return [*self._abandon_items(), self._end(status, name)]

    def _end(self, status: str, name: str) -> Json:
        self._response["status"] = status
        return self._make_response_event(name)

    def _close_items(self, status: str) -> list[Json]:
        """End the open items of a whole answer. Only the last one may have been cut off."""
        events: list[Json] = []
        for item in self._open.values():
            is_last = item is self._items[-1]
            events += self._close_item(item, status if is_last else "completed")
        self._open.clear()
        return events

    def _abandon_items(self) -> list[Json]:
        """End the open items of an attempt without an answer."""
        events: list[Json] = []
        for item in self._open.values():
            if item.kind == "function_call":
                item.status = "incomplete"
            else:
                events += self._close_item(item, "incomplete")
        self._open.clear()
        return events

    def _close_item(self, item: Item, status: str) -> list[Json]:
        item.status = status
        events: list[Json] = []
        for number, part in enumerate(item.parts):
            at: Json = {"content_index": number}
            done: Json = {part.name: part.text}
            if part.kind == "output_text":
                done["logprobs"] = list(part.logprobs)
            events += [
                self._item_event(f"{part.kind}.done", item, **done, **at),
                self._item_event("content_part.done", item, part=part.build(), **at),
            ]
        if item.kind == "function_call":
            arguments = "".join(item.arguments)
            name = "function_call_arguments.done"
            events.append(self._item_event(name, item, arguments=arguments))
        return [*events, self._make_item_event("done", item)]

    def _make_response_event(self, name: str) -> Json:
        return self._make_event(name, response=self.snapshot())

    def _make_item_event(self, name: str, item: Item) -> Json:
        name = f"response.output_item.{name}"
        return self._make_event(name, output_index=item.index, item=item.build())

    def _item_event(self, name: str, item: Item, **fields: Any) -> Json:
        at = {"output_index": item.index, "item_id": item.id}
        return self._make_event(f"response.{name}", **at, **fields)

    def _make_event(self, name: str, **fields: Any) -> Json:
        event = {"type": name, "sequence_number": self._number, **fields}
        self._number += 1
        return event
