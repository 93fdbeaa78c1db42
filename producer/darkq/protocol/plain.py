"""Conversion of values to Python's built-in types. No I/O.

Web frameworks and data tools pass subclasses: Django's `SafeString`, `Markup`, numpy's strings and
numbers. They pass `isinstance`, but the JSON encoder rejects them, so we convert all input.
"""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

_EXACT = frozenset((str, bool, int, float, type(None)))


def to_plain(value: Any, depth: int = 0) -> Any:
    """Return a string or number as a built-in type, and any other value unchanged.

    Containers are converted down to `depth` levels. Deeper values are left for validation.
    """
    if type(value) in _EXACT:
        return value
    if isinstance(value, str):
        return str.__str__(value)  # a subclass may override __str__
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    if depth > 0 and isinstance(value, Mapping):
        return {to_plain(key): to_plain(item, depth - 1) for key, item in value.items()}
    if depth > 0 and isinstance(value, list | tuple):
        return [to_plain(item, depth - 1) for item in value]
    return value
