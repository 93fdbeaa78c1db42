"""Wiring: from a client and settings to an aiohttp application.

A room of routes is a module with `routes() -> list[web.RouteDef]`; add it to `ROOMS`. Its handlers

- find what they need in `request.app[CLIENT]`, `[SETTINGS]` and `[STREAMS]` (`context`), and who
  calls in `caller_of(request)`; they touch a job only by way of `ownership.owned_job`;
- raise `ApiError` or any `DarkqError`, and never build an error response: `errors` does, in the
  shape of the path (`errors.SHAPES`);
- say `allow_head=False` in their route if they ever return another response than `web.Response`;
- read bodies with `bodies.read_json`, and send events with `STREAMS.open` (`sse_response`);
- need an API key unless they are marked `@public` (`auth`);
- stand in the document of `openapi`, with every status that they may answer.

What needs a beginning and an end, hangs itself into `app.cleanup_ctx`.
"""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web

from darkq import Client, Settings
from darkq.serving.files import Files
from darkq.telemetry.metrics import Tally
from darkq_gateway.board import overview, page
from darkq_gateway.board.overview import OVERVIEWS, Overviews
from darkq_gateway.http import tracing
from darkq_gateway.http.auth import AUTH, Auth
from darkq_gateway.http.bodies import on_expect, refuse_encoded
from darkq_gateway.http.connection import refuse_streaming_to_head
from darkq_gateway.http.context import CLIENT, ROUTE, SETTINGS, STREAMS, identify
from darkq_gateway.http.counting import TALLY, count_response
from darkq_gateway.http.door import Door
from darkq_gateway.http.errors import errors
from darkq_gateway.http.sse_response import Streams
from darkq_gateway.native import job_events, jobs, openapi
from darkq_gateway.openai import absent, batches, chat, files, models, responses
from darkq_gateway.openai.file_limits import QUOTA, FileQuota, file_expiry
from darkq_gateway.openai.files import FILES
from darkq_gateway.openai.foreground import DEPARTURES, Departures
from darkq_gateway.operations import health, metrics

ROOMS: tuple[Callable[[], list[web.RouteDef]], ...] = (
    health.routes,
    metrics.routes,
    jobs.routes,
    job_events.routes,
    openapi.routes,
    absent.routes,  # before the ids of Responses, which would take its names for theirs
    chat.routes,
    responses.routes,
    models.routes,
    files.routes,
    batches.routes,
    page.routes,
    overview.routes,
)


def make_app(client: Client, settings: Settings, *, is_open: bool = False) -> web.Application:
    """Make the application. The client stays the caller's to close.

    `is_open` lets anybody call without a key, as long as there is none.
    """
    door = Door(settings)
    auth = Auth(client, is_open=is_open)
    app = web.Application(
        # From the outermost: whatever goes wrong further in becomes an answer in `errors`.
        middlewares=[
            *tracing.middlewares(),
            errors,
            door.let_in,
            refuse_encoded,
            auth.authenticate,
        ],
        client_max_size=settings.gateway_max_body_bytes,
    )
    app[CLIENT] = client
    app[SETTINGS] = settings
    app[AUTH] = auth
    app[TALLY] = tally = Tally()
    app[STREAMS] = streams = Streams(settings, tally)
    app[FILES] = files_of_all = Files(settings)
    app[QUOTA] = FileQuota(files_of_all, settings)
    app[DEPARTURES] = departures = Departures(app)
    app[OVERVIEWS] = overviews = Overviews(client)
    app.cleanup_ctx.append(auth.attend)
    app.cleanup_ctx.append(overviews.run)
    app.cleanup_ctx.append(departures.run)
    app.cleanup_ctx.append(file_expiry(client, files_of_all))
    app.on_response_prepare.append(refuse_streaming_to_head)
    app.on_response_prepare.append(_mark)
    app.on_response_prepare.append(door.mark)

    async def drain(_: web.Application) -> None:
        streams.drain()

    app.on_shutdown.append(drain)
    for routes in ROOMS:
        for route in routes():
            options = {"expect_handler": on_expect, **route.kwargs}
            web.RouteDef(route.method, route.path, route.handler, options).register(app.router)
    return app


async def _mark(request: web.Request, response: web.StreamResponse) -> None:
    """Headers of every response, which is counted."""
    resource = request.match_info.route.resource
    request[ROUTE] = resource.canonical if resource is not None else "?"
    count_response(request.app[TALLY], request, request[ROUTE], response.status)
    identify(request, response)
