"""The original interface, as the people who know it use it."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator
from contextlib import aclosing
from typing import Any

import pytest

from darkq_worker.upstreams import DarkAI
from darkq_worker.upstreams.base import (
    Overloaded,
    Rejected,
    Truncated,
    UnknownModel,
    Unreachable,
)
from support.darkai_frames import BEGIN, END, chunk, error, final
from support.http_proxy import HttpProxy
from support.scripted_http import STALL, ScriptedServer, Step, head
from support.waiting import wait_until

POEM = ["Spring is here,\n", "весна идёт,\n", "and every branch\n", "is 🌸."]
JOKE = ["Why dark mode?", " Light attracts bugs."]


def answer(pieces: list[str]) -> bytes:
    return BEGIN + b"".join(map(chunk, pieces)) + END + final("".join(pieces))


@pytest.fixture(autouse=True)
def measured_nothing_yet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("DARKQ_DARKAI_URL", raising=False)
    yield
    DarkAI.working = DarkAI.probe_error = None


# The three uses


async def test_compat_example_poem(monkeypatch: pytest.MonkeyPatch) -> None:
    async with ScriptedServer([head(), answer(POEM)]) as server:
        monkeypatch.setenv("DARKQ_DARKAI_URL", server.url)
        messages = [{"role": "user", "content": "Write a poem about spring"}]
        poem = [
            text async for text in DarkAI.create_async_generator(model="gpt-4o", messages=messages)
        ]
    assert poem == POEM
    assert server.requests[0].json == {"query": "Write a poem about spring", "model": "gpt-4o"}


async def test_compat_example_joke_through_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    async with ScriptedServer([head(), answer(JOKE)]) as server, HttpProxy("me:secret") as proxy:
        monkeypatch.setattr(DarkAI, "api_endpoint", server.url)
        messages = [{"role": "user", "content": "Tell me a joke"}]
        joke = ""
        async for text in DarkAI.create_async_generator("llama-3-70b", messages, proxy=proxy.url):
            joke += text
        assert joke == "".join(JOKE)
        assert proxy.targets == [server.url]
        assert proxy.bytes_relayed > len(answer(JOKE))
    assert len(server.requests) == 1
    assert "proxy-authorization" not in server.requests[0].headers


async def test_compat_unknown_model_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    async with ScriptedServer([head(), answer(JOKE)]) as server:
        monkeypatch.setattr(DarkAI, "api_endpoint", server.url)
        messages = [{"role": "user", "content": "Hello"}]
        with pytest.raises(UnknownModel) as caught:
            await anext(DarkAI.create_async_generator("no-such-model", messages))
    known = "llama-3-70b, gpt-4o, gpt-3.5-turbo"
    assert str(caught.value) == f"unknown model 'no-such-model'; known: {known}"
    assert server.requests == []


# The rest of the interface


def test_compat_class_attributes() -> None:
    assert DarkAI.url == DarkAI.api_endpoint == "https://darkai.foundation/chat"
    assert DarkAI.supports_stream is True
    assert DarkAI.default_model == "llama-3-70b"
    assert sorted(DarkAI.models) == ["gpt-3.5-turbo", "gpt-4o", "llama-3-70b"]
    assert DarkAI.model_aliases == {"llama-3.1-70b": "llama-3-70b"}
    assert inspect.isasyncgenfunction(DarkAI.create_async_generator)


def test_compat_get_model() -> None:
    assert DarkAI.get_model("") == DarkAI.get_model(None) == DarkAI.default_model
    assert DarkAI.get_model("llama-3.1-70b") == "llama-3-70b"
    assert DarkAI.get_model("gpt-4o") == "gpt-4o"
    with pytest.raises(UnknownModel):
        DarkAI.get_model("GPT-4o")


def test_compat_assigned_endpoint_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DARKQ_DARKAI_URL", "http://127.0.0.1:1/from-environment")
    assert DarkAI.api_endpoint == "http://127.0.0.1:1/from-environment"
    monkeypatch.setattr(DarkAI, "api_endpoint", "http://127.0.0.1:1/assigned")
    assert DarkAI.api_endpoint == "http://127.0.0.1:1/assigned"
    monkeypatch.undo()
    assert DarkAI.api_endpoint == DarkAI.url


@pytest.mark.parametrize(
    ("messages", "prompt"),
    [
        ([{"role": "system", "content": " as it is\n"}], " as it is\n"),
        (
            [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}],
            "System: Be brief.\nUser: Hello\nAssistant:",
        ),
        (
            [{"role": "user", "content": "a"}, {"role": "tool", "content": "b", "name": "x"}],
            "User: a\nTool: b\nAssistant:",
        ),
        (
            [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "What is "},
                        {"type": "image_url", "image_url": {"url": "http://127.0.0.1/"}},
                        {"type": "text", "text": "this?"},
                    ],
                }
            ],
            "What is this?",
        ),
    ],
)
def test_compat_format_prompt(messages: list[dict[str, Any]], prompt: str) -> None:
    assert DarkAI.format_prompt(messages) == prompt


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([], "no messages"),
        ([{"role": "user", "content": "a"}, {"role": "user", "content": None}], r"messages\[1\]"),
        ([{"content": "a"}], r"messages\[0\]"),
    ],
)
async def test_compat_invalid_messages_are_refused(
    messages: list[dict[str, Any]], reason: str
) -> None:
    with pytest.raises(Rejected, match=reason):
        await anext(DarkAI.create_async_generator("gpt-4o", messages))


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1", "127.0.0.1:1"])
async def test_compat_invalid_proxy_is_refused(proxy: str) -> None:
    messages = [{"role": "user", "content": "Hello"}]
    with pytest.raises(Rejected, match="proxy must be a URL"):
        await anext(DarkAI.create_async_generator("gpt-4o", messages, proxy=proxy))


async def test_compat_errors_have_status_and_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    messages = [{"role": "user", "content": "Hello"}]
    at_capacity = error("Model is at capacity. Please try again later.")
    scripts = ([head("503 Busy"), at_capacity], [head(), chunk("a"), at_capacity], [head()])
    async with ScriptedServer(*scripts) as server:
        monkeypatch.setattr(DarkAI, "api_endpoint", server.url)
        with pytest.raises(Overloaded, match=r"HTTP 503 .*: Model is at capacity") as caught:
            await anext(DarkAI.create_async_generator("gpt-4o", messages))
        assert caught.value.status == 503
        answers = DarkAI.create_async_generator("gpt-4o", messages, timeout=5, cookies={})
        assert await anext(answers) == "a"
        with pytest.raises(Overloaded, match="Model is at capacity"):
            await anext(answers)
        with pytest.raises(Truncated):
            await anext(DarkAI.create_async_generator("gpt-4o", messages))


async def test_closing_and_cancelling_close_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    messages = [{"role": "user", "content": "Hello"}]
    got: list[str] = []

    async def read() -> None:
        async for text in DarkAI.create_async_generator("gpt-4o", messages):
            got.append(text)  # noqa: PERF401 (it never ends)

    for cancel in (False, True):
        async with ScriptedServer([head(), chunk("a"), STALL]) as server:
            monkeypatch.setattr(DarkAI, "api_endpoint", server.url)
            if cancel:
                task = asyncio.create_task(read())
                await wait_until("text", lambda: got)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            else:
                async with aclosing(DarkAI.create_async_generator("gpt-4o", messages)) as texts:
                    assert await anext(texts) == "a"
            await asyncio.wait_for(server.client_gone.wait(), 5)


# `working`


async def test_compat_working_is_the_result_of_the_last_probe(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scripts: list[list[Step]] = [
        [head(), BEGIN + chunk("H"), STALL],
        [head("502 Bad")],
        [head(), answer(["Hi"])],
    ]
    found: list[tuple[bool, bool | None, type[object]]] = []

    async def probe() -> None:
        works = await DarkAI.probe(timeout_s=5)
        found.append((works, DarkAI.working, type(DarkAI.probe_error)))

    assert DarkAI.working is None
    async with ScriptedServer(*scripts) as server:
        monkeypatch.setattr(DarkAI, "api_endpoint", server.url)
        for _ in scripts:
            await probe()
    await probe()
    assert found == [
        (True, True, type(None)),
        (False, False, Overloaded),
        (True, True, type(None)),
        (False, False, Unreachable),
    ]
