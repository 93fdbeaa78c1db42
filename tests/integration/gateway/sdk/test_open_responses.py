"""Responses and their events, as the types of the Open Responses specification have them."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from openai import AsyncOpenAI

from darkq_gateway.http import sse_response
from darkq_local.faults import Fault
from darkq_local.local_darkai import LocalDarkAI
from support.http_api import Api
from support.open_responses import EVENTS, check_event, check_response
from support.waiting import wait_until

Working = Callable[..., Awaitable[LocalDarkAI]]
MODEL = "llama-3-70b"
BODY: dict[str, Any] = {"model": MODEL, "input": "Why do people queue?"}

OF_PIECES = ("refusal", "reasoning_text", "function_call_arguments", "annotation")


async def events_of(api: Api, **more: Any) -> list[dict[str, Any]]:
    """Return the events of a Response in the background."""
    begun = await api("POST", "/v1/responses", BODY | {"background": True} | more)
    check_response(begun.json)
    path = f"/v1/responses/{begun.json['id']}?stream=true"
    return [json.loads(event.data) for event in await api.events(path)]


async def test_every_event_of_every_end_is_valid(api: Api, working: Working) -> None:
    """Red if a field is missing from a Response, or has no value of the specification's type."""
    await working(Fault.parse("truncate=2"), chunks_per_s=100)
    seen = {each["type"] for each in await checked(api)}
    seen |= {each["type"] for each in await checked(api, model="gpt-17")}
    of_text = {name for name in EVENTS if not any(word in name for word in OF_PIECES)}
    assert seen == of_text - {"response.incomplete"}


async def checked(api: Api, **more: Any) -> list[dict[str, Any]]:
    events = await events_of(api, **more)
    for event in events:
        check_event(event)
    return events


async def test_a_cancelled_response_is_valid(api: Api, working: Working) -> None:
    """Red if what is told of a cancelled Response is no Response."""
    darkai = await working(chunks=10_000, chunks_per_s=50)
    begun = (await api("POST", "/v1/responses", BODY | {"background": True})).json
    await wait_until("it runs", lambda: bool(darkai.exchanges))
    check_response((await api("GET", f"/v1/responses/{begun['id']}")).json)
    cancelled = (await api("POST", f"/v1/responses/{begun['id']}/cancel")).json
    assert cancelled["status"] == "cancelled"
    check_response(cancelled)
    path = f"/v1/responses/{begun['id']}?stream=true"
    last = [json.loads(event.data) for event in await api.events(path)][-1]
    assert last["type"] == "response.incomplete"
    check_event(last)


async def test_a_response_repeats_what_its_request_said(
    api: Api, sdk: AsyncOpenAI, working: Working, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red if a field is not repeated, or is not when the Response is retrieved."""
    monkeypatch.setattr(sse_response, "BEGIN_S", 20)
    await working(chunks=1)
    said: dict[str, Any] = {
        "metadata": {"order": "17"},
        "parallel_tool_calls": False,
        "prompt_cache_key": "cache",
        "safety_identifier": "somebody",
        "store": True,
        "user": "u-17",
    }
    answer = await api("POST", "/v1/responses", BODY | said | {"service_tier": "flex"})
    check_response(answer.json)
    kept = (await sdk.responses.retrieve(answer.json["id"])).to_dict()
    for response in (answer.json, kept):
        assert {name: response[name] for name in said} == said
        assert (response["service_tier"], response["instructions"]) == ("default", None)
        assert (response["temperature"], response["top_p"]) == (1.0, 1.0)
    unstored = await api("POST", "/v1/responses", BODY | {"store": False})
    assert unstored.json["store"] is False
