"""A job's events as the events of a Response. No I/O.

    queued      response.created, response.queued
    started     response.in_progress; an output item and its text part are added
    chunk       response.output_text.delta
    retrying    the item is closed, incomplete; the next `started` adds another
    completed   the item is closed, complete; response.completed. An answer that was cut off, or
                filtered, is not: its item is incomplete; response.incomplete

A retry leaves the item of the lost attempt in its place, incomplete and without its text: whoever
joins the texts of all items, as the SDK's `output_text` does, has those of one attempt.

The same events of a job give the same events of a Response, numbers included, however often and
from whichever process they are replayed. So a client may come back with any number that it has
seen. The state that builds up is the Response object itself: its owner never stores it.

The API knows no event for a cancelled Response: the stream ends with `response.incomplete`, and
the Response says that it is `cancelled`.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, TypeAlias

from darkq import (
    AnyEvent,
    Cancelled,
    Chunk,
    Completed,
    Failed,
    Queued,
    Retrying,
    Started,
)
from darkq.openai.body import RESPONSES
from darkq.openai.errors import build_job_error
from darkq.openai.response import (
    INCOMPLETE_REASONS,
    build_response,
    build_text_part,
    build_usage,
    item_id,
)
from darkq_gateway.http.errors import ApiError
from darkq_gateway.openai.framing import failed

Json: TypeAlias = dict[str, Any]

_ERROR_CODES = {"rate_limited": "rate_limit_exceeded", "rejected": "invalid_prompt"}
"""The API's words. What is no fault of the request is its `server_error`."""


class ResponseStream:
    """Builds up one Response. `response` is how it stands after the events fed so far."""

    def __init__(self, response_id: str, *, asked: Json) -> None:
        """`asked` holds the fields that repeat what the request said."""
        self.asked = asked
        self.has_spoken = False
        """Whether there was an event with text, or one that says how the Response has ended."""
        self.failure: ApiError | None = None
        """What there is instead of an answer."""
        self.response: Json = build_response(response_id) | asked
        self._number = 0
        self._pieces: list[str] | None = None
        """The text of the item that is open; None while none is."""

    def feed(self, event: AnyEvent) -> list[Json]:
        """Return the events that one event of the job makes; none for one that says nothing."""
        match event:
            case Queued():
                return self._queued(event)
            case Started():
                return self._started(event)
            case Chunk():
                return self._chunk(event)
            case Retrying():
                return self._close_item("incomplete")
            case Completed():
                return self._completed(event)
            case Failed():
                return self._failed(event)
            case Cancelled():
                self.failure = failed("cancelled", "the job was cancelled", RESPONSES)
                return self._end("cancelled", "response.incomplete", event.at_ms)
        return []

    def _failed(self, event: Failed) -> list[Json]:
        error = build_job_error(event.code, event.message, RESPONSES)
        self.failure = failed(event.code, event.message, RESPONSES)
        code = _ERROR_CODES.get(error.code, error.code)
        self.response["error"] = {
            "code": code if error.status < HTTPStatus.INTERNAL_SERVER_ERROR else "server_error",
            "message": error.named_message,
            "type": error.type,
            "param": error.param,
        }
        return self._end("failed", "response.failed", event.at_ms)

    def _queued(self, event: Queued) -> list[Json]:
        if self.response["created_at"]:  # it has failed, and is run again
            return []
        self.response["created_at"] = event.at_ms // 1000
        return [self._about_all("response.created"), self._about_all("response.queued")]

    def _started(self, event: Started) -> list[Json]:
        events = self._close_item("incomplete")
        self.response.update(status="in_progress", model=event.model, error=None)
        self.failure = None
        for lost in self.response["output"]:  # or `output_text` would join it to what follows
            lost["content"] = []
        if not self.response["output"]:
            events.append(self._about_all("response.in_progress"))
        item = {
            "id": item_id(self.response["id"].removeprefix("resp_"), event.attempt),
            "type": "message",
            "role": "assistant",
            "status": "in_progress",
            "content": [],
        }
        self.response["output"].append(item)
        self._pieces = []
        events.append(self._about_output("response.output_item.added", item=_copy(item)))
        events.append(self._abouttext_part("response.content_part.added", part=build_text_part("")))
        return events

    def _chunk(self, event: Chunk) -> list[Json]:
        if self._pieces is None:
            return []
        self._pieces.append(event.text)
        self.has_spoken = True
        return [self._abouttext_part("response.output_text.delta", delta=event.text, logprobs=[])]

    def _completed(self, event: Completed) -> list[Json]:
        self.response["usage"] = build_usage(event.usage)
        self.has_spoken = True
        if (reason := INCOMPLETE_REASONS.get(event.finish_reason)) is not None:
            self.response["incomplete_details"] = {"reason": reason}
            return self._end("incomplete", "response.incomplete", event.at_ms)
        events = self._close_item("completed")
        self.response["completed_at"] = event.at_ms // 1000
        return events + self._end("completed", "response.completed", event.at_ms)

    def _end(self, status: str, name: str, at_ms: int) -> list[Json]:
        events = self._close_item("incomplete")
        self.response["status"] = status
        return [*events, self._about_all(name)]

    def _close_item(self, status: str) -> list[Json]:
        if self._pieces is None:
            return []
        text, self._pieces = "".join(self._pieces), None
        item = self.response["output"][-1]
        item.update(status=status, content=[build_text_part(text)])
        return [
            self._abouttext_part("response.output_text.done", text=text, logprobs=[]),
            self._abouttext_part("response.content_part.done", part=build_text_part(text)),
            self._about_output("response.output_item.done", item=_copy(item)),
        ]

    def snapshot(self) -> Json:
        """Return the Response as it stands, with the text so far of an item that is open."""
        output = [_copy(item) for item in self.response["output"]]
        if self._pieces is not None:
            output[-1]["content"] = [build_text_part("".join(self._pieces))]
        return {**self.response, "output": output}

    def _about_all(self, name: str) -> Json:
        return self._event(name, response=self.snapshot())

    def _about_output(self, name: str, **fields: Any) -> Json:
        return self._event(name, output_index=len(self.response["output"]) - 1, **fields)

    def _abouttext_part(self, name: str, **fields: Any) -> Json:
        item_id = self.response["output"][-1]["id"]
        return self._about_output(name, item_id=item_id, content_index=0, **fields)

    def _event(self, name: str, **fields: Any) -> Json:
        event = {"type": name, "sequence_number": self._number, **fields}
        self._number += 1
        return event


def _copy(item: Json) -> Json:
    return {**item, "content": list(item["content"])}
