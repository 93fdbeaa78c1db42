"""What OpenAI's API has and darkq has not: the SDK's calls end in a 404 that says what there is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from support.http_api import Api

Call = Callable[[AsyncOpenAI], Awaitable[Any]]

CALLS: dict[str, tuple[Call, str]] = {
    "input_tokens": (
        lambda sdk: sdk.responses.input_tokens.count(model="m", input="Hi"),
        "`usage` of the response",
    ),
    "compact": (
        lambda sdk: sdk.responses.compact(model="m", input="Hi"),
        "compaction is not supported",
    ),
    "chats": (lambda sdk: sdk.chat.completions.list(), "GET /jobs"),
    "chat": (lambda sdk: sdk.chat.completions.retrieve("chatcmpl-1"), "GET /jobs/{job_id}"),
    "completions": (
        lambda sdk: sdk.completions.create(model="m", prompt="Hi"),
        "/v1/chat/completions",
    ),
    "embeddings": (lambda sdk: sdk.embeddings.create(model="m", input="Hi"), "generates text"),
    "moderations": (lambda sdk: sdk.moderations.create(input="Hi"), "/v1/responses, /v1/models"),
    "images": (lambda sdk: sdk.images.generate(prompt="Hi"), "/v1/responses, /v1/models"),
    "vector stores": (lambda sdk: sdk.vector_stores.create(), "/v1/files and /v1/batches"),
    "conversations": (lambda sdk: sdk.conversations.create(), "/v1/files and /v1/batches"),
    "uploads": (
        lambda sdk: sdk.uploads.create(bytes=1, filename="f", mime_type="x", purpose="batch"),
        "/v1/files and /v1/batches",
    ),
}


@pytest.mark.parametrize("name", CALLS)
async def test_what_is_absent_is_a_404_that_says_what_there_is(sdk: AsyncOpenAI, name: str) -> None:
    """Red if it is a 405, since the path is taken for an id, or says no more than "Not Found"."""
    call, words = CALLS[name]
    with pytest.raises(openai.NotFoundError) as missing:
        await call(sdk)
    assert words in str(missing.value)


async def test_a_wrong_method_of_what_is_there_stays_a_405(api: Api) -> None:
    """Red if every path below `/v1` is caught."""
    for method, path in (("PUT", "/v1/responses"), ("DELETE", "/v1/models"), ("PUT", "/v1/files")):
        answer = await api(method, path)
        assert answer.status == 405
        assert answer.headers["Allow"]


async def test_monitors_that_ask_for_health_find_it(api: Api) -> None:
    """Red if only `/healthz` is there: guidellm and others stop at a 404."""
    assert (await api("GET", "/health")).json == (await api("GET", "/healthz")).json
