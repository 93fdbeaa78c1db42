"""Objects as the events of a stream. An event without its blank line would be lost."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

DONE = b"data: [DONE]\n\n"


def unnamed(objects: Iterable[dict[str, Any]]) -> bytes:
    """Chat's events have no name."""
    return b"".join(b"data: %b\n\n" % msgspec.json.encode(each) for each in objects)


def named(objects: Iterable[dict[str, Any]]) -> bytes:
    """The events of a Response have the name of their type."""
    return b"".join(
        b"event: %b\ndata: %b\n\n" % (each["type"].encode(), msgspec.json.encode(each))
        for each in objects
    )
