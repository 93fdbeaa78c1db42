"""What can be wrong with an answer, on purpose: the failures that a client must survive.

A fault is written as `NAME[=ARGUMENT]`, several joined by `;`. A request asks for one with
the header `x-darkq-fault`, or by a query that starts with `[fault: ...] `. Both work only on
a server that was started with faults on.

    reset[=N]        after N chunks (default 1) the connection is reset
    stall[=N]        … nothing more is sent, and the connection stays open
    hang[=N]         … no more text is sent, but the pings go on
    truncate[=N]     … the response ends cleanly, without `stream-end` or `final-response`
    error[=N[:TEXT]] … an `error` event ends the stream
    429              HTTP 429, with an `error` event as its body
    429-in-200       the same body with HTTP 200
    html[=STATUS]    an HTML page as a proxy in front of the server sends it (default 502)
    status=STATUS    that status, with a short JSON body
    slow=SECONDS     a pause before each chunk
    split[=BYTES]    each write to the connection has at most so many bytes (default 1)
    empty            no text at all, and yet a `final-response`
    final-only       the whole text in `final-response`, and nothing before it
    malformed        broken `data:` lines among the good ones
    swap             `final-response` before `stream-end`, which has a `thread_id`
    lf, cr           lines end so, instead of in CRLF
    bom              a byte order mark comes first
    raw-utf8         the JSON is not ASCII-escaped

N counts up to the answer's end: an answer with fewer chunks fails after its last one.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import msgspec

from darkq_local import wire

HEADER = "x-darkq-fault"
_MARKER = re.compile(r"\[fault: ([^\]]*)\] ?")


class InvalidFault(ValueError):
    """Not a fault that this server knows."""


class Cut(msgspec.Struct, frozen=True):
    """The answer breaks off after so many chunks."""

    kind: Literal["reset", "stall", "hang", "truncate", "error"]
    after_chunks: int = 1
    detail: str = wire.AT_CAPACITY


class Refusal(msgspec.Struct, frozen=True):
    """No answer at all: another response takes its place."""

    kind: Literal["rate-limit", "html", "json"]
    status: int


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is wrong with one answer. The defaults are an answer in good health."""

    cut: Cut | None = None
    refusal: Refusal | None = None
    pause_s: float = 0.0
    split_bytes: int | None = None
    empty: bool = False
    final_only: bool = False
    malformed: bool = False
    swap: bool = False
    bom: bool = False
    line_end: str = "\r\n"
    ascii_only: bool = True

    @property
    def dialect(self) -> wire.Dialect:
        """How this answer's events become bytes."""
        return wire.Dialect(line_end=self.line_end, ascii_only=self.ascii_only)

    @classmethod
    def parse(cls, text: str) -> Fault:
        """Read a fault as written above. Raises `InvalidFault`."""
        fields: dict[str, Any] = {}
        for part in filter(None, (part.strip() for part in text.split(";"))):
            name, _, argument = part.partition("=")
            if name not in _FAULTS:
                raise InvalidFault(f"unknown fault {name!r}; known: {', '.join(_FAULTS)}")
            try:
                fields |= _FAULTS[name](argument)
            except ValueError:
                raise InvalidFault(f"fault {name!r} does not take {argument!r}") from None
        return cls(**fields)


def split_marker(query: str) -> tuple[str | None, str]:
    """The fault that a query asks for, if it does, and the query without that."""
    match = _MARKER.match(query)
    return (match[1], query[match.end() :]) if match else (None, query)


_Fields: TypeAlias = dict[str, Any]


def _natural(argument: str, default: int) -> int:
    number = int(argument or default)
    if number < 0:
        raise ValueError
    return number


def _cut(kind: Literal["reset", "stall", "hang", "truncate"]) -> Callable[[str], _Fields]:
    return lambda argument: {"cut": Cut(kind, _natural(argument, 1))}


def _error(argument: str) -> _Fields:
    chunks, _, detail = argument.partition(":")
    return {"cut": Cut("error", _natural(chunks, 1), detail or wire.AT_CAPACITY)}


def _refusal(kind: Literal["rate-limit", "html", "json"], status: int) -> Callable[[str], _Fields]:
    return lambda argument: {"refusal": Refusal(kind, _status(argument, status))}


def _status(argument: str, default: int) -> int:
    status = int(argument or default)
    if not 200 <= status <= 599:
        raise ValueError
    return status


def _split(argument: str) -> _Fields:
    size = _natural(argument, 1)
    if size == 0:
        raise ValueError
    return {"split_bytes": size}


def _slow(argument: str) -> _Fields:
    pause_s = float(argument)
    if not 0 <= pause_s <= 3600:
        raise ValueError
    return {"pause_s": pause_s}


def _plain(**fields: Any) -> Callable[[str], _Fields]:
    def parse(argument: str) -> _Fields:
        if argument:
            raise ValueError
        return fields

    return parse


_FAULTS: dict[str, Callable[[str], _Fields]] = {
    "reset": _cut("reset"),
    "stall": _cut("stall"),
    "hang": _cut("hang"),
    "truncate": _cut("truncate"),
    "error": _error,
    "429": _refusal("rate-limit", 429),
    "429-in-200": _refusal("rate-limit", 200),
    "html": _refusal("html", 502),
    "status": _refusal("json", 500),
    "slow": _slow,
    "split": _split,
    "empty": _plain(empty=True),
    "final-only": _plain(final_only=True),
    "malformed": _plain(malformed=True),
    "swap": _plain(swap=True),
    "bom": _plain(bom=True),
    "lf": _plain(line_end="\n"),
    "cr": _plain(line_end="\r"),
    "raw-utf8": _plain(ascii_only=False),
}
