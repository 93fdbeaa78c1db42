"""The query of `GET /board/overview`: which jobs the list shows."""

from __future__ import annotations

from aiohttp import web

from darkq_gateway.board.job_index import GROUPS, ListQuery
from darkq_gateway.http.errors import ApiError
from darkq_gateway.http.queries import read_integer

MAX_CHARS = 200
MAX_START = 100_000


def read_query(request: web.Request) -> ListQuery:
    """Return the query of a request. Raises `ApiError`."""
    state = request.query.get("state", "")
    if state and state not in GROUPS.values():
        groups = ", ".join(sorted(set(GROUPS.values())))
        raise ApiError(422, "invalid_query", f"must be one of: {groups}", "state")
    return ListQuery(
        state=state,
        model=_read_text(request, "model"),
        text=_read_text(request, "text").strip(),
        batch=_read_text(request, "batch"),
        start=read_integer(request, "start", default=0, least=0, most=MAX_START),
    )


def _read_text(request: web.Request, name: str) -> str:
    text = request.query.get(name, "")
    if len(text) > MAX_CHARS:
        raise ApiError(422, "invalid_query", f"must have at most {MAX_CHARS} characters", name)
    return text
