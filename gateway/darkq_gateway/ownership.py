"""Whose job is it? The one way by which handlers reach a job."""

from __future__ import annotations

from typing import NamedTuple

from aiohttp import web

from darkq import CorruptRecord, JobHandle, Status
from darkq_gateway.context import CLIENT, caller_of
from darkq_gateway.errors import not_found


class Owned(NamedTuple):
    """A job of the caller's tenant, and where it stood when it was looked at."""

    handle: JobHandle
    status: Status


async def owned_job(request: web.Request, job_id: str | None = None) -> Owned:
    """Return the job that the path names, or the one given.

    Raises `JobNotFound`, and the same answer for another tenant's. What is read of a job does not
    grow with its prompt or its answer, so its size cannot be told by the time that this takes.
    A record that cannot be read is `CorruptRecord` to its own tenant, as far as it can be told
    whose it is, and unknown to others.
    """
    tenant = caller_of(request).tenant
    handle = request.app[CLIENT].job(request.match_info["job_id"] if job_id is None else job_id)
    try:
        status = await handle.status()
    except CorruptRecord as error:
        if error.tenant != tenant:
            raise not_found() from None
        raise
    if status.tenant != tenant:
        raise not_found()
    return Owned(handle, status)
