"""Input of a Response that is in earlier ones: a whole Response, or an item of its output.

    previous_response_id     its input without its instructions, and its output
    item_reference           one item of the output of a Response
    GET …/input_items        the input of a Response, for reading

The result of a Response has its request unless `store` was false. So all of this is possible until
the result expires. An id that is unknown, expired or another tenant's always gets the same error.
"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec
from aiohttp import web

from darkq import (
    InvalidJob,
    JobCancelled,
    JobFailed,
    JobHandle,
    JobNotFound,
    Result,
    ResultTimeout,
    Status,
)
from darkq.batches.answers import response_object
from darkq.openai.response import Repeated, read_repeated
from darkq.openai.response_body import read_items, to_input_items
from darkq.openai.response_items import ITEM_ID
from darkq.protocol.record import KeptRequest
from darkq_gateway.http.bodies import respond_json
from darkq_gateway.http.context import SETTINGS, get_own_job
from darkq_gateway.http.errors import ApiError
from darkq_gateway.native.caching import is_finished
from darkq_gateway.openai.lists import make_page, read_page_query, unknown_cursor

PREFIX: Final = "resp_"
MAX_REFERENCES: Final = 1000
MAX_ITEMS_PER_PAGE: Final = 100
_SAFE_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,80}")

Json: TypeAlias = dict[str, Any]
routes = web.RouteTableDef()


class OwnResponse(NamedTuple):
    """A Response of the caller's tenant, and its status when it was checked."""

    handle: JobHandle
    status: Status
    repeated: Repeated


async def get_own_response(request: web.Request, response_id: str) -> OwnResponse:
    """Return a Response of the caller. Raises `JobNotFound` and what `get_own_job` raises."""
    if not response_id.startswith(PREFIX):
        raise JobNotFound(response_id)
    job = await get_own_job(request, response_id.removeprefix(PREFIX))
    repeated = read_repeated(job.status.metadata)
    if repeated is None:  # the job was not created as a Response
        raise JobNotFound(response_id)
    return OwnResponse(job.handle, job.status, repeated)


async def _read_result(job: JobHandle) -> Result | None:
    try:
        return await job.result(1)
    except (JobFailed, JobCancelled, JobNotFound, ResultTimeout):
        return None


async def read_history(request: web.Request, response_id: str) -> list[Json]:
    """Return the messages of a Response: its input without instructions, then its output.

    Raises `ApiError` if it is not found, `InvalidJob` if it has not ended.
    """
    field = "previous_response_id"
    try:
        previous = await get_own_response(request, response_id)
        if not is_finished(previous.status):
            reason = f"is the id of a Response that is {previous.status.state}: wait for its end"
            raise InvalidJob(field, reason)
        result = await _read_result(previous.handle)
        if result is None or result.request is None or not previous.repeated.store:
            raise JobNotFound(response_id)
    except JobNotFound:
        raise _make_not_found("Previous response", response_id, field) from None
    messages = _read_messages(result.request, previous.repeated)
    return messages + read_items(response_object(result)["output"])


def _read_messages(kept: KeptRequest, repeated: Repeated) -> list[Json]:
    """Return the messages of a request without its instructions."""
    if isinstance(kept.prompt, str):
        return [{"role": "user", "content": kept.prompt}]
    return [message.fields() for message in kept.prompt[repeated.has_instructions :]]


async def resolve_references(request: web.Request, fields: Json) -> None:
    """Replace each reference in `input` by its item.

    Raises `ApiError` for an item that is not found, and `InvalidJob` for more references or more
    bytes than the limits allow.
    """
    items = fields.get("input")
    if not isinstance(items, list):
        return
    limit_bytes = request.app[SETTINGS].max_prompt_bytes
    found: dict[str, Json] = {}
    size_bytes = 0
    for number, item in enumerate(items):
        if (wanted := _read_reference(item)) is None:
            continue
        if wanted not in found:
            if len(found) == MAX_REFERENCES:
                raise InvalidJob("input", f"may have at most {MAX_REFERENCES:,} references")
            found[wanted] = await _read_item(request, wanted, f"input[{number}]")
        size_bytes += len(msgspec.json.encode(found[wanted]))
        if size_bytes > limit_bytes:
            raise InvalidJob("input", f"has more than {limit_bytes:,} bytes")
        items[number] = found[wanted]


def _read_reference(item: object) -> str | None:
    """Return the id if an item is a reference, else None; the `type` is optional."""
    if not isinstance(item, dict) or not isinstance(item.get("id"), str):
        return None
    kind = item.get("type")
    is_reference = kind == "item_reference" or (kind is None and not item.keys() - {"id", "type"})
    return item["id"] if is_reference else None


async def _read_item(request: web.Request, wanted: str, field: str) -> Json:
    """Return an item of the output of a completed Response."""
    if (named := ITEM_ID.fullmatch(wanted)) is not None:
        with suppress(JobNotFound):
            response = await get_own_response(request, PREFIX + named[1])
            if response.status.state == "completed" and response.repeated.store:
                result = await _read_result(response.handle)
                output: list[Json] = response_object(result)["output"] if result else []
                for item in output:
                    if item["id"] == wanted:
                        return item
    raise _make_not_found("Item", wanted, field)


def _make_not_found(what: str, wanted: str, field: str) -> ApiError:
    shown = f" with id '{wanted}'" if _SAFE_ID.fullmatch(wanted) else ""
    code = f"{what.lower().replace(' ', '_')}_not_found"
    return ApiError(404, code, f"{what}{shown} not found", field)


@routes.get("/v1/responses/{response_id}/input_items")
async def list_input_items(request: web.Request) -> web.Response:
    """List the input of a Response, the last item first. 404 if it was not stored."""
    asked = read_page_query(request, most=MAX_ITEMS_PER_PAGE)
    response_id = request.match_info["response_id"]
    response = await get_own_response(request, response_id)
    kept = await response.handle.kept_request() if response.repeated.store else None
    if kept is None:
        raise JobNotFound(response_id)
    items = to_input_items(_read_messages(kept, response.repeated), response.handle.id)
    if asked.order == "desc":
        items.reverse()
    ids = [item["id"] for item in items]
    if asked.after is not None and asked.after not in ids:
        raise unknown_cursor()
    start = 0 if asked.after is None else ids.index(asked.after) + 1
    page = items[start : start + asked.limit]
    return respond_json(make_page(page, has_more=start + asked.limit < len(items)))
