"""Lists, a page at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from aiohttp import web

from darkq_gateway.http.errors import ApiError
from darkq_gateway.http.queries import integer


class PageAsked(NamedTuple):
    """Which page a query asks for: `limit` of the list, `after` an id, the newest first or last."""

    limit: int
    after: str | None
    order: str


def page_asked(request: web.Request, *, most: int) -> PageAsked:
    """Read the query. Raises `ApiError`, which names the parameter."""
    order = request.query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise ApiError(400, "invalid_value", "must be 'asc' or 'desc'", "order")
    limit = integer(request, "limit", default=most, least=1, most=most)
    return PageAsked(limit, request.query.get("after"), order)


def page_of(
    request: web.Request, objects: Sequence[dict[str, Any]], *, most: int
) -> dict[str, Any]:
    """Return the page of a list that the query asks for; the list is the newest first.

    Raises `ApiError`.
    """
    asked = page_asked(request, most=most)
    found = list(objects) if asked.order == "desc" else list(reversed(objects))
    if asked.after is not None:
        place = next((n for n, each in enumerate(found) if each["id"] == asked.after), None)
        if place is None:
            raise unknown_after()
        found = found[place + 1 :]
    return as_page(found[: asked.limit], has_more=len(found) > asked.limit)


def as_page(data: list[dict[str, Any]], has_more: bool) -> dict[str, Any]:
    """Return a page in the API's words."""
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": has_more,
    }


def unknown_after() -> ApiError:
    """Return the answer for an `after` that is not in the list."""
    return ApiError(400, "invalid_value", "names nothing in this list", "after")
