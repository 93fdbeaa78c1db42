"""Outputs on shares and folders that lack what a disk has: syncs of directories, locks."""

from __future__ import annotations

import asyncio
import errno
import shutil
import subprocess
from pathlib import Path

import pytest

from darkq_cli.terminal.program import shorten_path
from integration.batch_cli.conftest import Serve
from support.batches import ids, left_in, prompts
from support.command import Darkq

_DIRECTORIES_REFUSE = """
import os, stat

_fsync = os.fsync

def fsync(fd):
    if stat.S_ISDIR(os.fstat(fd).st_mode):
        raise OSError({number}, os.strerror({number}))
    _fsync(fd)

os.fsync = fsync
"""


def _refusing(darkq: Darkq, number: int) -> dict[str, str]:
    """Settings of a Python for which no directory can be synced, as on SMB, FUSE and vboxsf."""
    shim = darkq.home / "shim"
    shim.mkdir(exist_ok=True)
    (shim / "sitecustomize.py").write_text(_DIRECTORIES_REFUSE.format(number=number))
    return {"PYTHONPATH": str(shim)}


@pytest.mark.parametrize(
    ("number", "source"),
    [
        (errno.EINVAL, "in.jsonl"),
        (errno.EINVAL, "-"),
        (errno.ENOTSUP, "in.jsonl"),
        (errno.EBADF, "in.jsonl"),
        (errno.EIO, "in.jsonl"),
    ],
)
async def test_a_share_whose_folders_cannot_be_synced_takes_a_batch(
    darkq: Darkq, serve: Serve, number: int, source: str
) -> None:
    """Red when a name must be on the disk where the file system has no such promise."""
    await serve()
    (darkq.home / "in.jsonl").write_bytes(prompts(3))
    words = ("batch", "run", source, "-o", "out.jsonl")
    stdin = prompts(3) if source == "-" else b""
    running = darkq.start(*words, stdin=stdin, environment=_refusing(darkq, number))
    done = await asyncio.to_thread(running.done)
    assert done.code == 0, done.err
    assert sorted(ids(darkq.home / "out.jsonl")) == ["c1", "c2", "c3"]
    assert left_in(darkq.home) == []


async def test_another_error_of_a_folder_is_told_in_words(darkq: Darkq) -> None:
    """Red when an error of the beginning is a traceback."""
    (darkq.home / "in.jsonl").write_bytes(prompts(3))
    words = ("batch", "run", "in.jsonl", "-o", "out.jsonl")
    running = darkq.start(*words, environment=_refusing(darkq, errno.ENOSPC))
    done = await asyncio.to_thread(running.done)
    assert (done.code, done.out) == (1, b"")
    assert done.err.startswith("darkq: cannot ")
    assert "No space left on device" in done.err
    assert "Traceback" not in done.err


_NO_LOCKS = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>

static int refuse(int command) {
    return command == F_SETLK || command == F_SETLKW || command == F_OFD_SETLK;
}
#define AS(name) int name(int fd, int command, ...) { \\
    va_list more; va_start(more, command); void *argument = va_arg(more, void *); va_end(more); \\
    if (refuse(command)) { errno = ENOLCK; return -1; } \\
    return ((int (*)(int, int, ...)) dlsym(RTLD_NEXT, #name))(fd, command, argument); }
AS(fcntl)
AS(fcntl64)
"""


@pytest.fixture(scope="module")
def without_locks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library before which every lock of a file fails, as on a share without them."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    folder = tmp_path_factory.mktemp("locks")
    (folder / "locks.c").write_text(_NO_LOCKS)
    made = folder / "locks.so"
    command = [compiler, "-shared", "-fPIC", "-o", str(made), str(folder / "locks.c"), "-ldl"]
    subprocess.run(command, check=True)
    return made


async def test_a_share_that_locks_no_files_is_named(darkq: Darkq, without_locks: Path) -> None:
    """Red when SQLite's "locked" is always taken for another batch."""
    (darkq.home / "in.jsonl").write_bytes(prompts(3))
    words = ("batch", "run", "in.jsonl", "-o", "out.jsonl")
    running = darkq.start(*words, environment={"LD_PRELOAD": str(without_locks)})
    done = await asyncio.to_thread(running.done)
    assert (done.code, done.out) == (1, b"")
    assert "has no file locks, which out.jsonl.darkq needs" in done.err
    assert "Write to a local disk" in done.err


def test_a_path_is_shown_in_a_working_directory_that_was_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red if the summary of a finished batch needs the folder in which it was started."""
    folder = tmp_path / "folder"
    folder.mkdir()
    monkeypatch.chdir(folder)
    assert shorten_path(str(folder / "out.jsonl")) == "out.jsonl"
    folder.rmdir()
    assert shorten_path(str(folder / "out.jsonl")) == str(folder / "out.jsonl")
