"""The output items of a Response, as they grow piece by piece. No I/O.

    message         parts of text and of a refusal
    reasoning       one part of text; models reason several times, and each time is an item
    function_call   a call, with its arguments

The id of an item consists of its job, its attempt and its number, so that every process makes the
same, and an item can be found by it: `ITEM_ID`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, Literal, TypeAlias

from darkq.event import Chunk, Piece, Reasoning, Refusal, ToolCall

Json: TypeAlias = dict[str, Any]
ItemKind: TypeAlias = Literal["message", "reasoning", "function_call"]
PartKind: TypeAlias = Literal["output_text", "refusal", "reasoning_text"]

ITEM_ID: Final = re.compile(r"(?:msg|rs|fc)_([0-9]{1,4}-[0-9a-f]{32})_[0-9]{1,9}(?:_[0-9]{1,9})?")
"""The id of an item. Its group is the id of the job."""

ITEM_KINDS: Final[Mapping[type[Piece], ItemKind]] = {
    Chunk: "message",
    Refusal: "message",
    Reasoning: "reasoning",
    ToolCall: "function_call",
}
PART_KINDS: Final[Mapping[type[Piece], PartKind]] = {
    Chunk: "output_text",
    Refusal: "refusal",
    Reasoning: "reasoning_text",
}
_PREFIXES: Final = {"reasoning": "rs", "function_call": "fc"}


def make_item_id(kind: ItemKind, job_id: str, attempt: int, number: int) -> str:
    """Return the id of an attempt's item. An attempt has one message, and numbers other items."""
    if kind == "message":
        return f"msg_{job_id}_{attempt}"
    return f"{_PREFIXES[kind]}_{job_id}_{attempt}_{number}"


class Part:
    """A part of an item's content. `name` is the field that has its text."""

    def __init__(self, kind: PartKind) -> None:
        self.kind = kind
        self.name = "refusal" if kind == "refusal" else "text"
        self.pieces: list[str] = []
        self.logprobs: list[Json] = []
        self.annotations: list[Json] = []

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    def build(self) -> Json:
        """Return the part as it is now."""
        built: Json = {"type": self.kind, self.name: self.text}
        if self.kind == "output_text":
            built |= {"annotations": list(self.annotations), "logprobs": list(self.logprobs)}
        return built


class Item:
    """An output item. `status` is that of the wire; `index` is its place in the output."""

    def __init__(self, kind: ItemKind, item_id: str, index: int) -> None:
        self.kind: ItemKind = kind
        self.id = item_id
        self.index = index
        self.status = "in_progress"
        self.parts: list[Part] = []
        self.arguments: list[str] = []
        self.call_id = self.name = ""
        self._is_void = False

    def void(self) -> None:
        """Empty an item of a lost attempt.

        A call becomes an empty message: programs run the calls of an output whatever their status.
        """
        self._is_void = True
        self.parts = []

    def find_part(self, kind: PartKind) -> tuple[int, bool]:
        """Return the number of the part of a kind, and whether it is new."""
        for number, part in enumerate(self.parts):
            if part.kind == kind:
                return number, False
        self.parts.append(Part(kind))
        return len(self.parts) - 1, True

    def build(self) -> Json:
        """Return the item as it is now."""
        head = {"id": self.id, "type": self.kind, "status": self.status}
        content = [part.build() for part in self.parts]
        if self.kind == "reasoning":
            return {**head, "summary": [], "content": content}
        if self.kind == "function_call" and not self._is_void:
            arguments = "".join(self.arguments)
            return {**head, "call_id": self.call_id, "name": self.name, "arguments": arguments}
        return {**head, "type": "message", "role": "assistant", "content": content}


def read_logprobs(piece: Chunk) -> list[Json]:
    """Return the log probabilities of a chunk, with all fields that Responses require."""
    return [
        {
            **_read_token(token),
            "top_logprobs": [_read_token(top) for top in _find_tokens(token.get("top_logprobs"))],
        }
        for token in _find_tokens((piece.logprobs or {}).get("content"))
    ]


def _find_tokens(listed: object) -> list[Json]:
    return [
        token
        for token in (listed if isinstance(listed, list) else ())
        if isinstance(token, dict)
        and isinstance(token.get("token"), str)
        and isinstance(token.get("logprob"), int | float)
    ]


def _read_token(token: Json) -> Json:
    numbers = token.get("bytes")
    if not isinstance(numbers, list):  # some services leave them out
        numbers = list(token["token"].encode())
    return {"token": token["token"], "logprob": token["logprob"], "bytes": numbers}


def read_annotations(piece: Chunk) -> list[Json]:
    """Return the citations of a chunk. Responses know no annotation that a chat could have else."""
    return [
        found for each in piece.annotations or () if (found := _read_annotation(each)) is not None
    ]


def _read_annotation(annotation: object) -> Json | None:
    if not isinstance(annotation, dict) or annotation.get("type") != "url_citation":
        return None
    cited = annotation.get("url_citation", annotation)
    if not isinstance(cited, dict) or not isinstance(cited.get("url"), str):
        return None
    title, start, end = (cited.get(name) for name in ("title", "start_index", "end_index"))
    return {
        "type": "url_citation",
        "url": cited["url"],
        "title": title if isinstance(title, str) else "",
        "start_index": start if isinstance(start, int) else 0,
        "end_index": end if isinstance(end, int) else 0,
    }
