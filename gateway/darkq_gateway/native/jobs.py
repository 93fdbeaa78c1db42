"""The native API: jobs put in, looked at, stopped and run again."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from aiohttp import web

from darkq import (
    InvalidJob,
    Job,
    JobCancelled,
    JobFailed,
    JobHandle,
    Message,
    ResultTimeout,
    Status,
)
from darkq_gateway.http.bodies import read_json
from darkq_gateway.http.context import CLIENT, Caller, caller_of, owned_job
from darkq_gateway.http.errors import ApiError
from darkq_gateway.http.queries import decimal, integer
from darkq_gateway.http.repetitions import seed_of

MAX_JOBS_PER_BATCH = 1000
MAX_LISTED = 200
MAX_WAIT_S = 60.0


class JobOrder(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What may be asked for. A `proxy` may not: nothing of a request decides where calls go."""

    prompt: str | list[Message]
    model: str | None = None
    upstream: str | None = None
    priority: Literal["interactive", "bulk"] = "interactive"
    timeout_s: float | None = None
    tries: int | None = None
    metadata: dict[str, str] = {}

    def job_for(self, caller: Caller) -> Job:
        """Return the job, checked. Raises `InvalidJob`, or `ApiError` where a key forbids it."""
        job = Job.create(
            self.prompt,
            model=caller.model_for(self.model),
            upstream=self.upstream,
            priority=self.priority,
            timeout_s=self.timeout_s,
            tries=self.tries,
            metadata=self.metadata,
            tenant=caller.tenant,
        )
        caller.check_prompt(job.prompt_bytes)
        return job


class JobBatch(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Many jobs in one call: all are checked before the first is stored."""

    jobs: list[JobOrder]


class Accepted(msgspec.Struct, frozen=True, kw_only=True):
    """A job that is stored. `duplicate`: it was there before, by its idempotency key."""

    job_id: str
    duplicate: bool = False


class AcceptedBatch(msgspec.Struct, frozen=True, kw_only=True):
    """Jobs that are stored, in the order of the request."""

    job_ids: list[str]


class JobList(msgspec.Struct, frozen=True, kw_only=True):
    """Jobs, the newest first."""

    jobs: list[Status]


def routes() -> list[web.RouteDef]:
    return [
        web.post("/jobs", create),
        web.post("/jobs:batch", create_many),
        web.get("/jobs", latest),
        web.get("/jobs/{job_id}", status),
        web.get("/jobs/{job_id}/result", result),
        web.post("/jobs/{job_id}/cancel", cancel),
        web.post("/jobs/{job_id}/retry", retry),
    ]


async def create(request: web.Request) -> web.Response:
    """Store a job; the header `Idempotency-Key` makes it safe to ask again."""
    order = await read_json(request, JobOrder)
    job = order.job_for(caller_of(request))
    key = request.headers.get("Idempotency-Key")
    handle = await request.app[CLIENT].enqueue_job(job, idempotency_key=key)
    accepted = Accepted(job_id=handle.id, duplicate=handle.duplicate)
    headers = {"Location": f"/jobs/{handle.id}"}
    return as_json(accepted, 200 if handle.duplicate else 201, headers)


async def create_many(request: web.Request) -> web.Response:
    """Store many jobs; the header `Idempotency-Key` makes it safe to ask again."""
    batch = await read_json(request, JobBatch)
    if not 0 < len(batch.jobs) <= MAX_JOBS_PER_BATCH:
        raise ApiError(422, "invalid_body", f"takes 1 to {MAX_JOBS_PER_BATCH:,} jobs", "jobs")
    checked = _checked(batch, caller_of(request))
    seed = await seed_of(request, msgspec.json.encode(batch, order="deterministic"))
    handles = await request.app[CLIENT].enqueue_many(checked, seed=seed)
    return as_json(AcceptedBatch(job_ids=[handle.id for handle in handles]), 201)


def _checked(batch: JobBatch, caller: Caller) -> list[Job]:
    checked = []
    for number, order in enumerate(batch.jobs):
        try:
            checked.append(order.job_for(caller))
        except InvalidJob as error:
            raise InvalidJob(f"jobs[{number}].{error.field}", error.reason) from None
    return checked


async def latest(request: web.Request) -> web.Response:
    """How the caller's latest jobs stand, the newest first."""
    limit = integer(request, "limit", default=50, least=1, most=MAX_LISTED)
    jobs = await request.app[CLIENT].jobs(tenant=caller_of(request).tenant, limit=limit)
    return as_json(JobList(jobs=jobs))


async def status(request: web.Request) -> web.Response:
    """Where a job stands."""
    return as_json((await owned_job(request)).status)


async def result(request: web.Request) -> web.Response:
    """A job's answer; `wait_s` waits for it. 202 and the status while there is none."""
    wait_s = decimal(request, "wait_s", default=0, least=0, most=MAX_WAIT_S)
    job = await owned_job(request)
    if wait_s == 0 and job.status.state not in ("completed", "failed", "cancelled"):
        return as_json(job.status, 202)
    return await _answer(job.handle, wait_s)


async def _answer(handle: JobHandle, wait_s: float) -> web.Response:
    try:
        return as_json(await handle.result(wait_s or MAX_WAIT_S))
    except ResultTimeout:
        return as_json(await handle.status(), 202)
    except JobFailed as error:
        raise ApiError(409, "job_failed", f"{error.code}: {error.message}") from None
    except JobCancelled:
        raise ApiError(409, "job_cancelled", "the job was cancelled") from None


async def cancel(request: web.Request) -> web.Response:
    """Cancel a job, or ask its worker to; a finished one stays what it is."""
    job = await owned_job(request)
    return as_json(await job.handle.cancel())


async def retry(request: web.Request) -> web.Response:
    """Run a job again that has failed. The limits of the key that asks apply, as to a new job."""
    job, caller = await owned_job(request), caller_of(request)
    if caller.limits_jobs:
        caller.check_job(await job.handle.kept_job())
    return as_json(await job.handle.retry())


def as_json(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """Return a value as a response."""
    return web.Response(
        body=msgspec.json.encode(value),
        status=status,
        content_type="application/json",
        headers=headers,
    )
