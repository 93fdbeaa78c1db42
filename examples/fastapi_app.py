"""Background generation in FastAPI: post a prompt, follow its events, leave, come back.

    uvicorn fastapi_app:app --timeout-graceful-shutdown 5
    curl -s localhost:8000/jobs --json '{"prompt": "Why do people queue?"}'
    curl -sN localhost:8000/jobs/<id>/events                 # or in a browser: new EventSource(…)

A browser's EventSource reconnects and sends the last event id in `Last-Event-ID`. So a reader
misses no event and sees none twice, after any failure of the network or of this process. When no
event follows, the answer is 204, and EventSource does not reconnect.

Without `--timeout-graceful-shutdown`, uvicorn waits for every open stream when it stops.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from typing import Annotated

from fastapi import FastAPI, Header, HTTPException, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel

from darkq import Client, CursorGone, InvalidJob, JobHandle, JobNotFound, event, sse

FINISHED = ("completed", "failed", "cancelled")


class Question(BaseModel):
    prompt: str
    model: str | None = None


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
    async with Client() as client:  # one for the whole process: it belongs to this event loop
        app.state.client = client
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/jobs", status_code=202)
async def create(question: Question, request: Request) -> dict[str, str]:
    """Store a job. When this answers, the job will be run."""
    client: Client = request.app.state.client
    job = await client.enqueue(question.prompt, model=question.model)
    return {"id": job.id, "events": str(request.url_for("events", job_id=job.id))}


@app.get("/jobs/{job_id}")
async def show(job_id: str, request: Request) -> dict[str, object]:
    """Return the status of a job."""
    client: Client = request.app.state.client
    status = await client.job(job_id).status()
    return {"id": status.job_id, "state": status.state, "attempt": status.attempt}


@app.get("/jobs/{job_id}/events")
async def events(
    job_id: str, request: Request, last_event_id: Annotated[str | None, Header()] = None
) -> Response:
    """Stream a job's events: the past first, then live, to the end."""
    client: Client = request.app.state.client
    job = client.job(job_id)
    status = await job.status()  # an unknown job is a 404, not an empty stream
    if last_event_id:
        check_cursor(last_event_id)
        if status.state in FINISHED and not await something_follows(job, last_event_id):
            return Response(status_code=204)  # which stops an EventSource permanently

    async def stream() -> AsyncGenerator[bytes, None]:
        async with aclosing(job.events(after=last_event_id)) as tail:
            async for each in tail:
                yield sse.encode(event.encode(each).decode(), id=each.id)

    headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
    return StreamingResponse(stream(), media_type="text/event-stream", headers=headers)


async def something_follows(job: JobHandle, after: str) -> bool:
    """Return whether a finished job has events after a cursor."""
    async with aclosing(job.events(after)) as tail:
        async for _ in tail:
            return True
    return False


def check_cursor(text: str) -> None:
    try:
        event.Cursor.parse(text)
    except ValueError as error:
        raise HTTPException(400, str(error)) from None


@app.exception_handler(InvalidJob)
async def invalid(_: Request, error: InvalidJob) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, 422)


@app.exception_handler(JobNotFound)
async def unknown(_: Request, error: JobNotFound) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, 404)


@app.exception_handler(CursorGone)
async def gone(_: Request, error: CursorGone) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, 410)
