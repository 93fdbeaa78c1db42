"""A real model that answers to a JSON schema, by each endpoint: llama.cpp forces its grammar."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any, Literal

import pytest
from openai import AsyncOpenAI
from pydantic import BaseModel

from darkq import Settings
from integration.gateway.sdk.test_openai_batches import ended, read
from support.http_api import Api
from support.llama_cpp import llama_cpp
from support.open_responses import check_event

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # a model on a busy machine

MODEL = "smollm2"
KEY = "the key of this test"


class Weather(BaseModel):
    """Short, so that even a model of 135M parameters comes to the end."""

    city: Literal["Bern", "Zürich"]
    cold: bool


ASK = "Is it cold in Bern? Answer as JSON."
SCHEMA: dict[str, Any] = {**Weather.model_json_schema(), "additionalProperties": False}
FORMAT: dict[str, Any] = {"type": "json_schema", "name": "w", "schema": SCHEMA, "strict": True}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with llama_cpp(KEY) as url:
        yield url


@pytest.fixture(autouse=True)
async def _worker(
    url: str,
    make_settings: Callable[..., Settings],
    start_worker: Callable[[Settings], asyncio.Task[None]],
) -> None:
    # One slot, as the server has: a call that waited there would be silent for too long.
    upstreams = {"llama": {"url": url, "api_key": KEY, "models": MODEL, "concurrency": 1}}
    start_worker(make_settings(darkai_url="none", upstreams=upstreams))


async def test_parse_of_chat_and_of_responses(sdk: AsyncOpenAI) -> None:
    """Red if the schema does not arrive at the model in the form of the chat API."""
    chat = await sdk.chat.completions.parse(
        model=MODEL,
        messages=[{"role": "user", "content": ASK}],
        response_format=Weather,
        max_tokens=60,
    )
    assert isinstance(chat.choices[0].message.parsed, Weather)
    response = await sdk.responses.parse(
        model=MODEL, input=ASK, text_format=Weather, max_output_tokens=60
    )
    assert isinstance(response.output_parsed, Weather)
    async with sdk.responses.stream(
        model=MODEL, input=ASK, text_format=Weather, max_output_tokens=60
    ) as stream:
        final = await stream.get_final_response()
    assert isinstance(final.output_parsed, Weather)


async def test_background_and_resume_at_every_event(api: Api) -> None:
    """Red if a resumed stream misses a piece of the JSON, or has one twice."""
    asked = {"model": MODEL, "input": ASK, "background": True, "text": {"format": FORMAT}}
    begun = (await api("POST", "/v1/responses", {**asked, "max_output_tokens": 60})).json
    path = f"/v1/responses/{begun['id']}?stream=true"
    events = [json.loads(event.data) for event in await api.events(path)]
    for event in events:
        check_event(event)
    for number in range(len(events) - 1):
        rest = await api.events(f"{path}&starting_after={number}")
        assert [json.loads(event.data) for event in rest] == events[number + 1 :]
    deltas = [e["delta"] for e in events if e["type"] == "response.output_text.delta"]
    assert len(deltas) > 3
    Weather.model_validate_json("".join(deltas))
    assert events[-1]["response"]["text"]["format"]["schema"] == SCHEMA


async def test_every_line_of_a_batch(sdk: AsyncOpenAI) -> None:
    """Red if a line's answer is no JSON of its schema."""
    body = {"model": MODEL, "input": ASK, "text": {"format": FORMAT}, "max_output_tokens": 60}
    lines = [
        {"custom_id": str(n), "method": "POST", "url": "/v1/responses", "body": body}
        for n in range(50)
    ]
    data = "".join(json.dumps(line) + "\n" for line in lines).encode()
    stored = await sdk.files.create(file=data, purpose="batch")
    batch = await sdk.batches.create(
        input_file_id=stored.id, endpoint="/v1/responses", completion_window="24h"
    )
    batch = await ended(sdk, batch.id, timeout_s=500)
    answers = await read(sdk, batch.output_file_id)
    assert len(answers) == len(lines)
    for answer in answers:
        (item,) = answer["response"]["body"]["output"]
        Weather.model_validate_json(item["content"][0]["text"])
