"""Parsers of settings: limit windows such as `4/60,30/1800`, partitions such as `0-3,7`, secrets.

A call needs room in all limit windows.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from pydantic import AfterValidator, SecretStr

from darkq.protocol.keys import MAX_PARTITIONS

T = TypeVar("T", str, SecretStr)

MAX_WINDOWS = 8
_MAX_COUNT = 1_000_000
_MAX_LENGTH_S = 30 * 24 * 3600
_WINDOW = re.compile(r"([0-9]{1,7})/([0-9]{1,7}(?:\.[0-9]{1,3})?)")


class Window(NamedTuple):
    """At most `calls` calls within any `length_s` seconds."""

    calls: int
    length_s: float


def parse_windows(text: str) -> tuple[Window, ...]:
    """Read windows as count/seconds, such as `4/60,30/1800`; `none` means no window.

    Returns the shortest first. Raises `ValueError`.
    """
    if text.strip().lower() == "none":
        return ()
    windows = [_parse(part.strip()) for part in text.split(",")]
    if len(windows) > MAX_WINDOWS:
        raise ValueError(f"has more than {MAX_WINDOWS} windows")
    return tuple(sorted(windows, key=lambda window: window.length_s))


def _parse(text: str) -> Window:
    match = _WINDOW.fullmatch(text)
    if match is None:
        raise ValueError("is none of: count/seconds, as in 4/60,30/1800; none")
    window = Window(int(match[1]), float(match[2]))
    if not (1 <= window.calls <= _MAX_COUNT and 0 < window.length_s <= _MAX_LENGTH_S):
        raise ValueError(f"has a window that is not 1 to {_MAX_COUNT:,} calls in up to 30 days")
    return window


_RANGE = re.compile(r"([0-9]{1,4})(?:-([0-9]{1,4}))?")


def parse_partitions(text: str) -> tuple[int, ...]:
    """Read numbers and ranges with commas; return them sorted, each once. Raises `ValueError`."""
    found: set[int] = set()
    for part in text.split(","):
        match = _RANGE.fullmatch(part.strip())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not first <= last < MAX_PARTITIONS:
            raise ValueError(f"must be partitions below {MAX_PARTITIONS} like 0-3,7")
        found.update(range(first, last + 1))
    return tuple(sorted(found))


MIN_SECRET_CHARS = 32
_MAX_SECRETS = 16


def parse_ticket_secrets(text: str) -> tuple[bytes, ...]:
    """Read secrets that are separated by commas or white space. Raises `ValueError`."""
    found = tuple(text.replace(",", " ").split())
    if not 0 < len(found) <= _MAX_SECRETS:
        raise ValueError(f"must be 1 to {_MAX_SECRETS} secrets, separated by commas")
    if any(len(each) < MIN_SECRET_CHARS for each in found):
        raise ValueError(f"must be secrets of at least {MIN_SECRET_CHARS} characters each")
    return tuple(each.encode() for each in found)


def parses(parse: Callable[[str], object]) -> AfterValidator:
    """Return a validator of a setting that stays a text or a secret, if it can be parsed."""

    def check(value: T) -> T:
        parse(value.get_secret_value() if isinstance(value, SecretStr) else value)
        return value

    return AfterValidator(check)
