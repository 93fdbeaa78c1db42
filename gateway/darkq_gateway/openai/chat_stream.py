"""A job's events as the chunks of a chat completion. No I/O.

The chat API cannot revoke what was sent. So if an attempt that has sent a piece of its answer is
lost and another one begins, the stream ends with an error: two attempts are never joined.
"""

from __future__ import annotations

from typing import Any, TypeAlias

from darkq import AnyEvent, Cancelled, Chunk, Completed, Failed, Started
from darkq.event import Piece, Reasoning, Refusal, ToolCall
from darkq.openai.chat import build_delta, build_logprobs, chat_usage, map_finish_reason

Json: TypeAlias = dict[str, Any]


class Interrupted(Exception):
    """The stream must end; `code` and `message` are for the client."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code)
        self.code = code
        self.message = message


class ChatStream:
    """The chunks of one completion.

    `has_answer` is True after the first piece of the answer, `ended` after the last chunk.
    """

    def __init__(self, completion_id: str, created: int, *, include_usage: bool) -> None:
        self.ended = False
        self._id = completion_id
        self._created = created
        self._include_usage = include_usage
        self._model = ""
        self.has_answer = False

    def feed(self, event: AnyEvent) -> list[Json]:
        """Return the chunks for one event of the job.

        Raises `Interrupted` if the answer cannot be completed.
        """
        match event:
            case Started():
                return self._started(event)
            case Chunk() | Reasoning() | Refusal() | ToolCall():
                return self._piece(event)
            case Completed():
                return self._completed(event)
            case Failed():
                raise Interrupted(event.code, event.message)
            case Cancelled():
                raise Interrupted("cancelled", "the job was cancelled")
        return []

    def _started(self, event: Started) -> list[Json]:
        if self.has_answer:
            message = "the attempt that generated this text was lost; repeat the request"
            raise Interrupted("attempt_superseded", message)
        self._model = event.model
        return []

    def _piece(self, piece: Piece) -> list[Json]:
        logprobs = piece.logprobs if isinstance(piece, Chunk) else None
        chunk = self._chunk(build_delta(piece), logprobs=build_logprobs(logprobs))
        if self.has_answer:
            return [chunk]
        self.has_answer = True
        # `content` stays null if there will be no text, as in a call of a tool.
        content = "" if isinstance(piece, Chunk) else None
        first = {"role": "assistant", "content": content, "refusal": None}
        return [self._chunk(first), chunk]

    def _completed(self, event: Completed) -> list[Json]:
        self.ended = True
        chunks = [self._chunk({}, finish_reason=map_finish_reason(event.finish_reason))]
        if self._include_usage and event.usage is not None:
            last = self._chunk({})
            chunks.append({**last, "choices": [], "usage": chat_usage(event.usage)})
        return chunks

    def _chunk(
        self, delta: Json, *, finish_reason: str | None = None, logprobs: Json | None = None
    ) -> Json:
        chunk: Json = {
            "id": self._id,
            "object": "chat.completion.chunk",
            "created": self._created,
            "model": self._model,
            "choices": [
                {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
            ],
        }
        if self._include_usage:
            chunk["usage"] = None
        return chunk
