"""An earlier answer that is named instead of repeated, as the AI SDK does from the second turn."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from darkq import Client, Settings
from darkq_gateway.openai import response_input
from darkq_local.local_darkai import LocalDarkAI
from support.http_api import Api
from support.openai_frames import DONE, delta, finish
from support.scripted_http import ScriptedServer, head

Working = Callable[..., Awaitable[LocalDarkAI]]
MODEL = "llama-3-70b"
MORE = {"role": "user", "content": [{"type": "input_text", "text": "Go on."}]}


async def test_a_second_turn_that_refers_to_the_first_answer(
    sdk: AsyncOpenAI,
    make_settings: Callable[..., Settings],
    start_worker: Callable[[Settings], asyncio.Task[None]],
) -> None:
    """Red if `item_reference` is refused, or if the upstream gets another text than it gave."""
    said = head() + delta("Hello ") + delta("you.") + finish() + DONE
    async with ScriptedServer([said]) as server:
        upstreams = {"some": {"url": f"http://127.0.0.1:{server.port}/v1", "models": MODEL}}
        start_worker(make_settings(darkai_url="none", upstreams=upstreams))
        first = await sdk.responses.create(model=MODEL, input="Hi")
        assert first.output_text == "Hello you."
        item_id = first.output[0].id
        for reference in ({"type": "item_reference", "id": item_id}, {"id": item_id}):
            history: Any = [{"role": "user", "content": "Hi"}, reference, MORE]
            again = await sdk.responses.create(model=MODEL, input=history)
            assert again.status == "completed"
            messages = server.requests[-1].json["messages"]
            assert messages[:2] == [
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": "Hello you."},
            ]


async def test_an_item_of_another_tenant_is_as_unknown_as_one_that_never_was(
    api: Api, working: Working, make_key: Callable[..., Awaitable[str]], client: Client
) -> None:
    """Red if the owner is not compared, or if the answers to the two differ by a byte."""
    await working(chunks=3)
    alice, bob = await make_key("alice"), await make_key("bob")
    async with api.with_key(alice) as ours, api.with_key(bob) as theirs:
        answer = await ours("POST", "/v1/responses", {"model": MODEL, "input": "Hi"})
        item = answer.json["output"][0]["id"]
        body = {"model": MODEL, "input": [{"type": "item_reference", "id": item}, MORE]}
        assert (await ours("POST", "/v1/responses", body)).status == 200
        refused = await theirs("POST", "/v1/responses", body)
        await client.job(answer.json["id"].removeprefix("resp_")).delete()
        for caller in (ours, theirs):
            gone = await caller("POST", "/v1/responses", body)
            assert (gone.status, gone.json) == (refused.status, refused.json)
    assert refused.status == 404
    error = refused.json["error"]
    assert error["message"] == f"input[0]: Item with id '{item}' not found"
    assert (error["param"], error["code"]) == ("input[0]", "item_not_found")


async def test_what_is_no_item_of_a_response_is_not_found(
    sdk: AsyncOpenAI, client: Client, working: Working
) -> None:
    """Red if jobs of other kinds, other attempts, or ids of others' making are resolved."""
    await working(chunks=3)
    first = await sdk.responses.create(model=MODEL, input="Hi")
    job = await client.enqueue("Hi")
    await job.result()
    kept = str(first.output[0].id).rpartition("_")[0]
    for wanted in (f"msg_{job.id}_1", f"{kept}_2", f"{kept}_", "msg_68a0", "rs_1", "", "a b" * 99):
        with pytest.raises(openai.NotFoundError, match=r"^Error code: 404 - input\[0\]: Item") as e:
            await sdk.responses.create(
                model=MODEL, input=[{"type": "item_reference", "id": wanted}]
            )
        assert "a b" not in str(e.value)


async def test_references_are_bounded(
    sdk: AsyncOpenAI,
    working: Working,
    start_gateway: Callable[..., Awaitable[Api]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Red if a small body can make a gateway read any number of answers, or any amount of text."""
    await working(chunks=3)
    ids = [(await sdk.responses.create(model=MODEL, input="Hi")).output[0].id for _ in range(3)]
    items: Any = [{"type": "item_reference", "id": each} for each in ids]
    monkeypatch.setattr(response_input, "MAX_REFERENCES", 2)
    with pytest.raises(openai.BadRequestError, match="input: may have at most 2 references"):
        await sdk.responses.create(model=MODEL, input=items)
    history: Any = [*items[:2], *items[:2], MORE]
    await sdk.responses.create(model=MODEL, input=history)
    api = await start_gateway(max_prompt_bytes=100)
    async with AsyncOpenAI(base_url=f"{api.url}/v1", api_key="none", max_retries=0) as narrow:
        with pytest.raises(openai.BadRequestError, match="input: has more than 100 bytes"):
            await narrow.responses.create(model=MODEL, input=items[:1])
