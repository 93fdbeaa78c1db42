"""What handlers find in their app and in their request.

Whose job is it? The one way by which handlers reach a job.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import NamedTuple

from aiohttp import web
from aiohttp.http import HttpVersion

from darkq import ApiKey, Client, CorruptRecord, Job, JobHandle, Settings, Status
from darkq_gateway.http.errors import ApiError, not_found
from darkq_gateway.http.sse_response import Streams

CLIENT = web.AppKey("client", Client)
SETTINGS = web.AppKey("settings", Settings)
STREAMS = web.AppKey("streams", Streams)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls. Without a key, which only a gateway on loopback allows, there is no tenant."""

    tenant: str | None = None
    key: ApiKey | None = None

    def model_for(self, model: str | None) -> str | None:
        """Return the model to ask for: of a key with models the first, unless one is named.

        Raises `ApiError` for one that the key may not use.
        """
        allowed = self.key.models if self.key else ()
        if not allowed:
            return model
        if model is None:
            return allowed[0]
        if model not in allowed:
            raise ApiError(403, "model_not_allowed", "this key may not use that model", "model")
        return model

    def check_job(self, job: Job) -> None:
        """Raise `ApiError` for a job, made by another key of the tenant, that this may not run."""
        allowed = self.key.models if self.key else ()
        if allowed and job.model not in allowed:
            raise ApiError(403, "model_not_allowed", "this key may not use that model", "model")
        self.check_prompt(job.prompt_bytes)

    @property
    def limits_jobs(self) -> bool:
        """Whether there are jobs of the tenant that this key may not run."""
        return self.key is not None and bool(self.key.models or self.key.max_prompt_bytes)

    def body_limit(self, limit_bytes: int) -> int:
        """Return how large a body may be: as the deployment allows, or as the key does, if less."""
        own = self.key.max_body_bytes if self.key else None
        return limit_bytes if own is None else min(own, limit_bytes)

    def check_prompt(self, prompt_bytes: int) -> None:
        """Raise `ApiError` for a prompt that is larger than the key allows."""
        limit = self.key.max_prompt_bytes if self.key else None
        if limit is not None and prompt_bytes > limit:
            message = f"the prompt has {prompt_bytes:,} bytes; this key allows {limit:,}"
            raise ApiError(413, "prompt_too_large", message, "prompt")


CALLER = web.RequestKey("caller", Caller)
"""Set by the auth middleware; a request that was refused before has none."""

ROUTE = web.RequestKey("route", str)
"""The pattern of the path, for the log."""

REQUEST_ID = web.RequestKey("request_id", str)
"""Stands in the response and the log."""

UNSUPPORTED_VERSION = web.RequestKey("unsupported_version", HttpVersion)
"""Set on a request whose version of HTTP is not 1.0 or 1.1."""

TRACE_ID = web.RequestKey("trace_id", str)
"""Stands in the log, where the process traces."""


def caller_of(request: web.Request) -> Caller:
    """Return who calls."""
    return request[CALLER]


def identify(request: web.BaseRequest, response: web.StreamResponse) -> None:
    """Set the headers that every response has."""
    request[REQUEST_ID] = request_id = secrets.token_hex(8)
    response.headers["X-Request-Id"] = request_id
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Server"] = "darkq"
    response.headers.setdefault("Cache-Control", "no-store")


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
