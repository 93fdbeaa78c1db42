"""The store of files: a directory here, and the same over a store named by its URL."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from darkq import Settings
from darkq.errors import FileNotFound, FileStoreUnavailable, FileTooLarge
from darkq.files import FileInfo, Files, new_file_id


@pytest.fixture
def files(settings: Settings) -> Files:
    return Files(settings)


async def pieces(*data: bytes) -> AsyncIterator[bytes]:
    for piece in data:
        yield piece


async def put(files: Files, *data: bytes, tenant: str | None = "alice") -> FileInfo:
    return await files.create(tenant, pieces(*data), filename="in.jsonl", purpose="batch")


async def content(files: Files, tenant: str | None, file_id: str) -> bytes:
    return b"".join([piece async for piece in files.read(tenant, file_id)])


@pytest.mark.parametrize("data", [(), (b"one\n",), (b"x" * (3 << 20), b"", b"y" * (8 << 20))])
async def test_what_was_stored_is_read_again(files: Files, data: tuple[bytes, ...]) -> None:
    info = await put(files, *data)
    assert await content(files, "alice", info.id) == b"".join(data)
    assert await files.info("alice", info.id) == info
    assert info.bytes == len(b"".join(data))


async def test_another_tenants_file_is_as_an_unknown_one(files: Files) -> None:
    info = await put(files, b"secret")
    for tenant in ("bob", None):
        with pytest.raises(FileNotFound):
            await files.info(tenant, info.id)
        with pytest.raises(FileNotFound):
            await content(files, tenant, info.id)
        with pytest.raises(FileNotFound):
            await files.delete(tenant, info.id)
        assert await files.listed(tenant) == []
    assert await content(files, "alice", info.id) == b"secret"


async def test_a_file_that_is_too_large_leaves_nothing(settings: Settings, files: Files) -> None:
    with pytest.raises(FileTooLarge):
        await files.create(
            "alice", pieces(b"x" * 60, b"x" * 60), filename="x", purpose="batch", max_bytes=100
        )
    assert left_below(settings.state_dir) == []


async def test_what_breaks_off_leaves_nothing(settings: Settings, files: Files) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"one\n"
        raise ConnectionResetError("gone")

    with pytest.raises(ConnectionResetError):
        await files.create("alice", broken(), filename="x", purpose="batch")
    assert await files.listed("alice") == []
    assert left_below(settings.state_dir) == []


def left_below(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file()]


async def test_a_deleted_file_is_unknown(settings: Settings, files: Files) -> None:
    info = await put(files, b"one")
    await files.delete("alice", info.id)
    with pytest.raises(FileNotFound):
        await files.info("alice", info.id)
    assert left_below(settings.state_dir) == []


async def test_parts_come_back_by_name_and_may_be_replaced(files: Files) -> None:
    file_id = new_file_id()
    for name, data in (("10-x", b"b"), ("02-x", b"?"), ("02-x", b"a"), ("02-y", b"c")):
        await files.put_part("alice", file_id, name, data)
    names = ["02-x", "10-x"]
    assert [part async for part in files.parts("alice", file_id, names)] == [b"a", b"b"]
    assert await files.part_names("alice", file_id) == ["02-x", "02-y", "10-x"]
    assert await files.listed("alice") == []
    await files.drop_parts("alice", file_id)
    assert await files.part_names("alice", file_id) == []
    with pytest.raises(FileNotFound):
        await anext(files.parts("alice", file_id, names))
    await files.drop_parts("alice", file_id)


async def test_what_is_discarded_is_gone_however_far_it_had_come(
    settings: Settings, files: Files
) -> None:
    info = await put(files, b"one")
    await files.discard("alice", info.id)
    await files.discard("alice", info.id)
    info = await put(files, b"one")
    (about,) = settings.state_dir.rglob("about.json")
    about.unlink()  # as if its maker had been killed before it wrote that
    await files.discard("alice", info.id)
    assert left_below(settings.state_dir) == []


async def test_a_file_with_an_id_replaces_the_one_before(files: Files) -> None:
    first = await put(files, b"one")
    second = await files.create(
        "alice", pieces(b"two"), filename="x", purpose="batch_output", file_id=first.id
    )
    assert await files.listed("alice") == [second]
    assert await content(files, "alice", first.id) == b"two"


@pytest.mark.parametrize(
    "file_id", ["", "..", "../x", "file-1", "file-" + "0" * 31 + "/", "file-" + "G" * 32, "\0"]
)
async def test_an_id_that_can_be_none_is_unknown(files: Files, file_id: str) -> None:
    with pytest.raises(FileNotFound):
        await files.info("alice", file_id)
    with pytest.raises(FileNotFound):
        await content(files, "alice", file_id)


async def test_files_are_listed_by_tenant(files: Files) -> None:
    mine = {(await put(files, b"%d" % n)).id for n in range(3)}
    await put(files, b"other", tenant="bob")
    assert {info.id for info in await files.listed("alice")} == mine


async def test_no_name_of_a_tenant_becomes_a_path(settings: Settings, files: Files) -> None:
    info = await put(files, b"x", tenant="../../etc")
    assert all(settings.state_dir in path.parents for path in left_below(settings.state_dir))
    assert await content(files, "../../etc", info.id) == b"x"


async def test_a_store_that_does_not_answer_is_told_by_its_setting(
    make_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (
        ("AWS_ACCESS_KEY_ID", "x"),
        ("AWS_SECRET_ACCESS_KEY", "x"),
        ("AWS_ENDPOINT", "http://127.0.0.1:9"),
        ("AWS_ALLOW_HTTP", "true"),
    ):
        monkeypatch.setenv(name, value)
    files = Files(make_settings(files_url="s3://bucket/prefix"))
    with pytest.raises(FileStoreUnavailable, match="DARKQ_FILES_URL"):
        await files.info("alice", new_file_id())


async def test_a_folder_that_cannot_be_made_is_told_when_it_is_needed(
    make_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    files = Files(make_settings(state_dir=tmp_path / "file" / "state"))
    with pytest.raises(FileStoreUnavailable, match="DARKQ_FILES_URL"):
        await put(files, b"x")


async def test_a_folder_by_its_url(make_settings: Callable[..., Settings], tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    files = Files(make_settings(files_url=(tmp_path / "files").as_uri()))
    info = await put(files, b"one")
    assert await content(files, "alice", info.id) == b"one"
    assert left_below(tmp_path / "files")
