"""An earlier answer that a request names instead of repeating it: `{"type": "item_reference"}`.

The id of an item is that of its job and the number of the attempt, whose text is kept as the job's
result. So an item can be looked up as long as that is there.
"""

from __future__ import annotations

import re
from typing import Any

from aiohttp import web

from darkq import MAX_PROMPT_BYTES, JobCancelled, JobFailed, JobNotFound, ResultTimeout
from darkq.openai.response import item_id, repeated_in
from darkq_gateway.errors import ApiError
from darkq_gateway.ownership import owned_job

MAX_REFERENCES = 1000
_ITEM_ID = re.compile(r"msg_([0-9]{1,4}-[0-9a-f]{32})_([0-9]{1,9})")
_SAFE_ID = re.compile(r"[A-Za-z0-9_-]{1,80}")


async def resolve(request: web.Request, fields: dict[str, Any]) -> None:
    """Put the text of each item that `input` refers to in the place of the reference.

    Raises `ApiError` for an item that is unknown, gone, or another tenant's: the answer is the
    same for each. Raises it too for more references, or more text, than a prompt can have.
    """
    items = fields.get("input")
    if not isinstance(items, list):
        return
    texts: dict[str, str] = {}
    size_bytes = 0
    for number, item in enumerate(items):
        if (wanted := _referred(item)) is None:
            continue
        if wanted not in texts:
            if len(texts) == MAX_REFERENCES:
                reason = f"may refer to {MAX_REFERENCES:,} items at most"
                raise ApiError(400, "invalid_parameter", reason, "input")
            texts[wanted] = await _text_of(request, wanted, f"input[{number}]")
        size_bytes += len(texts[wanted].encode())
        if size_bytes > MAX_PROMPT_BYTES:
            reason = f"has more than {MAX_PROMPT_BYTES:,} bytes"
            raise ApiError(400, "invalid_parameter", reason, "input")
        items[number] = {"type": "message", "role": "assistant", "content": texts[wanted]}


def _referred(item: object) -> str | None:
    """Return the id of a reference; its type may be left out."""
    if not isinstance(item, dict) or not isinstance(item.get("id"), str):
        return None
    kind = item.get("type")
    is_reference = kind == "item_reference" or (kind is None and not item.keys() - {"id", "type"})
    return item["id"] if is_reference else None


async def _text_of(request: web.Request, wanted: str, field: str) -> str:
    shown = f" with id '{wanted}'" if _SAFE_ID.fullmatch(wanted) else ""
    not_found = ApiError(404, "item_not_found", f"Item{shown} not found", field)
    found = _ITEM_ID.fullmatch(wanted)
    if found is None:
        raise not_found
    try:
        job = await owned_job(request, found[1])
        if job.status.state != "completed" or repeated_in(job.status.metadata) is None:
            raise not_found
        result = await job.handle.result(1)
    except (JobNotFound, JobFailed, JobCancelled, ResultTimeout):
        raise not_found from None
    except ApiError as error:
        raise not_found if error.status == not_found.status else error from None
    if item_id(result.job_id, result.attempt) != wanted:
        raise not_found
    return result.text
