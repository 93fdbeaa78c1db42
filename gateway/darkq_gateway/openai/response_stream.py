"""A job's events as the events of a Response. No I/O.

    queued      response.created, response.queued
    started     response.in_progress; an output item and its text part are added
    chunk       response.output_text.delta
    retrying    the item ends as incomplete; the next `started` adds another one
    completed   the item ends as completed; response.completed. If the answer was truncated or
                filtered, the item ends as incomplete; response.incomplete

After a retry the item of the lost attempt remains, incomplete and without text. So a client that
joins the texts of all items, as `output_text` of the SDK does, gets the text of one attempt.

The same events of a job always give the same events of a Response, with the same numbers, in every
process. So a client can resume with any number that it has seen, and the Response is not stored.

The API has no event for a cancelled Response: the stream ends with `response.incomplete`, and the
`status` of the Response is `cancelled`.
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
from darkq_gateway.openai.request import make_job_error

Json: TypeAlias = dict[str, Any]

_ERROR_CODES = {"rate_limited": "rate_limit_exceeded", "rejected": "invalid_prompt"}
"""The API's error codes. An error that the request did not cause is a `server_error`."""


class ResponseStream:
    """Builds one Response. `response` is its state after the events so far."""

    def __init__(self, response_id: str, *, asked: Json) -> None:
        """`asked` has the fields that a Response repeats of its request."""
        self.asked = asked
        self.has_text = False
        """Whether there was an event with text, or the end of an answer."""
        self.failure: ApiError | None = None
        """The error, if the job failed or was cancelled."""
        self.response: Json = build_response(response_id) | asked
        self._number = 0
        self._pieces: list[str] | None = None
        """The text of the open item; None if no item is open."""

    def feed(self, event: AnyEvent) -> list[Json]:
        """Return the events for one event of the job, possibly none."""
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
                self.failure = make_job_error("cancelled", "the job was cancelled", RESPONSES)
                return self._end("cancelled", "response.incomplete", event.at_ms)
        return []

    def _failed(self, event: Failed) -> list[Json]:
        error = build_job_error(event.code, event.message, RESPONSES)
        self.failure = make_job_error(event.code, event.message, RESPONSES)
        code = _ERROR_CODES.get(error.code, error.code)
        self.response["error"] = {
            "code": code if error.status < HTTPStatus.INTERNAL_SERVER_ERROR else "server_error",
            "message": error.named_message,
            "type": error.type,
            "param": error.param,
        }
        return self._end("failed", "response.failed", event.at_ms)

    def _queued(self, event: Queued) -> list[Json]:
        if self.response["created_at"]:  # a failed job is retried
            return []
        self.response["created_at"] = event.at_ms // 1000
        return [
            self._make_response_event("response.created"),
            self._make_response_event("response.queued"),
        ]

    def _started(self, event: Started) -> list[Json]:
        events = self._close_item("incomplete")
        self.response.update(status="in_progress", model=event.model, error=None)
        self.failure = None
        for lost in self.response["output"]:  # else `output_text` would contain it
            lost["content"] = []
        if not self.response["output"]:
            events.append(self._make_response_event("response.in_progress"))
        item = {
            "id": item_id(self.response["id"].removeprefix("resp_"), event.attempt),
            "type": "message",
            "role": "assistant",
            "status": "in_progress",
            "content": [],
        }
        self.response["output"].append(item)
        self._pieces = []
        events.append(self._make_item_event("response.output_item.added", item=_copy_item(item)))
        events.append(
            self._make_part_event("response.content_part.added", part=build_text_part(""))
        )
        return events

    def _chunk(self, event: Chunk) -> list[Json]:
        if self._pieces is None:
            return []
        self._pieces.append(event.text)
        self.has_text = True
        return [self._make_part_event("response.output_text.delta", delta=event.text, logprobs=[])]

    def _completed(self, event: Completed) -> list[Json]:
        self.response["usage"] = build_usage(event.usage)
        self.has_text = True
        if (reason := INCOMPLETE_REASONS.get(event.finish_reason)) is not None:
            self.response["incomplete_details"] = {"reason": reason}
            return self._end("incomplete", "response.incomplete", event.at_ms)
        events = self._close_item("completed")
        self.response["completed_at"] = event.at_ms // 1000
        return events + self._end("completed", "response.completed", event.at_ms)

    def _end(self, status: str, name: str, at_ms: int) -> list[Json]:
        events = self._close_item("incomplete")
        self.response["status"] = status
        return [*events, self._make_response_event(name)]

    def _close_item(self, status: str) -> list[Json]:
        if self._pieces is None:
            return []
        text, self._pieces = "".join(self._pieces), None
        item = self.response["output"][-1]
        item.update(status=status, content=[build_text_part(text)])
        return [
            self._make_part_event("response.output_text.done", text=text, logprobs=[]),
            self._make_part_event("response.content_part.done", part=build_text_part(text)),
            self._make_item_event("response.output_item.done", item=_copy_item(item)),
        ]

    def snapshot(self) -> Json:
        """Return the Response now, with the text so far of an open item."""
        output = [_copy_item(item) for item in self.response["output"]]
        if self._pieces is not None:
            output[-1]["content"] = [build_text_part("".join(self._pieces))]
        return {**self.response, "output": output}

    def _make_response_event(self, name: str) -> Json:
        return self._make_event(name, response=self.snapshot())

    def _make_item_event(self, name: str, **fields: Any) -> Json:
        return self._make_event(name, output_index=len(self.response["output"]) - 1, **fields)

    def _make_part_event(self, name: str, **fields: Any) -> Json:
        item_id = self.response["output"][-1]["id"]
        return self._make_item_event(name, item_id=item_id, content_index=0, **fields)

    def _make_event(self, name: str, **fields: Any) -> Json:
        event = {"type": name, "sequence_number": self._number, **fields}
        self._number += 1
        return event


def _copy_item(item: Json) -> Json:
    return {**item, "content": list(item["content"])}
