"""Who may call the local DarkAI, and what a body of theirs may be."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import logging
from collections.abc import AsyncIterator

import aiohttp
import pytest

from darkq_local import local_darkai, wire
from darkq_local.local_darkai import LocalDarkAI
from darkq_local.models.markov import Markov

CHAT = json.dumps({"query": "hi"}).encode()


async def post(url: str, body: bytes, **headers: str) -> tuple[int, str]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with (
        aiohttp.ClientSession() as http,
        http.post(url, data=body, headers=named) as answer,
    ):
        return answer.status, await answer.text()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1"}, 403),
        ({"Sec_Fetch_Site": "cross-site"}, 403),
        ({"Host": "evil.example"}, 421),
        ({"Host": "evil.example:80"}, 421),
        ({"Host": "127.0.0.1.evil.example"}, 421),
        ({"Host": "[::1"}, 421),
        ({"Host": "evil@127.0.0.1.example"}, 421),
        ({"Host": "LOCALHOST:1"}, 200),
        ({"Host": "[::1]:1"}, 200),
        ({"Sec_Fetch_Site": "same-origin"}, 200),
    ],
)
async def test_a_strangers_page_cannot_ask(headers: dict[str, str], status: int) -> None:
    """Red without `_let_in`: a page makes a browser of this machine send requests."""
    async with LocalDarkAI(Markov(chunks=3, chunks_per_s=0)) as server:
        assert (await post(server.url, CHAT, **headers))[0] == status
        assert server.requests_seen == (status == 200)


@pytest.mark.parametrize(
    "body",
    [
        b'{"query":"x","z":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b"[" * 100_000,
        b'{"a":' * 9999,
    ],
    ids=["deep and unknown", "open", "objects"],
)
async def test_a_deep_body_is_refused_without_a_traceback(
    body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Red when `RecursionError` is not caught: a 500, and a traceback in the log."""
    caplog.set_level(logging.DEBUG)
    async with LocalDarkAI(Markov(chunks=3, chunks_per_s=0)) as server:
        status, text = await post(server.url, body)
    assert (status, json.loads(text)["detail"][0]["type"]) == (422, "value_error")
    assert not [record for record in caplog.records if record.exc_info]


async def test_a_body_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Red, in this order: without the middleware, without `client_max_size`, without a deadline."""
    monkeypatch.setattr(local_darkai, "READ_TIMEOUT_S", 1.0)
    large = json.dumps({"query": "x" * wire.MAX_BODY_BYTES}).encode()

    async def endless() -> AsyncIterator[bytes]:
        yield b'{"query":'
        await asyncio.Event().wait()

    async with (
        LocalDarkAI(Markov(chunks=3, chunks_per_s=0)) as server,
        aiohttp.ClientSession() as http,
    ):
        assert (await post(server.url, gzip.compress(large), Content_Encoding="gzip"))[0] == 415
        async with http.post(server.url, data=io.BytesIO(large)) as answer:
            assert answer.status == 413
        async with http.post(server.url, data=endless()) as answer:
            assert answer.status == 408
