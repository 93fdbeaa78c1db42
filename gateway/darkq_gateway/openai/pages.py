"""Lists, a page at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aiohttp import web

from darkq_gateway.errors import ApiError


def page_of(
    request: web.Request, objects: Sequence[dict[str, Any]], *, most: int
) -> dict[str, Any]:
    """Return the page of a list that the query asks for: `limit` of them, `after` an id.

    The list is the newest first; `order=asc` turns it round. Raises `ApiError`.
    """
    order = request.query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise ApiError(400, "invalid_value", "must be 'asc' or 'desc'", "order")
    found = list(objects) if order == "desc" else list(reversed(objects))
    after = request.query.get("after")
    if after is not None:
        place = next((n for n, each in enumerate(found) if each["id"] == after), None)
        if place is None:
            raise ApiError(400, "invalid_value", "names nothing in this list", "after")
        found = found[place + 1 :]
    limit = _limit(request, most)
    page = found[:limit]
    return {
        "object": "list",
        "data": page,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
        "has_more": len(found) > limit,
    }


def _limit(request: web.Request, most: int) -> int:
    text = request.query.get("limit", str(most))
    if not text.isdecimal() or not 1 <= int(text[:9]) <= most:
        raise ApiError(400, "invalid_value", f"must be a number from 1 to {most:,}", "limit")
    return int(text)
