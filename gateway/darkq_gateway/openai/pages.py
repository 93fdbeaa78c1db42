"""Lists, a page at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from aiohttp import web

from darkq_gateway.errors import ApiError


def page_of(
    request: web.Request, objects: Sequence[dict[str, Any]], *, most: int
) -> dict[str, Any]:
    """Return the page of a list that the query asks for: `limit` of them, `after` an id.

    The list is the newest first; `order=asc` turns it round. Raises `ApiError`.
    """
    asked = asked_page(request, most)
    found = list(reversed(objects)) if asked.oldest_first else list(objects)
    if asked.after is not None:
        place = next((n for n, each in enumerate(found) if each["id"] == asked.after), None)
        if place is None:
            raise names_nothing()
        found = found[place + 1 :]
    return as_page(found[: asked.limit], has_more=len(found) > asked.limit)


class AskedPage(NamedTuple):
    """Which page of a list the query asks for."""

    limit: int
    after: str | None
    oldest_first: bool


def asked_page(request: web.Request, most: int) -> AskedPage:
    """Return the page that the query asks for, of `most` objects at most. Raises `ApiError`."""
    order = request.query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise ApiError(400, "invalid_value", "must be 'asc' or 'desc'", "order")
    return AskedPage(_limit(request, most), request.query.get("after"), order == "asc")


def as_page(page: Sequence[dict[str, Any]], *, has_more: bool) -> dict[str, Any]:
    """Return a page in the API's words."""
    return {
        "object": "list",
        "data": page,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
        "has_more": has_more,
    }


def names_nothing() -> ApiError:
    """Return the error for an `after` that is not in the list."""
    return ApiError(400, "invalid_value", "names nothing in this list", "after")


def _limit(request: web.Request, most: int) -> int:
    text = request.query.get("limit", str(most))
    if not text.isdecimal() or not 1 <= int(text[:9]) <= most:
        raise ApiError(400, "invalid_value", f"must be a number from 1 to {most:,}", "limit")
    return int(text)
