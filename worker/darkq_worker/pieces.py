"""Pieces of an answer, from an upstream into the event log. No I/O.

Nearly all pieces are text, and these are plain strings. Any other one is a `Piece`: reasoning, a
part of a tool call, a refusal, or text with log probabilities or annotations.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any, Final, Literal, TypeAlias

import msgspec
from msgspec import UNSET, UnsetType

from darkq import event as ev
from darkq.protocol.history import VERBATIM
from darkq.protocol.record import BeyondText, FunctionCall

Kind: TypeAlias = Literal["chunk", "reasoning", "tool_call", "refusal"]
_USUAL_ORDER: Final = ("reasoning", "chunk", "refusal", "tool_call")


class Piece(msgspec.Struct, frozen=True, kw_only=True):
    """A piece that is more than text. `text` of a tool call is a part of its arguments.

    `call_id` and `name` are set in the first piece of a call. `extra_bytes` is the size of
    `logprobs` and `annotations` as JSON.
    """

    kind: Kind
    text: str = ""
    index: int = 0
    call_id: str = ""
    name: str = ""
    logprobs: dict[str, Any] | None = None
    annotations: list[Any] | None = None
    extra_bytes: int = 0

    def __len__(self) -> int:
        """Return the number of characters to count in a budget, at least one."""
        return max(1, len(self.text) + len(self.call_id) + len(self.name) + self.extra_bytes)

    def __repr__(self) -> str:
        return f"Piece(kind={self.kind!r}, chars={len(self.text)})"


AnyPiece: TypeAlias = str | Piece


def count_joined(pieces: Sequence[AnyPiece], max_chars: int) -> int:
    """Return how many of the first pieces may become one event of at most `max_chars`.

    These are neighbours of the same kind, and of the same tool call. At least one.
    """
    first, chars = pieces[0], len(pieces[0])
    is_text = type(first) is str
    for number in range(1, len(pieces)):
        piece = pieces[number]
        chars += len(piece)
        if chars > max_chars or not (type(piece) is str if is_text else _continues(first, piece)):
            return number
    return len(pieces)


def join(pieces: Sequence[AnyPiece]) -> AnyPiece:
    """Return the pieces as one. Takes what `count_joined` counted."""
    first = pieces[0]
    if isinstance(first, str):
        return "".join(pieces)  # type: ignore[arg-type]  # the others are strings, too
    text = "".join(piece.text for piece in pieces if isinstance(piece, Piece))
    return msgspec.structs.replace(first, text=text)


def _continues(first: AnyPiece, piece: AnyPiece) -> bool:
    if isinstance(first, str) or isinstance(piece, str):
        return isinstance(first, str) and isinstance(piece, str)
    return (
        (first.kind, first.index) == (piece.kind, piece.index)
        and not (piece.call_id or piece.name)
        and not (first.extra_bytes or piece.extra_bytes)
    )


def make_event(id_: str, piece: AnyPiece, *, merged: int, at_ms: int) -> ev.Piece:
    """Return the event of a piece; `merged` pieces of the upstream are in it."""
    if isinstance(piece, str):
        return ev.Chunk(id=id_, text=piece, merged=merged, at_ms=at_ms)
    match piece.kind:
        case "chunk":
            return ev.Chunk(
                id=id_,
                text=piece.text,
                merged=merged,
                at_ms=at_ms,
                logprobs=piece.logprobs,
                annotations=piece.annotations,
            )
        case "reasoning":
            return ev.Reasoning(id=id_, text=piece.text, merged=merged, at_ms=at_ms)
        case "refusal":
            return ev.Refusal(id=id_, text=piece.text, merged=merged, at_ms=at_ms)
        case "tool_call":
            return ev.ToolCall(
                id=id_,
                index=piece.index,
                arguments=piece.text,
                call_id=piece.call_id,
                name=piece.name,
                merged=merged,
                at_ms=at_ms,
            )


def assemble(pieces: Iterable[AnyPiece]) -> tuple[str, BeyondText | UnsetType]:
    """Return the text of a whole answer, and what it has beside it."""
    pieces = list(pieces)
    texts: list[str] = []
    others: list[Piece] = []
    for piece in pieces:
        if isinstance(piece, str):
            texts.append(piece)
            continue
        others.append(piece)
        if piece.kind == "chunk":
            texts.append(piece.text)
    if not others:
        return "".join(texts), UNSET
    return "".join(texts), _assemble_beyond(others, _outline(pieces))


def _outline(pieces: Sequence[AnyPiece]) -> tuple[tuple[str, int], ...]:
    """Return the order in which the parts of an answer began, see `BeyondText`; () if it is usual.

    Reasoning after another piece is a part of its own.
    """
    outline: list[tuple[Kind, int]] = []
    calls: list[int] = []
    last: Kind | None = None
    for piece in pieces:
        if isinstance(piece, str):
            part: tuple[Kind, int] = ("chunk", 0)
        elif piece.kind == "reasoning":
            before = outline.pop()[1] if last == "reasoning" else 0
            part = (piece.kind, before + len(piece.text))
        elif piece.kind == "tool_call":
            calls += [] if piece.index in calls else [piece.index]
            part = (piece.kind, calls.index(piece.index))
        else:
            part = (piece.kind, 0)
        last = part[0]
        if last == "reasoning" or part not in outline:
            outline.append(part)
    usual = sorted(outline, key=lambda part: _USUAL_ORDER.index(part[0]))
    reasonings = [kind for kind, _ in outline].count("reasoning")
    return () if outline == usual and reasonings < 2 else tuple(outline)


def _assemble_beyond(pieces: Sequence[Piece], outline: tuple[tuple[str, int], ...]) -> BeyondText:
    calls = dict.fromkeys(piece.index for piece in pieces if piece.kind == "tool_call")
    logprobs = [token for piece in pieces for token in (piece.logprobs or {}).get("content") or ()]
    annotations = [each for piece in pieces for each in piece.annotations or ()]
    return BeyondText(
        reasoning=_join_texts(pieces, "reasoning"),
        tool_calls=tuple(_assemble_call(pieces, index) for index in calls),
        refusal=_join_texts(pieces, "refusal"),
        logprobs={"content": logprobs} if logprobs else None,
        annotations=annotations or None,
        outline=outline,
    )


def _assemble_call(pieces: Sequence[Piece], index: int) -> FunctionCall:
    of_call = [piece for piece in pieces if piece.kind == "tool_call" and piece.index == index]
    first = of_call[0]
    arguments = "".join(piece.text for piece in of_call)
    return FunctionCall(id=first.call_id, name=first.name, arguments=arguments)


def _join_texts(pieces: Sequence[Piece], kind: Kind) -> str:
    return "".join(piece.text for piece in pieces if piece.kind == kind)


def find_stretches(pieces: Sequence[AnyPiece]) -> Iterator[tuple[str, int, list[int]]]:
    """Yield the stretches of a history: kind, index of the tool call, sizes of the texts."""
    calls: set[int] = set()

    def place(piece: AnyPiece) -> tuple[str, int]:
        if isinstance(piece, str):
            return "chunk", 0
        begins = piece.index not in calls
        if piece.kind == "tool_call":
            calls.add(piece.index)
        # A result has id and name of a call once, for its first piece.
        repeats = not begins and (piece.call_id or piece.name)
        if piece.logprobs or piece.annotations or repeats:
            return VERBATIM, 0
        return piece.kind, piece.index

    for (kind, index), stretch in groupby(pieces, place):
        sizes = [len(each) if isinstance(each, str) else len(each.text) for each in stretch]
        yield kind, index, sizes
