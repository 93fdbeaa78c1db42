"""Conversion of values to Python's built-in types. No I/O.

Web frameworks and data tools pass subclasses: Django's `SafeString`, `Markup`, numpy's strings and
numbers. They pass `isinstance`, but the JSON encoder rejects them, so we convert all input.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from numbers import Integral, Real
from typing import Any

from darkq.errors import InvalidJob

_EXACT = frozenset((str, bool, int, float, type(None)))
_MAX_INT_BITS = 64


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


def check_json(field: str, value: object, depth: int) -> None:
    """Raise `InvalidJob` for a value that JSON does not have, or that is nested too deep.

    Takes a result of `to_plain`. A number that is not finite has no JSON either.
    """
    if depth < 0:
        raise InvalidJob(field, "is nested too deep")
    if isinstance(value, dict):
        for name, item in value.items():
            if type(name) is not str:
                raise InvalidJob(field, "must have names that are strings")
            check_json(field, item, depth - 1)
    elif isinstance(value, list):
        for item in value:
            check_json(field, item, depth - 1)
    elif type(value) is float and not isfinite(value):
        raise InvalidJob(field, "has a number that JSON does not have")
    elif type(value) is int and value.bit_length() > _MAX_INT_BITS:
        raise InvalidJob(field, "has a number that is too large")
    elif type(value) not in _EXACT:
        raise InvalidJob(field, f"has a value of a type without JSON: {type(value).__name__}")
