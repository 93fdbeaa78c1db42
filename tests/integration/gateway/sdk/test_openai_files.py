"""Files, by OpenAI's own SDK, and by those who mean harm."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp
import openai
import pytest
from openai import AsyncOpenAI

from darkq import Client, Settings
from darkq.serving.files import Files
from darkq_gateway.openai.files import FileExpiry
from support.http_api import Api
from support.waiting import wait_until

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


async def test_a_file_expires_when_its_upload_says(sdk: AsyncOpenAI) -> None:
    """Red if `expires_after` is refused, or taken and not honoured."""
    stored = await sdk.files.create(
        file=b"x", purpose="batch", expires_after={"anchor": "created_at", "seconds": 7200}
    )
    assert stored.expires_at == stored.created_at + 7200
    assert (await sdk.files.retrieve(stored.id)).expires_at == stored.expires_at
    usual = await sdk.files.create(file=b"x", purpose="batch")
    assert usual.expires_at == usual.created_at + 30 * 86400


async def test_when_a_file_expires_is_a_setting(
    start_gateway: Callable[..., Awaitable[Api]], settings: Settings
) -> None:
    """Red if a file outlives its time, or if its bytes do."""
    api = await start_gateway(files_ttl_s=0.5)
    async with AsyncOpenAI(base_url=f"{api.url}/v1", api_key="x", max_retries=0) as sdk:
        stored = await sdk.files.create(file=b"x", purpose="batch")
        with pytest.raises(openai.NotFoundError):
            await sdk.files.retrieve(stored.id)
        with pytest.raises(openai.NotFoundError):
            await sdk.files.content(stored.id)
        assert [file async for file in sdk.files.list()] == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("expires_after[anchor]", "last_active_at"),
        ("expires_after[anchor]", ""),
        *(
            ("expires_after[seconds]", seconds)
            for seconds in ("", "3599", "2592001", "-3600", "1e5", "3600.0", "9" * 400)
        ),
    ],
)
async def test_an_expiry_that_cannot_be_is_refused_by_name(
    api: Api, settings: Settings, field: str, value: str
) -> None:
    """Red if a wrong value is passed over."""
    form = {
        "expires_after[anchor]": "created_at",
        "expires_after[seconds]": "3600",
        "purpose": "batch",
        "file": io.BytesIO(b"x"),
        field: value,
    }
    answer = await api("POST", "/v1/files", data=form)
    assert (answer.status, answer.json["error"]["param"]) == (400, field)
    assert field in answer.json["error"]["message"]
    assert nothing_is_kept(settings)


async def test_an_anchor_or_seconds_alone_is_refused(api: Api) -> None:
    """Red if half of an expiry is passed over."""
    for given, missing in (
        ({"expires_after[anchor]": "created_at"}, "expires_after[seconds]"),
        ({"expires_after[seconds]": "3600"}, "expires_after[anchor]"),
    ):
        form = {"purpose": "batch", "file": io.BytesIO(b"x"), **given}
        answer = await api("POST", "/v1/files", data=form)
        assert (answer.status, answer.json["error"]["param"]) == (400, missing)


async def test_a_tenant_has_so_many_files_and_no_more(
    start_gateway: Callable[..., Awaitable[Api]], make_key: Callable[..., Awaitable[str]]
) -> None:
    """Red without a quota, or with one for all tenants together."""
    api = await start_gateway(files_max_count=3)
    alice, bob = [await make_key(name) for name in ("alice", "bob")]
    async with AsyncOpenAI(base_url=f"{api.url}/v1", api_key=alice, max_retries=0) as sdk:
        results = await asyncio.gather(
            *(sdk.files.create(file=b"x", purpose="batch") for _ in range(8)),
            return_exceptions=True,
        )
        refused = [each for each in results if isinstance(each, openai.APIStatusError)]
        stored = [each for each in results if not isinstance(each, BaseException)]
        assert {(each.status_code, each.code) for each in refused} == {(403, "file_quota_exceeded")}
        assert "DARKQ_FILES_MAX_COUNT" in refused[0].message
        assert len(stored) <= 3
        while len([file async for file in sdk.files.list()]) < 3:
            await sdk.files.create(file=b"x", purpose="batch")
        with pytest.raises(openai.PermissionDeniedError):
            await sdk.files.create(file=b"x", purpose="batch")
        await sdk.files.delete(stored[0].id)
        await sdk.files.create(file=b"x", purpose="batch")
    async with AsyncOpenAI(base_url=f"{api.url}/v1", api_key=bob, max_retries=0) as sdk:
        await sdk.files.create(file=b"x", purpose="batch")


async def test_a_tenant_has_so_many_bytes_and_no_more(
    start_gateway: Callable[..., Awaitable[Api]], settings: Settings
) -> None:
    """Red if only files are counted, or if a chunked body without a length is not."""
    api = await start_gateway(files_max_total_bytes=10_000, files_max_bytes=6_000)
    async with AsyncOpenAI(base_url=f"{api.url}/v1", api_key="x", max_retries=0) as sdk:
        await sdk.files.create(file=b"x" * 5000, purpose="batch")
        with pytest.raises(openai.PermissionDeniedError, match="DARKQ_FILES_MAX_TOTAL_BYTES"):
            await sdk.files.create(file=b"x" * 5500, purpose="batch")

        async def pieces() -> AsyncIterator[bytes]:
            yield b"--x\r\n"

        headers = {"Content-Type": "multipart/form-data; boundary=x"}
        assert (await api("POST", "/v1/files", data=pieces(), headers=headers)).status == 403
        assert len([file async for file in sdk.files.list()]) == 1


async def test_expired_files_are_deleted_but_for_the_input_of_an_open_batch(
    start_gateway: Callable[..., Awaitable[Api]], client: Client, settings: Settings
) -> None:
    """Red if what an open batch reads is deleted, or if anything else that has expired stays."""
    api = await start_gateway(files_ttl_s=2)
    files = Files(settings)
    async with AsyncOpenAI(base_url=f"{api.url}/v1", api_key="x", max_retries=0) as sdk:
        read, other = [await sdk.files.create(file=b"{}", purpose="batch") for _ in range(2)]
        await sdk.batches.create(
            input_file_id=read.id, endpoint="/v1/responses", completion_window="24h"
        )

        async def expired() -> bool:
            return [file async for file in sdk.files.list()] == []

        await wait_until("they expire", expired)
    assert await FileExpiry(client, files).delete_expired() == 1
    left = {path.parent.name for path in settings.state_dir.rglob("content")}
    assert left == {read.id}
    assert other.id not in left
