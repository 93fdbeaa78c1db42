"""Numbers in a query string: bounded in digits before they are converted, and in value after.

`int()` refuses more than 4,300 digits with a `ValueError` and takes digits of other scripts;
`float()` takes `nan`, `1_0` and `1e400`. None of that is a number here.
"""

from __future__ import annotations

import re

from aiohttp import web

from darkq_gateway.http.errors import ApiError, openai_shape, shape_of

_INTEGER = re.compile(r"[0-9]{1,15}", re.ASCII)
_DECIMAL = re.compile(r"[0-9]{1,15}(\.[0-9]{1,15})?", re.ASCII)


def integer(request: web.Request, name: str, *, default: int, least: int, most: int) -> int:
    """Return a whole number of the query, or `default` where it is not given.

    Raises `ApiError`, which names the parameter and its bounds.
    """
    text = request.query.get(name)
    if text is None:
        return default
    number = whole_number(text, least=least, most=most)
    if number is None:
        raise _refusal(request, name, f"must be a whole number from {least:,} to {most:,}")
    return number


def decimal(request: web.Request, name: str, *, default: float, least: float, most: float) -> float:
    """Return a number of the query, or `default` where it is not given. Raises `ApiError`."""
    text = request.query.get(name)
    if text is None:
        return default
    number = float(text) if _DECIMAL.fullmatch(text) else None
    if number is None or not least <= number <= most:
        raise _refusal(request, name, f"must be a number from {least:g} to {most:g}")
    return number


def whole_number(text: str, *, least: int, most: int) -> int | None:
    """Return a whole number within bounds; None for any other text."""
    number = int(text) if _INTEGER.fullmatch(text) else None
    return number if number is not None and least <= number <= most else None


def _refusal(request: web.Request, name: str, reason: str) -> ApiError:
    if shape_of(request.path) is openai_shape:
        return ApiError(400, "invalid_value", reason, name)
    return ApiError(422, "invalid_query", reason, name)
