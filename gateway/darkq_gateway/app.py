"""Wiring: from a client and settings to an aiohttp application.

A module with handlers has a table `routes`; add it to `ROUTES`. Handlers

- get the client and the settings from `request.app[CLIENT]` and `[SETTINGS]`, the caller from
  `get_caller(request)`, and a job only from `get_own_job(request)` (`http.context`);
- raise `ApiError` or any `DarkqError`; only `http.errors` builds error responses, in the format of
  the path (`is_openai`);
- set `allow_head=False` in their route if they return any response other than `web.Response`;
- read bodies with `http.bodies`, and send events with `request.app[STREAMS].open`
  (`http.sse_response`);
- require an API key unless they are marked `@public` (`http.auth`);
- are described in `native.openapi` with each status that they may return.

Components with a lifecycle register a generator in `app.cleanup_ctx`. Only the end of the streams
is registered in `on_shutdown`: aiohttp calls it before it waits for requests in progress.
"""

from __future__ import annotations

from aiohttp import web

from darkq import Client, Settings
from darkq.serving.files import Files
from darkq.telemetry.metrics import Tally
from darkq_gateway.ai_sdk import chats
from darkq_gateway.board import overview, page, prompts
from darkq_gateway.board.overview import OVERVIEWS, Overviews
from darkq_gateway.http.auth import AUTH, Auth
from darkq_gateway.http.bodies import handle_expect, refuse_encoded
from darkq_gateway.http.connection import refuse_streaming_to_head
from darkq_gateway.http.context import CLIENT, ROUTE, SETTINGS, set_common_headers
from darkq_gateway.http.errors import get_route_pattern, handle_errors
from darkq_gateway.http.host_check import HostCheck
from darkq_gateway.http.sse_response import STREAMS, Streams
from darkq_gateway.http.telemetry import RELAY, TALLY, count_response, tracing_middlewares
from darkq_gateway.native import batches as native_batches
from darkq_gateway.native import job_events, jobs, openapi, tickets
from darkq_gateway.native.job_events import FANOUTS
from darkq_gateway.openai import (
    batches,
    chat,
    files,
    models,
    response_input,
    responses,
    unsupported,
)
from darkq_gateway.openai.files import FILES, QUOTA, FileExpiry, FileQuota
from darkq_gateway.openai.foreground import WAITERS, Waiters
from darkq_gateway.operations import health, metrics

ROUTES = [
    route
    for routes in (
        health.routes,
        metrics.routes,
        jobs.routes,
        job_events.routes(),
        native_batches.routes,
        tickets.routes,
        openapi.routes,
        chats.routes,
        unsupported.routes,  # before `responses`, whose `{response_id}` would match `compact`
        chat.routes,
        responses.routes,
        response_input.routes,
        models.routes,
        files.routes,
        batches.routes,
        page.routes,
        overview.routes,
        prompts.routes,
    )
    for route in routes
    if isinstance(route, web.RouteDef)
]


def make_app(
    client: Client, settings: Settings, *, is_open: bool | None = False
) -> web.Application:
    """Make the application. It does not close the client.

    With `is_open`, requests need no API key until the first key is created. With None that is
    unknown until `Auth.open`, and requests without a key get a 503.
    """
    host_check = HostCheck(settings)
    auth = Auth(client, is_open=is_open)
    app = web.Application(
        # Outermost first: `handle_errors` turns the exceptions of all that follow into responses.
        middlewares=[
            *tracing_middlewares(),
            handle_errors,
            host_check.check_request,
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
    app[FANOUTS] = client.make_fanouts(
        ping_after_s=settings.gateway_heartbeat_s,
        on_relayed=lambda seconds, readers: tally.observe(RELAY, seconds, by=readers),
    )
    app[FILES] = files_store = Files(settings)
    app[QUOTA] = FileQuota(files_store, settings)
    app[WAITERS] = waiters = Waiters(app)
    app[OVERVIEWS] = overviews = Overviews(client, settings)
    expiry = FileExpiry(client, files_store)
    app.cleanup_ctx.extend((auth.run, overviews.run, waiters.run, expiry.run))
    app.on_response_prepare.append(refuse_streaming_to_head)
    app.on_response_prepare.append(_record_response)
    app.on_response_prepare.append(host_check.set_cors_headers)

    async def drain(_: web.Application) -> None:
        streams.drain()

    app.on_shutdown.append(drain)
    for route in ROUTES:
        options = {"expect_handler": handle_expect, **route.kwargs}
        web.RouteDef(route.method, route.path, route.handler, options).register(app.router)
    return app


async def _record_response(request: web.Request, response: web.StreamResponse) -> None:
    """Set the headers of every response, and count it."""
    request[ROUTE] = get_route_pattern(request)
    count_response(request.app[TALLY], request, request[ROUTE], response.status)
    set_common_headers(request, response)
