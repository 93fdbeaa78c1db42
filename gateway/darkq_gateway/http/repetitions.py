"""Requests that make many things, and may come again: by a key, or by the SDK's count of tries."""

from __future__ import annotations

from aiohttp import web

from darkq_gateway.http.context import CLIENT, caller_of

IDEMPOTENCY_KEY = "Idempotency-Key"
RETRY_COUNT = "x-stainless-retry-count"  # what OpenAI's SDKs send


async def seed_of(request: web.Request, body: bytes) -> str | None:
    """Return the seed from which the ids of what a request makes follow.

    None for a request that cannot be told from another one with the same body. Raises
    `InvalidJob`, `IdempotencyConflict`, `RedisUnavailable`.
    """
    requests, tenant = request.app[CLIENT].repeated_requests, caller_of(request).tenant
    key, tries = request.headers.get(IDEMPOTENCY_KEY), request.headers.get(RETRY_COUNT)
    if key is not None:
        return await requests.by_key(key, tenant=tenant, path=request.path, body=body)
    if tries is not None:
        again = tries != "0"
        return await requests.by_body(tenant=tenant, path=request.path, body=body, again=again)
    return None
