"""What handlers find in their application and request, and how they get a job.

`get_own_job` is the only function by which handlers reach a job: it checks the tenant.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import NamedTuple

from aiohttp import web
from aiohttp.http import HttpVersion
from msgspec import UNSET

from darkq import ApiKey, Client, CorruptRecord, Job, JobHandle, JobNotFound, Settings, Status
from darkq.protocol.ticket import ANONYMOUS, LIBRARY, Ticket
from darkq_gateway.http.errors import ApiError

CLIENT = web.AppKey("client", Client)
SETTINGS = web.AppKey("settings", Settings)


@dataclass(frozen=True, slots=True)
class Caller:
    """The client of a request. Without a key (allowed on loopback only) it has no tenant.

    With a `ticket`, the only object that it may read is the ticket's; `key` is then the key that
    requested the ticket. `maker` is the digest of that key, or `ANONYMOUS`, or `LIBRARY`.
    """

    tenant: str | None = None
    key: ApiKey | None = None
    ticket: Ticket | None = None
    maker: str = ANONYMOUS

    @property
    def key_digest(self) -> str | None:
        """The digest of the API key; None without a key."""
        return None if self.maker in (ANONYMOUS, LIBRARY) else self.maker

    def may_ask_for(self, object_id: str) -> bool:
        """Return whether the caller may request an object by its id; does not check its tenant."""
        return self.ticket is None or self.ticket.id == object_id

    def may_see(self, tenant: str | None) -> bool:
        """Return whether the caller may see the objects of a tenant."""
        if self.ticket is not None:
            return self.ticket.tenant is UNSET or self.ticket.tenant == tenant
        return tenant == self.tenant

    def model_for(self, model: str | None) -> str | None:
        """Return the model of a request; by default the first one that the key allows.

        Raises `ApiError` if the key does not allow the model.
        """
        allowed = self.key.models if self.key else ()
        if allowed and model is None:
            return allowed[0]
        self._check_model(model)
        return model

    def check_job(self, job: Job) -> None:
        """Raise `ApiError` if the limits of this key forbid a job that another key created."""
        self._check_model(job.model)
        self.check_prompt(job.prompt_bytes)

    def _check_model(self, model: str | None) -> None:
        if self.key and self.key.models and model not in self.key.models:
            raise ApiError(403, "model_not_allowed", "this API key may not use this model", "model")

    @property
    def limits_jobs(self) -> bool:
        """Whether the key has limits that some jobs of its tenant may exceed."""
        return self.key is not None and bool(self.key.models or self.key.max_prompt_bytes)

    def body_limit(self, limit_bytes: int) -> int:
        """Return the largest allowed body: the lower of the deployment's and the key's limit."""
        own = self.key.max_body_bytes if self.key else None
        return limit_bytes if own is None else min(own, limit_bytes)

    def check_prompt(self, prompt_bytes: int) -> None:
        """Raise `ApiError` if the prompt is larger than the key allows."""
        limit = self.key.max_prompt_bytes if self.key else None
        if limit is not None and prompt_bytes > limit:
            message = f"the prompt has {prompt_bytes:,} bytes; this API key allows {limit:,}"
            raise ApiError(413, "prompt_too_large", message, "prompt")


CALLER = web.RequestKey("caller", Caller)
"""Set by the auth middleware, so absent if an outer middleware refused the request."""

ROUTE = web.RequestKey("route", str)
"""The pattern of the path, for logs and metrics."""

REQUEST_ID = web.RequestKey("request_id", str)
"""Sent as `X-Request-Id` and logged."""

UNSUPPORTED_VERSION = web.RequestKey("unsupported_version", HttpVersion)
"""Set on a request whose version of HTTP is not 1.0 or 1.1."""

TRACE_ID = web.RequestKey("trace_id", str)
"""Logged if the process traces."""


def get_caller(request: web.Request) -> Caller:
    """Return the client of a request."""
    return request[CALLER]


def set_common_headers(request: web.BaseRequest, response: web.StreamResponse) -> None:
    """Set the headers of every response."""
    request[REQUEST_ID] = request_id = secrets.token_hex(8)
    response.headers["X-Request-Id"] = request_id
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Server"] = "darkq"
    response.headers.setdefault("Cache-Control", "no-store")


class OwnJob(NamedTuple):
    """A job of the caller's tenant, and its status when it was checked."""

    handle: JobHandle
    status: Status


async def get_own_job(request: web.Request, job_id: str | None = None) -> OwnJob:
    """Return the job of `job_id`, by default the one in the path.

    Raises `JobNotFound`, and an equal error if the job belongs to another tenant or is not that of
    the caller's ticket. Raises `CorruptRecord` if the record cannot be read and names the caller's
    tenant.
    """
    # The status does not contain the prompt or the answer. So the response time for a foreign job
    # does not depend on their size.
    caller = get_caller(request)
    job_id = request.match_info["job_id"] if job_id is None else job_id
    if not caller.may_ask_for(job_id):
        raise JobNotFound(job_id)
    handle = request.app[CLIENT].job(job_id)
    try:
        status = await handle.status()
    except CorruptRecord as error:
        if not caller.may_see(error.tenant):
            raise JobNotFound(job_id) from None
        raise
    if not caller.may_see(status.tenant):
        raise JobNotFound(job_id)
    return OwnJob(handle, status)
