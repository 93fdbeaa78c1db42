"""Values of Python's own types, as JSON knows them. No I/O.

Templates and tables give subclasses: Django's `SafeString`, `Markup`, numpy's strings and numbers.
They pass `isinstance`, and the encoder refuses them. So each is replaced where it comes in.
"""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

_EXACT = frozenset((str, bool, int, float, type(None)))


def to_plain(value: Any, depth: int = 0) -> Any:
    """Return a string or number as Python's own type; anything else as it is.

    Containers become plain too, for so many levels. What lies deeper is for the reader to refuse.
    """
    if type(value) in _EXACT:
        return value
    if isinstance(value, str):
        return str.__str__(value)  # what it is, whatever its own __str__ says
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    if depth > 0 and isinstance(value, Mapping):
        return {to_plain(key): to_plain(item, depth - 1) for key, item in value.items()}
    if depth > 0 and isinstance(value, list | tuple):
        return [to_plain(item, depth - 1) for item in value]
    return value
