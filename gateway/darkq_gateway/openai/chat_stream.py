"""A job's events as the chunks of a chat completion. No I/O.

The wire of chat has no way to take back what was said. So when an attempt that has spoken is
lost and another begins, the stream ends with an error: two attempts are never joined.
"""

from __future__ import annotations

from typing import Any, TypeAlias

from darkq import AnyEvent, Cancelled, Chunk, Completed, Failed, Started, Usage

Json: TypeAlias = dict[str, Any]


class Interrupted(Exception):
    """The stream cannot go on; `code` and `message` are for the client."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code)
        self.code = code
        self.message = message


class ChatStream:
    """The chunks of one completion.

    `has_spoken` tells that one with text has been made, `ended` that the last one has.
    """

    def __init__(self, completion_id: str, created: int, *, include_usage: bool) -> None:
        self.ended = False
        self._id = completion_id
        self._created = created
        self._include_usage = include_usage
        self._model = ""
        self.has_spoken = False
        self._has_begun = False

    def feed(self, event: AnyEvent) -> list[Json]:
        """Return the chunks that one event of the job makes.

        Raises `Interrupted` when the answer cannot be completed.
        """
        match event:
            case Started():
                return self._started(event)
            case Chunk():
                self.has_spoken = True
                return [self._chunk({"content": event.text})]
            case Completed():
                return self._completed(event)
            case Failed():
                raise Interrupted(event.code, event.message)
            case Cancelled():
                raise Interrupted("cancelled", "the job was cancelled")
        return []

    def _started(self, event: Started) -> list[Json]:
        if self.has_spoken:
            message = (
                "the attempt that gave this text was lost; the whole answer must be asked anew"
            )
            raise Interrupted("attempt_superseded", message)
        self._model = event.model
        if self._has_begun:
            return []
        self._has_begun = True
        return [self._chunk({"role": "assistant", "content": "", "refusal": None})]

    def _completed(self, event: Completed) -> list[Json]:
        self.ended = True
        chunks = [self._chunk({}, finish_reason=finish_reason(event.finish_reason))]
        if self._include_usage and event.usage is not None:
            last = self._chunk({})
            chunks.append({**last, "choices": [], "usage": usage_object(event.usage)})
        return chunks

    def _chunk(self, delta: Json, finish_reason: str | None = None) -> Json:
        chunk: Json = {
            "id": self._id,
            "object": "chat.completion.chunk",
            "created": self._created,
            "model": self._model,
            "choices": [
                {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
            ],
        }
        if self._include_usage:
            chunk["usage"] = None
        return chunk


def usage_object(usage: Usage) -> Json:
    """Return token counts in chat's words."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def finish_reason(reason: str) -> str:
    """Return an upstream's reason in the API's words: what it does not know is a plain stop."""
    return reason if reason in ("stop", "length", "content_filter") else "stop"
