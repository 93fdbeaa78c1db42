"""Repeated requests: found by an idempotency key, or by the retry count that OpenAI's SDKs send."""

from __future__ import annotations

from aiohttp import web

from darkq_gateway.http.context import CLIENT, get_caller

IDEMPOTENCY_KEY = "Idempotency-Key"
RETRY_COUNT = "x-stainless-retry-count"  # 0 for the first try of a request


async def get_request_seed(request: web.Request, body: bytes) -> str | None:
    """Return the seed from which the ids of all objects that a request creates are derived.

    A repeated request gets the seed of the first one, so it creates no second set of objects. None
    if the request has neither header: then a repetition cannot be distinguished from a new request.
    Raises `InvalidJob`, `IdempotencyConflict`, `RedisUnavailable`.
    """
    requests, tenant = request.app[CLIENT].repeated_requests, get_caller(request).tenant
    key, tries = request.headers.get(IDEMPOTENCY_KEY), request.headers.get(RETRY_COUNT)
    if key is not None:
        return await requests.by_key(key, tenant=tenant, path=request.path, body=body)
    if tries is not None:
        again = tries != "0"
        return await requests.by_body(tenant=tenant, path=request.path, body=body, again=again)
    return None
