"""Faults of a response, to test clients.

A fault is written as `NAME[=ARGUMENT]`; `;` separates several. A request asks for one with the
header `x-darkq-fault`, or with a query that starts with `[fault: ...] `. Both work only on a server
that was started with faults.

    reset[=N]        after N chunks (default 1) the connection is reset
    stall[=N]        … nothing more is sent, and the connection stays open
    hang[=N]         … no more text is sent, but the pings continue
    truncate[=N]     … the response ends cleanly, without `stream-end` or `final-response`
    error[=N[:TEXT]] … an `error` event ends the stream
    429              HTTP 429, with an `error` event as its body
    429-in-200       the same body with HTTP 200
    html[=STATUS]    an HTML page, as from a proxy (default 502)
    status=STATUS    that status, with a short JSON body
    slow=SECONDS     a pause before each chunk
    split[=BYTES]    at most this many bytes in each write to the connection (default 1)
    empty            a `final-response` without any text
    final-only       only a `final-response`, with the whole text
    malformed        invalid `data:` lines between the valid ones
    swap             `final-response` before `stream-end`, which has a `thread_id`
    lf, cr           line ends other than CRLF
    bom              a byte order mark at the start
    raw-utf8         the JSON is not ASCII-escaped

A response with fewer than N chunks fails after its last one.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import msgspec

from darkq_local import wire

HEADER = "x-darkq-fault"
_MARKER = re.compile(r"\[fault: ([^\]]*)\] ?")


class InvalidFault(ValueError):
    """The text is not a fault that this server knows."""


class Cut(msgspec.Struct, frozen=True):
    """The response ends early, after `after_chunks`."""

    kind: Literal["reset", "stall", "hang", "truncate", "error"]
    after_chunks: int = 1
    detail: str = wire.AT_CAPACITY


class Refusal(msgspec.Struct, frozen=True):
    """Another response is sent instead."""

    kind: Literal["rate-limit", "html", "json"]
    status: int


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """All faults of one response. The defaults are a response without faults."""

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
        """The format of the events of this response."""
        return wire.Dialect(line_end=self.line_end, ascii_only=self.ascii_only)

    @classmethod
    def parse(cls, text: str) -> Fault:
        """Parse a fault in the format above. Raises `InvalidFault`."""
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
    """Return the fault that a query asks for, if any, and the query without it."""
    match = _MARKER.match(query)
    return (match[1], query[match.end() :]) if match else (None, query)


_Fields: TypeAlias = dict[str, Any]


def _parse_number(argument: str, default: int, least: int = 0, most: int = sys.maxsize) -> int:
    number = int(argument or default)
    if not least <= number <= most:
        raise ValueError
    return number


def _cut(kind: Literal["reset", "stall", "hang", "truncate"]) -> Callable[[str], _Fields]:
    return lambda argument: {"cut": Cut(kind, _parse_number(argument, 1))}


def _parse_error(argument: str) -> _Fields:
    chunks, _, detail = argument.partition(":")
    return {"cut": Cut("error", _parse_number(chunks, 1), detail or wire.AT_CAPACITY)}


def _refusal(kind: Literal["rate-limit", "html", "json"], status: int) -> Callable[[str], _Fields]:
    return lambda argument: {"refusal": Refusal(kind, _parse_number(argument, status, 200, 599))}


def _parse_slow(argument: str) -> _Fields:
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
    "error": _parse_error,
    "429": _refusal("rate-limit", 429),
    "429-in-200": _refusal("rate-limit", 200),
    "html": _refusal("html", 502),
    "status": _refusal("json", 500),
    "slow": _parse_slow,
    "split": lambda argument: {"split_bytes": _parse_number(argument, 1, least=1)},
    "empty": _plain(empty=True),
    "final-only": _plain(final_only=True),
    "malformed": _plain(malformed=True),
    "swap": _plain(swap=True),
    "bom": _plain(bom=True),
    "lf": _plain(line_end="\n"),
    "cr": _plain(line_end="\r"),
    "raw-utf8": _plain(ascii_only=False),
}
