"""Lists in pages: their query and their format."""

from __future__ import annotations

from typing import Any, NamedTuple

from aiohttp import web

from darkq_gateway.http.errors import ApiError
from darkq_gateway.http.queries import read_integer


class PageQuery(NamedTuple):
    """The requested page: at most `limit` objects after the id `after`; `desc` is newest first."""

    limit: int
    after: str | None
    order: str


def read_page_query(request: web.Request, *, most: int) -> PageQuery:
    """Read the query of a request. Raises `ApiError`, which names the parameter."""
    order = request.query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise ApiError(400, "invalid_value", "must be 'asc' or 'desc'", "order")
    limit = read_integer(request, "limit", default=most, least=1, most=most)
    return PageQuery(limit, request.query.get("after"), order)


def make_page(data: list[dict[str, Any]], has_more: bool) -> dict[str, Any]:
    """Return a page in OpenAI's format."""
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": has_more,
    }


def unknown_cursor() -> ApiError:
    """Return the error for an `after` that is not in the list."""
    return ApiError(400, "invalid_value", "is not the id of an object in this list", "after")
