"""Numbers in a query string. Their digits are bounded before conversion, their value after it.

`int()` raises `ValueError` for more than 4,300 digits and accepts digits of other scripts;
`float()` accepts `nan`, `1_0` and `1e400`. All of these are refused here.
"""

from __future__ import annotations

import re

from aiohttp import web

from darkq_gateway.http.errors import ApiError, is_openai

_INTEGER = re.compile(r"[0-9]{1,15}", re.ASCII)
_DECIMAL = re.compile(r"[0-9]{1,15}(\.[0-9]{1,15})?", re.ASCII)


def read_integer(request: web.Request, name: str, *, default: int, least: int, most: int) -> int:
    """Return an integer of the query, or `default` if it is absent.

    Raises `ApiError` with the parameter and its bounds.
    """
    text = request.query.get(name)
    number = default if text is None else parse_integer(text, least=least, most=most)
    if number is None:
        raise _make_error(request, name, f"must be a whole number from {least:,} to {most:,}")
    return number


def read_decimal(
    request: web.Request, name: str, *, default: float, least: float, most: float
) -> float:
    """Return a number of the query, or `default` if it is absent. Raises `ApiError`."""
    text = request.query.get(name)
    if text is None:
        return default
    number = float(text) if _DECIMAL.fullmatch(text) else None
    if number is None or not least <= number <= most:
        raise _make_error(request, name, f"must be a number from {least:g} to {most:g}")
    return number


def parse_integer(text: str, *, least: int, most: int) -> int | None:
    """Return an integer within bounds; None for any other text."""
    number = int(text) if _INTEGER.fullmatch(text) else None
    return number if number is not None and least <= number <= most else None


def _make_error(request: web.Request, name: str, reason: str) -> ApiError:
    if is_openai(request.path):
        return ApiError(400, "invalid_value", reason, name)
    return ApiError(422, "invalid_query", reason, name)
