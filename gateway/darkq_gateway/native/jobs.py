"""The native API: create, list, read, cancel and retry jobs."""

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
    Options,
    ResultTimeout,
    Status,
)
from darkq_gateway.http.auth import accepts_ticket
from darkq_gateway.http.bodies import read_json, respond_json
from darkq_gateway.http.context import CLIENT, Caller, get_caller, get_own_job
from darkq_gateway.http.errors import ApiError
from darkq_gateway.http.idempotency import IDEMPOTENCY_KEY, get_request_seed
from darkq_gateway.http.queries import read_decimal, read_integer
from darkq_gateway.native.caching import (
    allow_caching,
    is_finished,
    make_etag,
    respond_unmodified,
)

MAX_JOBS_PER_BATCH = 1000
MAX_LISTED = 200
MAX_WAIT_S = 60.0


class NewJob(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A job to create. It has no `proxy`: a request must not decide where upstream calls go.

    `parameters` are fields of a chat request, such as `tools` and `response_format`.
    """

    prompt: str | list[Message]
    model: str | None = None
    upstream: str | None = None
    priority: Literal["interactive", "bulk"] = "interactive"
    timeout_s: float | None = None
    tries: int | None = None
    metadata: dict[str, str] = {}
    # Omitted if not given: the seed of an idempotent request must not depend on our version.
    options: Options | msgspec.UnsetType | None = msgspec.UNSET
    ignore_unsupported: bool | msgspec.UnsetType = msgspec.UNSET
    parameters: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET

    def make_job(self, caller: Caller) -> Job:
        """Return the validated job. Raises `InvalidJob`, and `ApiError` if the key forbids it."""
        fields = msgspec.structs.asdict(self)
        given = {name: value for name, value in fields.items() if value is not msgspec.UNSET}
        given |= {"model": caller.model_for(self.model), "tenant": caller.tenant}
        job = Job.create(**given)
        caller.check_prompt(job.prompt_bytes)
        return job


class NewJobs(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Jobs to create in one call: all are validated before the first is stored."""

    jobs: list[NewJob]


class Accepted(msgspec.Struct, frozen=True, kw_only=True):
    """A stored job. `duplicate`: an earlier request with its idempotency key created it."""

    job_id: str
    duplicate: bool = False


class AcceptedBatch(msgspec.Struct, frozen=True, kw_only=True):
    """Stored jobs, in the order of the request."""

    job_ids: list[str]


class JobList(msgspec.Struct, frozen=True, kw_only=True):
    """Jobs, newest first."""

    jobs: list[Status]


routes = web.RouteTableDef()


@routes.post("/jobs")
async def create(request: web.Request) -> web.Response:
    """Create a job. With the header `Idempotency-Key` the request can be repeated safely."""
    new = await read_json(request, NewJob)
    job = new.make_job(get_caller(request))
    key = request.headers.get(IDEMPOTENCY_KEY)
    handle = await request.app[CLIENT].enqueue_job(job, idempotency_key=key)
    accepted = Accepted(job_id=handle.id, duplicate=handle.duplicate)
    headers = {"Location": f"/jobs/{handle.id}"}
    return respond_json(accepted, 200 if handle.duplicate else 201, headers)


@routes.post("/jobs:batch")
async def create_many(request: web.Request) -> web.Response:
    """Create many jobs. With the header `Idempotency-Key` the request can be repeated safely."""
    batch = await read_json(request, NewJobs)
    if not 0 < len(batch.jobs) <= MAX_JOBS_PER_BATCH:
        raise ApiError(422, "invalid_body", f"must have 1 to {MAX_JOBS_PER_BATCH:,} jobs", "jobs")
    jobs = _make_jobs(batch, get_caller(request))
    seed = await get_request_seed(request, msgspec.json.encode(batch, order="deterministic"))
    handles = await request.app[CLIENT].enqueue_many(jobs, seed=seed)
    return respond_json(AcceptedBatch(job_ids=[handle.id for handle in handles]), 201)


def _make_jobs(batch: NewJobs, caller: Caller) -> list[Job]:
    jobs = []
    for number, new in enumerate(batch.jobs):
        try:
            jobs.append(new.make_job(caller))
        except InvalidJob as error:
            raise InvalidJob(f"jobs[{number}].{error.field}", error.reason) from None
    return jobs


@routes.get("/jobs")
async def list_jobs(request: web.Request) -> web.Response:
    """List the caller's latest jobs, newest first."""
    limit = read_integer(request, "limit", default=50, least=1, most=MAX_LISTED)
    jobs = await request.app[CLIENT].jobs(tenant=get_caller(request).tenant, limit=limit)
    return respond_json(JobList(jobs=jobs))


@routes.get("/jobs/{job_id}")
@accepts_ticket()
async def get_status(request: web.Request) -> web.Response:
    """Return the status of a job, and why it waits or has failed."""
    return await _respond_status(request, (await get_own_job(request)).status)


async def _respond_status(request: web.Request, status: Status, code: int = 200) -> web.Response:
    (explained,) = await request.app[CLIENT].explain([status])
    return respond_json(explained, code)


@routes.get("/jobs/{job_id}/result")
@accepts_ticket()
async def get_result(request: web.Request) -> web.Response:
    """Return a job's result; `wait_s` waits for it. 202 and the status if there is none yet."""
    wait_s = read_decimal(request, "wait_s", default=0, least=0, most=MAX_WAIT_S)
    job = await get_own_job(request)
    if wait_s == 0 and not is_finished(job.status):
        return await _respond_status(request, job.status, 202)
    if job.status.state != "completed":
        return await _respond_result(request, job.handle, wait_s)
    etag = make_etag(job.status)
    if (unmodified := respond_unmodified(request, etag)) is not None:
        return unmodified
    return allow_caching(await _respond_result(request, job.handle, wait_s), etag)


async def _respond_result(request: web.Request, handle: JobHandle, wait_s: float) -> web.Response:
    try:
        return respond_json(await handle.result(wait_s or MAX_WAIT_S))
    except ResultTimeout:
        return await _respond_status(request, await handle.status(), 202)
    except JobFailed as error:
        raise ApiError(409, "job_failed", f"{error.code}: {error.message}") from None
    except JobCancelled:
        raise ApiError(409, "job_cancelled", "the job was cancelled") from None


@routes.post("/jobs/{job_id}/cancel")
@accepts_ticket(to_cancel=True)
async def cancel(request: web.Request) -> web.Response:
    """Cancel a job, or request it from its worker; a finished job does not change."""
    job = await get_own_job(request)
    return respond_json(await job.handle.cancel())


@routes.post("/jobs/{job_id}/retry")
async def retry(request: web.Request) -> web.Response:
    """Run a failed job again. The limits of the caller's key apply, as to a new job."""
    job, caller = await get_own_job(request), get_caller(request)
    if caller.limits_jobs:
        caller.check_job(await job.handle.kept_job())
    return respond_json(await job.handle.retry())
