"""Files, by OpenAI's own SDK, and by those who mean harm."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
import openai
import pytest
from openai import AsyncOpenAI

from darkq import Settings
from support.http_api import Api

LINES = b'{"custom_id": "1"}\n' * 1000


async def test_a_file_is_stored_listed_read_and_deleted(sdk: AsyncOpenAI, tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(LINES)
    stored = await sdk.files.create(file=path, purpose="batch")
    assert (stored.bytes, stored.filename, stored.purpose) == (len(LINES), "in.jsonl", "batch")
    assert (await sdk.files.retrieve(stored.id)) == stored
    assert (await sdk.files.content(stored.id)).content == LINES
    assert [file.id async for file in sdk.files.list()] == [stored.id]
    assert (await sdk.files.delete(stored.id)).deleted
    with pytest.raises(openai.NotFoundError):
        await sdk.files.retrieve(stored.id)


async def test_files_are_listed_by_pages(sdk: AsyncOpenAI) -> None:
    ids = {(await sdk.files.create(file=b"x", purpose="batch")).id for _ in range(5)}
    found = [file.id async for file in sdk.files.list(limit=2)]
    assert len(found) == 5
    assert set(found) == ids
    assert [file.id async for file in sdk.files.list(order="asc")] == found[::-1]


async def test_another_tenants_file_is_unknown(
    api: Api, make_key: Callable[..., Awaitable[str]]
) -> None:
    clients = [
        AsyncOpenAI(base_url=f"{api.url}/v1", api_key=await make_key(name), max_retries=0)
        for name in ("alice", "bob")
    ]
    alice, bob = clients
    stored = await alice.files.create(file=b"secret", purpose="batch")
    for call in (bob.files.retrieve, bob.files.content, bob.files.delete):
        with pytest.raises(openai.NotFoundError):
            await call(stored.id)
    assert [file async for file in bob.files.list()] == []
    for client in clients:
        await client.close()


async def test_what_is_not_for_a_batch_is_refused_and_not_kept(
    sdk: AsyncOpenAI, settings: Settings
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await sdk.files.create(file=b"x", purpose="fine-tune")
    assert refused.value.param == "purpose"
    assert nothing_is_kept(settings)


def nothing_is_kept(settings: Settings) -> bool:
    return not [path for path in settings.state_dir.rglob("*") if path.is_file()]


async def test_a_file_that_is_too_large_is_refused_and_not_kept(
    start_gateway: Callable[..., Awaitable[Api]], settings: Settings
) -> None:
    api = await start_gateway(files_max_bytes=1000)
    async with AsyncOpenAI(base_url=f"{api.url}/v1", api_key="x", max_retries=0) as sdk:
        with pytest.raises(openai.APIStatusError) as refused:
            await sdk.files.create(file=b"x" * 1001, purpose="batch")
    assert (refused.value.status_code, refused.value.code) == (413, "file_too_large")
    assert nothing_is_kept(settings)


async def test_no_filename_becomes_a_path(api: Api, sdk: AsyncOpenAI, settings: Settings) -> None:
    stored = await sdk.files.create(file=("../../etc/pass\r\nwd", b"x"), purpose="batch")
    assert "/" not in stored.filename
    assert "\n" not in stored.filename
    for path in ("/v1/files/..%2f..%2fetc", "/v1/files/%2e%2e/content", "/v1/files/file-1"):
        assert (await api("GET", path)).status == 404


@pytest.mark.parametrize(
    ("content_type", "body", "status"),
    [
        ("application/json", b"{}", 415),
        ("multipart/form-data", b"", 400),
        ("multipart/form-data; boundary=x", b"", 400),
        ("multipart/form-data; boundary=x", b"--x\r\n\r\nno name\r\n--x--\r\n", 400),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\nabc',
            400,
        ),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--x--\r\n',
            400,
        ),
    ],
)
async def test_a_broken_upload_is_told_and_not_kept(
    api: Api, settings: Settings, content_type: str, body: bytes, status: int
) -> None:
    headers = {"content-type": content_type}
    async with (
        aiohttp.ClientSession(api.url) as session,
        session.post("/v1/files", data=body, headers=headers) as response,
    ):
        assert response.status == status, await response.text()
        assert (await response.json())["error"]["type"] == "invalid_request_error"
    assert nothing_is_kept(settings)
