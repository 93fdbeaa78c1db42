"""A React page that reads its answers from the gateway: this app only makes jobs and tickets.

    darkq keys create web                                    # from now on the gateway needs a key
    DARKQ_GATEWAY_CORS_ORIGINS=http://localhost:8000 darkq gateway
    uvicorn tickets_app:app --port 8000                      # open http://localhost:8000

The page holds no API key. It gets a ticket for each job, with which it can read this one job and
cancel it. The events go from the gateway to the page, so no process of this app waits for them.

The page has no build step. Its import map names React and htm at the CDN esm.sh, and
`@darkq/client` at this app. To do without the CDN, serve copies of your own and change the map.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

from fastapi import Depends, FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse
from pydantic import BaseModel

from darkq import Client, InvalidJob, JobNotFound

HERE = Path(__file__).parent
GATEWAY = os.environ.get("GATEWAY_URL", "http://127.0.0.1:8080")
TICKET_TTL_S = 600


class Question(BaseModel):
    prompt: str


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
    async with Client() as client:
        app.state.client = client
        yield


app = FastAPI(lifespan=lifespan)


def current_user() -> str:
    """Return the name of the user: here your app looks at its session."""
    return "alice"


User = Annotated[str, Depends(current_user)]


@app.post("/jobs", status_code=202)
async def create(question: Question, request: Request, user: User) -> dict[str, str]:
    """Store a job of the user."""
    client: Client = request.app.state.client
    job = await client.enqueue(question.prompt, tenant=user)
    return {"id": job.id}


@app.post("/jobs/{job_id}/ticket")
async def make_ticket(job_id: str, request: Request, user: User) -> dict[str, str]:
    """Return a ticket; for a job of another user it opens nothing."""
    client: Client = request.app.state.client
    ticket = await client.job(job_id).ticket(ttl_s=TICKET_TTL_S, cancel=True, tenant=user)
    return {"ticket": ticket, "url": f"{GATEWAY}/jobs/{job_id}"}


@app.get("/")
async def page() -> FileResponse:
    return FileResponse(HERE / "tickets_page.html")


@app.get("/darkq.js")
async def darkq_js() -> FileResponse:
    """Return `@darkq/client`; an app with a build step imports it from npm."""
    return FileResponse(HERE.parent / "clients/js/darkq.js", media_type="text/javascript")


@app.exception_handler(InvalidJob)
async def invalid(_: Request, error: InvalidJob) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, 422)


@app.exception_handler(JobNotFound)
async def unknown(_: Request, error: JobNotFound) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, 404)
