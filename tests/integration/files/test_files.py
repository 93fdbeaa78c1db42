"""The store of files: a directory here, and the same over a store named by its URL."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from darkq import Settings
from darkq.errors import FileNotFound, FileStoreUnavailable, FileTooLarge
from darkq.serving.files import UNPUBLISHED_KEPT_S, FileInfo, Files, new_file_id


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


async def test_what_is_removed_is_gone_however_far_it_had_come(
    settings: Settings, files: Files
) -> None:
    info = await put(files, b"one")
    await files.remove("alice", info.id)
    await files.remove("alice", info.id)
    info = await put(files, b"one")
    (about,) = settings.state_dir.rglob("about.json")
    about.unlink()  # as if its maker had been killed before it wrote that
    await files.remove("alice", info.id)
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


async def page_ids(files: Files, **asked: Any) -> list[str]:
    return [info.id for info in (await files.page("alice", **asked)).files]


async def test_pages_follow_one_another(files: Files) -> None:
    """Red if a page begins with the file it should begin behind, or has one too many."""
    stored = [(await put(files, b"%d" % n)).id for n in range(5)]
    newest = stored[::-1]
    assert await page_ids(files) == newest
    assert await page_ids(files, limit=2) == newest[:2]
    assert await page_ids(files, limit=2, after=newest[1]) == newest[2:4]
    assert await page_ids(files, limit=9, after=newest[1]) == newest[2:]
    assert await page_ids(files, limit=2, oldest_first=True, after=stored[2]) == stored[3:]
    assert [(await files.page("alice", limit=n)).has_more for n in (4, 5)] == [True, False]
    for nothing in (new_file_id(), "file-1", "../x"):
        with pytest.raises(FileNotFound):
            await files.page("alice", after=nothing)


async def test_a_page_reads_no_more_than_itself(settings: Settings) -> None:
    """Red if the whole list is read for each page."""
    read = list[str]()

    class Watched(Files):
        async def _info(self, path: str) -> FileInfo | None:
            read.append(path)
            return await super()._info(path)

    files = Watched(settings)
    for _ in range(30):
        await put(files, b"x")
    assert len(await page_ids(files, limit=3)) == 3
    assert len(read) == 4, "the page, and one more to know whether there is any"


async def test_a_page_leaves_out_what_is_deleted_meanwhile(settings: Settings) -> None:
    """Red if a file that is gone is the answer to the list."""

    class Slow(Files):
        async def _infos(self, paths: Sequence[str]) -> list[FileInfo]:
            if not gone:
                gone.append(stored[1])
                await files.delete("alice", stored[1])
            return await super()._infos(paths)

    gone = list[str]()
    files = Files(settings)
    stored = [(await put(files, b"x")).id for _ in range(3)]
    assert await page_ids(Slow(settings)) == [stored[2], stored[0]]


async def test_a_list_under_a_storm_of_deletions(files: Files) -> None:
    """Red if one file that is gone fails the list."""
    stored = [(await put(files, b"x")).id for _ in range(40)]

    async def delete_all() -> None:
        for file_id in stored:
            await files.delete("alice", file_id)

    deleting = asyncio.create_task(delete_all())
    while not deleting.done():
        await files.listed("alice")
    await deleting
    assert await files.listed("alice") == []


async def test_a_deleted_file_leaves_no_folder(settings: Settings, files: Files) -> None:
    """Red without `automatic_cleanup`: a folder per file that ever was."""
    first, second = await put(files, b"one"), await put(files, b"two")
    await files.delete("alice", first.id)
    assert await content(files, "alice", second.id) == b"two"
    await files.delete("alice", second.id)
    assert list((settings.state_dir / "files").iterdir()) == []
    with pytest.raises(FileTooLarge):
        await files.create("alice", pieces(b"x" * 9), filename="x", purpose="batch", max_bytes=5)
    assert list((settings.state_dir / "files").iterdir()) == []


async def test_files_come_and_go_in_one_folder_at_once(files: Files) -> None:
    """Red if a folder that is removed as empty fails the upload that has just found it."""

    async def come_and_go() -> None:
        for n in range(20):
            info = await put(files, b"%d" % n)
            assert await content(files, "alice", info.id) == b"%d" % n
            await files.delete("alice", info.id)

    await asyncio.gather(*(come_and_go() for _ in range(5)))
    assert await files.listed("alice") == []


async def test_an_expired_file_is_as_an_unknown_one(files: Files) -> None:
    """Red where its time is looked at in one place and not in another."""
    stays = await put(files, b"one")
    gone = await put_for(files, 0)
    assert stays.expires_at == stays.created_at + 30 * 86400
    with pytest.raises(FileNotFound):
        await files.info("alice", gone.id)
    with pytest.raises(FileNotFound):
        await files.delete("alice", gone.id)
    assert await files.listed("alice") == [stays]


async def put_for(files: Files, ttl_s: float) -> FileInfo:
    return await files.create("alice", pieces(b"short"), filename="x", purpose="batch", ttl_s=ttl_s)


async def test_what_has_expired_is_deleted_but_for_what_is_read(
    settings: Settings, files: Files
) -> None:
    """Red if the input of an open batch is deleted, or if anything else of it stays."""
    stays, read, gone = await put(files, b"one"), await put_for(files, 0), await put_for(files, 0)
    await files.create("bob", pieces(b"short"), filename="x", purpose="batch", ttl_s=0)
    assert await files.drop_expired({read.id}) == 2
    assert {path.parent.name for path in left_below(settings.state_dir)} == {stays.id, read.id}
    assert await content(files, "alice", read.id) == b"short"
    assert await files.drop_expired() == 1
    assert await files.drop_expired() == 0
    assert {path.parent.name for path in left_below(settings.state_dir)} == {stays.id}
    assert gone.id != read.id


async def test_a_file_of_an_earlier_version_has_no_end(settings: Settings, files: Files) -> None:
    """Red if an upgrade gives an end to what was stored without one."""
    info = await put(files, b"one")
    (about,) = settings.state_dir.rglob("about.json")
    fields = json.loads(about.read_bytes())
    del fields["expires_at"]
    about.write_text(json.dumps(fields))
    assert (await files.info("alice", info.id)).expires_at is None
    assert await files.drop_expired() == 0


async def test_what_a_killed_process_left_is_deleted_in_the_end(
    settings: Settings, files: Files
) -> None:
    """Red if bytes without a file stay, if parts go early, or if what is not ours goes."""
    stays = await put(files, b"one")
    orphan = await files.receive("alice", pieces(b"never published"))
    await files.put_part("alice", new_file_id(), "000000000000001", b"of a batch that runs")
    folder = settings.state_dir / "files"
    draft = next(folder.glob(f"*/{orphan.file_id}")) / "content#12"
    foreign = folder / "of somebody else" / "content"
    foreign.parent.mkdir()
    for path in (draft, foreign):
        path.write_bytes(b"x")
    old = time.time() - UNPUBLISHED_KEPT_S - 60
    for path in (draft, foreign, next(folder.glob(f"*/{orphan.file_id}/content"))):
        os.utime(path, (old, old))
    assert await files.drop_expired() == 0
    left = {path.name for path in left_below(folder)}
    assert left == {"content", "about.json", f"{1:015d}"}
    assert foreign.exists()
    assert await content(files, "alice", stays.id) == b"one"


async def test_usage_counts_what_is_stored(files: Files) -> None:
    """Red if another tenant's are counted, or the bytes are not."""
    assert await files.usage("alice") == (0, 0)
    await put(files, b"x" * 1000)
    await put(files, b"x" * 500)
    await put(files, b"other", tenant="bob")
    count, size = await files.usage("alice")
    assert count == 2
    assert 1500 < size < 2500


async def test_a_record_that_was_cut_short_is_no_file(settings: Settings, files: Files) -> None:
    """Red if one such record fails the whole list."""
    stays, broken = await put(files, b"one"), await put(files, b"two")
    next(settings.state_dir.rglob(f"{broken.id}/about.json")).write_bytes(b"")
    assert await files.listed("alice") == [stays]
    with pytest.raises(FileNotFound):
        await files.info("alice", broken.id)


async def test_an_object_store_does_all_of_it(make_settings: Callable[..., Settings]) -> None:
    """Red if only a local directory can be paged, counted, or cleared of what has expired."""
    files = Files(make_settings(files_url="memory:///"))
    stored = [await put(files, b"x" * (6 << 20), b"%d" % n) for n in range(3)]
    other = await put(files, b"other", tenant="bob")
    gone = await put_for(files, 0)
    assert await content(files, "alice", stored[0].id) == b"x" * (6 << 20) + b"0"
    newest = [info.id for info in stored[::-1]]
    assert await page_ids(files, limit=2) == newest[:2]
    assert await page_ids(files, limit=2, after=newest[1]) == newest[2:]
    assert (await files.usage("alice")).files == 4
    assert await files.drop_expired() == 1
    with pytest.raises(FileNotFound):
        await content(files, "alice", gone.id)
    await files.put_part("alice", newest[0], "1-x", b"part")
    assert [part async for part in files.parts("alice", newest[0], ["1-x"])] == [b"part"]
    await files.drop_parts("alice", newest[0])
    for file_id in newest:
        await files.delete("alice", file_id)
    assert await files.usage("alice") == (0, 0)
    assert await files.listed("bob") == [other]
    with pytest.raises(FileTooLarge):
        await files.create("alice", pieces(b"x" * 99), filename="x", purpose="batch", max_bytes=9)
    await files.discard("alice", await files.receive("alice", pieces(b"never published")))
    assert await files.usage("alice") == (0, 0)
