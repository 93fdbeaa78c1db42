"""The proxies of docs/operate.md as they stand there, with TLS, before a real gateway.

Each event is read before the next one exists: a proxy that holds anything back never gets there.
Proxies share their connections to the gateway between clients: no client may get a byte of
another's response.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from redis.asyncio import Redis

from darkq.errors import FileStoreUnavailable
from darkq.serving.files import Files
from support.by_hand import Hand, chunk, started
from support.http_api import Api
from support.raw_http import (
    ConnectionEnded,
    RawResponse,
    make_request,
    read_head,
    read_response,
)
from support.reverse_proxies import NAME, Proxied, caddy, nginx, proxy_before, snippet
from support.waiting import wait_until

pytestmark = pytest.mark.slow

EVENTS = 20
ROUNDS = 60
FORGED = b"<script>forged</script>"
POISON = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n%b" % (
    len(FORGED),
    FORGED,
)

both_proxies = pytest.mark.parametrize("proxy", [nginx, caddy], ids=lambda proxy: proxy.__name__)


@both_proxies
async def test_each_event_comes_through_before_the_next_one_is(
    proxy: Any, start_gateway: Any, redis: Redis, tmp_path: Path
) -> None:
    gateway = await start_gateway(gateway_allowed_hosts=NAME)
    hand = Hand(redis)
    async with proxy_before(gateway.url, proxy, tmp_path) as proxied:
        claim = await hand.take()
        async with proxied.connect() as (reader, writer):
            path = f"/jobs/{claim.keys.public_id}/events"
            writer.write(make_request("GET", path, host=NAME))
            await hand.append(claim, started(1))
            for number in range(EVENTS):
                await reader.readuntil(f"id: 1-{number}\n".encode())
                await hand.append(claim, chunk(1, number + 1))

        async def has_no_reader() -> bool:
            numbers = (await gateway("GET", "/metrics")).json.decode()
            return "\ndarkq_gateway_readers 0.0\n" in numbers

        await wait_until("the gateway to hear that the reader has left", has_no_reader)
        assert (await proxied.ask("GET", "/metrics")).status == 404


async def test_nginx_bounds_the_connections_of_one_address(
    start_gateway: Any, redis: Redis, tmp_path: Path
) -> None:
    """Red without `limit_conn` in docs/operate.md: one address could hold all that there are."""
    (bound,) = re.findall(r"limit_conn darkq_clients (\d+);", snippet("nginx"))
    gateway = await start_gateway(gateway_allowed_hosts=NAME)
    path = f"/jobs/{await gateway.enqueue()}/events"
    async with (
        proxy_before(gateway.url, nginx, tmp_path) as proxied,
        AsyncExitStack() as stack,
    ):
        for _ in range(int(bound)):
            reader, writer = await stack.enter_async_context(proxied.connect())
            writer.write(make_request("GET", path, host=NAME))
            assert (await read_head(reader))[0] == 200
        assert (await proxied.ask("GET", "/healthz")).status == 429
        await stack.aclose()

        async def is_let_in() -> bool:
            return (await proxied.ask("GET", "/healthz")).status == 200

        await wait_until("room", is_let_in)


class Tenant:
    """Asks through a proxy with a key, on one connection for as long as the proxy keeps it."""

    def __init__(self, proxied: Proxied, key: str) -> None:
        self._proxied = proxied
        self._authorization = f"Authorization: Bearer {key}"
        self._stack = AsyncExitStack()
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, method: str, target: str) -> RawResponse | None:
        """Return the response; None for one that was cut off. Raises `BadFraming`."""
        for _ in range(3):
            try:
                return await self._ask(method, target)
            except ConnectionEnded:  # kept for long enough
                await self.leave()
            except (asyncio.IncompleteReadError, ConnectionError):
                await self.leave()
                return None
        raise AssertionError("the proxy closes every connection")

    async def _ask(self, method: str, target: str) -> RawResponse:
        if self._streams is None:
            self._streams = await self._stack.enter_async_context(self._proxied.connect())
        reader, writer = self._streams
        writer.write(make_request(method, target, self._authorization, host=NAME))
        return await read_response(reader, method)

    async def begin(self, method: str, target: str) -> None:
        """Ask, and leave when the head of the response is there."""
        async with self._proxied.connect() as (reader, writer):
            writer.write(make_request(method, target, self._authorization, host=NAME))
            await read_head(reader)

    async def leave(self) -> None:
        """Close the connection."""
        await self._stack.aclose()
        self._streams = None


class _Files:
    """Stands for the store of files when it fails in the middle of one."""

    @staticmethod
    async def read(_: Files, __: str | None, ___: str) -> AsyncGenerator[bytes, None]:
        yield POISON[:20]
        raise FileStoreUnavailable("GenericError")


@both_proxies
@pytest.mark.parametrize("attack", ["HEAD", "leave", "fail"])
async def test_no_tenant_gets_a_byte_of_anothers_response(
    attack: str,
    proxy: Any,
    start_gateway: Any,
    make_key: Any,
    redis: Redis,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Red with HEAD allowed on a route that streams, or an error sent after the head of a response:
    the gateway's connections, which the proxy shares, are then a response ahead.
    """
    gateway = await start_gateway(gateway_allowed_hosts=NAME)
    keys = [await make_key(name) for name in ("alice", "bob")]
    async with gateway.with_key(keys[0]) as alice, gateway.with_key(keys[1]) as bob:
        targets = await targets_of(alice)
        job_id = await bob.enqueue(metadata={"of": "bob"})
    if attack == "fail":
        monkeypatch.setattr(Files, "read", _Files.read)
    seen: Counter[str] = Counter()
    async with proxy_before(gateway.url, proxy, tmp_path) as proxied:
        a, b = (Tenant(proxied, key) for key in keys)
        rounds = ROUNDS // 4 if attack == "leave" else ROUNDS  # a new connection each time
        for number in range(rounds * len(targets)):
            target = targets[number % len(targets)]
            if attack == "leave":
                await a.begin("GET", target)
            elif attack == "HEAD":
                assert (await a.ask("HEAD", target)) is not None
            elif target.endswith("/content"):
                assert (await a.ask("GET", target)) is None, "cut off, and told so"
            for tenant, path, holds in (
                (b, f"/jobs/{job_id}", b'"of":"bob"'),
                (a, f"/jobs/{job_id}", b"job_not_found"),
                (a, "/healthz", b'"ok"'),
                (b, "/jobs?limit=1", job_id.encode()),
            ):
                response = await tenant.ask("GET", path)
                good = response is not None and holds in response.body
                seen["right" if good else f"wrong: {response}"] += 1
        await a.leave()
        await b.leave()
    print(seen)
    assert set(seen) == {"right"}


async def targets_of(api: Api) -> list[str]:
    """Return what streams, of a tenant: a file that looks like a response, a job, a Response."""
    form = aiohttp.FormData({"purpose": "batch"})
    form.add_field("file", POISON, filename="in.jsonl")
    file_id = (await api("POST", "/v1/files", data=form)).json["id"]
    asked = {"model": "gpt-4o", "input": "hello", "background": True}
    response_id = (await api("POST", "/v1/responses", asked)).json["id"]
    job_id = response_id.removeprefix("resp_")
    return [
        f"/v1/files/{file_id}/content",
        f"/jobs/{job_id}/events",
        f"/v1/responses/{response_id}?stream=true",
        "/board/overview",
    ]
