"""Nobody else on the machine can read a file, whatever the umask is and whoever stores it."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from darkq import Settings
from darkq.errors import ConfigurationError
from darkq.serving.files import Files, new_file_id
from darkq_cli.batch.ledger import Registry
from darkq_gateway.serve import gateway
from darkq_worker.main import run_worker


@pytest.fixture(params=[0o000, 0o022, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    """Run with this umask."""
    mask: int = request.param
    before = os.umask(mask)
    yield mask
    os.umask(before)


def modes_below(folder: Path) -> set[tuple[str, str]]:
    """The kinds and modes of a folder and all within."""
    found = set()
    for path in (folder, *folder.rglob("*")):
        mode = path.stat().st_mode
        found.add(("folder" if stat.S_ISDIR(mode) else "file", f"{stat.S_IMODE(mode):03o}"))
    return found


async def pieces(*data: bytes) -> AsyncIterator[bytes]:
    for piece in data:
        yield piece


async def store(files: Files, folder: Path) -> set[tuple[str, str]]:
    """Store all kinds of things; return the modes, also while a file is being written."""
    seen = set[tuple[str, str]]()

    async def watched() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"secret" * (1 << 18)
            seen.update(modes_below(folder))

    await files.create("alice", watched(), filename="x", purpose="batch")
    await files.put_part("alice", new_file_id(), "1-x", b"secret")
    return seen | modes_below(folder)


@pytest.mark.usefixtures("umask")
async def test_folders_and_files_are_of_their_user_alone(
    make_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    """Red if obstore writes the files: it follows the umask."""
    state = tmp_path / "new" / "state"
    files = Files(make_settings(state_dir=state))
    assert await store(files, state) == {("folder", "700"), ("file", "600")}


@pytest.mark.usefixtures("umask")
async def test_so_are_those_in_a_folder_named_by_its_url(
    make_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    """Red if only the default folder is written to with care."""
    root = tmp_path / "files"
    root.mkdir(mode=0o700)
    root.chmod(0o700)
    files = Files(make_settings(files_url=root.as_uri()))
    assert await store(files, root) == {("folder", "700"), ("file", "600")}


@pytest.mark.usefixtures("umask")
def test_the_command_notes_a_batch_for_its_user_alone(
    make_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    """Red if the folder of the command's notes makes an open state directory."""
    settings = make_settings(state_dir=tmp_path / "new" / "state")
    registry = Registry(settings)
    for _ in range(2):
        registry.add("batch-1", tmp_path)
    assert registry.find("batch-1") == tmp_path
    assert modes_below(tmp_path / "new") == {("folder", "700"), ("file", "600")}


@pytest.mark.parametrize("process", ["gateway", "worker"])
async def test_a_folder_of_an_earlier_version_is_closed_at_the_start(
    make_settings: Callable[..., Settings], tmp_path: Path, process: str
) -> None:
    """Red if only a new folder is private."""
    settings = make_settings(state_dir=tmp_path / "state", gateway_port=0)
    folder = settings.state_dir / "files"
    folder.mkdir(parents=True)
    folder.chmod(0o755)
    await begin(process, settings)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


async def begin(process: str, settings: Settings) -> None:
    """Start a process of ours, as far as its own check of the folder and no further."""
    if process == "gateway":
        async with gateway(settings):
            return
    nowhere = settings.model_copy(update={"redis_url": None})
    try:
        await run_worker(nowhere, handle_signals=False)
    except ConfigurationError as error:
        if error.setting != "DARKQ_REDIS_URL":
            raise


@pytest.mark.parametrize("process", ["gateway", "worker"])
@pytest.mark.parametrize("what", ["files", "."])
async def test_a_folder_that_others_may_write_to_is_refused_at_the_start(
    make_settings: Callable[..., Settings], tmp_path: Path, process: str, what: str
) -> None:
    """Red if the start does not look."""
    settings = make_settings(state_dir=tmp_path / "state", gateway_port=0)
    (settings.state_dir / "files").mkdir(parents=True, mode=0o700)
    (settings.state_dir / what).chmod(0o777)
    with pytest.raises(ConfigurationError, match=r"DARKQ_STATE_DIR: .* only you can write to"):
        await begin(process, settings)


async def test_a_start_makes_no_folder(
    make_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    """Red if a gateway whose disk is read-only, and whose files are elsewhere, cannot start."""
    settings = make_settings(state_dir=tmp_path / "state", gateway_port=0)
    async with gateway(settings):
        assert not settings.state_dir.exists()


async def test_an_upload_that_is_cancelled_leaves_nothing(
    make_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    """Red if the draft stays when its writer is cancelled."""
    settings = make_settings(state_dir=tmp_path / "state")
    waiting = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield b"x" * (2 << 20)
        waiting.set()
        await asyncio.Event().wait()

    creating = asyncio.create_task(
        Files(settings).create("alice", endless(), filename="x", purpose="batch")
    )
    await waiting.wait()
    creating.cancel()
    with pytest.raises(asyncio.CancelledError):
        await creating
    assert list((settings.state_dir / "files").iterdir()) == []
