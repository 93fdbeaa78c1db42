"""`POST /jobs/{job_id}/ticket`, and the same for a batch: a ticket for a page.

The ticket opens this one object, for the tenant of the caller, as long as the caller's key is
valid. A page sends it as `?ticket=`.
"""

from __future__ import annotations

import msgspec
from aiohttp import web

from darkq.protocol.ticket import DEFAULT_TTL_S
from darkq_gateway.http.bodies import read_json, respond_json
from darkq_gateway.http.context import CLIENT, get_caller, get_own_job
from darkq_gateway.native.batches import get_own_batch


class NewTicket(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A ticket to make. With `cancel` it allows to cancel, too."""

    ttl_s: float = DEFAULT_TTL_S
    cancel: bool = False


class MadeTicket(msgspec.Struct, frozen=True, kw_only=True):
    """A ticket, and when it expires, in epoch milliseconds."""

    ticket: str
    expires_ms: int


routes = web.RouteTableDef()


@routes.post("/jobs/{job_id}/ticket")
async def make_for_job(request: web.Request) -> web.Response:
    """Make a ticket for a job. Without a body, it only reads, for an hour."""
    return await _make(request, (await get_own_job(request)).handle.id)


@routes.post("/batches/{batch_id}/ticket")
async def make_for_batch(request: web.Request) -> web.Response:
    """Make a ticket for a batch. Without a body, it only reads, for an hour."""
    return await _make(request, (await get_own_batch(request)).batch.id)


async def _make(request: web.Request, object_id: str) -> web.Response:
    caller = get_caller(request)
    new = await read_json(request, NewTicket) if request.can_read_body else NewTicket()
    ticket, text = await request.app[CLIENT].tickets.make(
        object_id,
        ttl_s=new.ttl_s,
        cancel=new.cancel,
        tenant=caller.tenant,
        maker=caller.maker,
    )
    return respond_json(MadeTicket(ticket=text, expires_ms=ticket.expires_ms))
