"""Whose job is it? The one way by which handlers reach a job."""

from __future__ import annotations

from typing import NamedTuple

from aiohttp import web

from darkq import JobHandle, Status
from darkq_gateway.context import CLIENT, caller_of
from darkq_gateway.errors import not_found


class Owned(NamedTuple):
    """A job of the caller's tenant, and where it stood when it was looked at."""

    handle: JobHandle
    status: Status


async def owned_job(request: web.Request, job_id: str | None = None) -> Owned:
    """Return the job that the path names, or the one given.

    Raises `JobNotFound`, and the same answer for another tenant's: the same work has been done
    then, so that nothing tells the two apart.
    """
    handle = request.app[CLIENT].job(job_id or request.match_info["job_id"])
    status = await handle.status()
    if status.tenant != caller_of(request).tenant:
        raise not_found()
    return Owned(handle, status)
