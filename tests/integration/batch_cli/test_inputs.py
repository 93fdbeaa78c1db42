"""`darkq batch run` with the inputs that people have: joined, packed, piped, of other encodings."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import signal
import sys
from pathlib import Path

import pytest
import zstandard

from darkq import Client
from integration.batch_cli.conftest import Serve
from support.batches import ids, left_in, prompts, run
from support.command import Darkq
from support.waiting import wait_until

BOM = b"\xef\xbb\xbf"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("joined.jsonl", BOM + prompts(2) + BOM + prompts(3).splitlines(keepends=True)[2]),
        ("IN.JSONL.GZ", gzip.compress(prompts(3))),
        ("in.jsonl.ZST", zstandard.compress(prompts(3))),
        ("no-suffix", gzip.compress(prompts(3))),
        ("in.jsonl", zstandard.compress(prompts(3))),
        ("misnamed.zst", gzip.compress(prompts(3))),
    ],
    ids=["joined", "GZ", "ZST", "gzip unsaid", "zstd unsaid", "gzip misnamed"],
)
async def test_an_input_is_read_whatever_made_it(darkq: Darkq, name: str, content: bytes) -> None:
    """Red when only the first line may have a byte order mark, or a name must say the packing."""
    (darkq.home / name).write_bytes(content)
    done = await run(darkq, "run", name, "--dry-run")
    assert (done.code, done.err) == (0, "")
    assert done.line == "3 lines, all valid; nothing was sent"


async def test_capitals_say_text_too(darkq: Darkq) -> None:
    (darkq.home / "PROMPTS.TXT").write_bytes(b"Why?\n  indented\n")
    (darkq.home / "PROMPTS.TXT.GZ").write_bytes(gzip.compress(b"Why?\n"))
    for name, count in (("PROMPTS.TXT", 2), ("PROMPTS.TXT.GZ", 1)):
        done = await run(darkq, "run", name, "--dry-run")
        assert done.line == f"{count} lines, all valid; nothing was sent", done.err


ROWS = [{"prompt": "Why?"}, {"prompt": "How?"}]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("in.jsonl", prompts(2).decode().encode("utf-16"), "line 1: the file is UTF-16: save it"),
        ("in.txt", "Why?\nHow?\n".encode("utf-16-le"), "line 1: the file is UTF-16: save it"),
        ("in.txt", b"Why?\n\0\0\n", "line 2: holds NUL bytes"),
        ("in.jsonl", json.dumps(ROWS, indent=1).encode(), "line 1: is a JSON array, or begins one"),
        (
            "in.jsonl",
            json.dumps(ROWS).encode(),
            "each line must hold one object (jq -c '.[]' FILE)",
        ),
        (
            "in.jsonl",
            json.dumps(ROWS[0], indent=1).encode(),
            "hold one whole object (jq -c . FILE)",
        ),
        ("in.jsonl", b"PK\x03\x04", "line 1: the file is a zip archive or a spreadsheet: export"),
        ("in.csv", b"question\nWhy?\n", "in.csv has no column prompt; it has: question"),
    ],
    ids=["UTF-16", "UTF-16 text", "NULs", "array", "array in a line", "object", "zip", "csv"],
)
async def test_what_an_input_is_instead_is_named(
    darkq: Darkq, name: str, content: bytes, said: str
) -> None:
    (darkq.home / name).write_bytes(content)
    done = await run(darkq, "run", name, "-o", "out.jsonl")
    assert (done.code, done.out) == (2, b"")
    assert said in done.err
    assert left_in(darkq.home) == []


def shell(darkq: Darkq, line: str) -> tuple[str, ...]:
    """A command that a person types into bash."""
    (darkq.home / "typed.sh").write_text(line.replace("darkq ", f"{sys.executable} -m darkq_cli "))
    return ("bash", "typed.sh")


@pytest.mark.parametrize(
    "line",
    [
        "darkq batch run <(cat in.jsonl) -o out.jsonl",
        "cat in.jsonl | darkq batch run /dev/stdin -o out.jsonl",
        "gzip -c in.jsonl | darkq batch run - -o out.jsonl",
        "mkfifo pipe; (cat in.jsonl > pipe &) ; darkq batch run pipe -o out.jsonl",
    ],
)
async def test_what_can_be_read_once_is_kept_and_answered(
    darkq: Darkq, serve: Serve, line: str
) -> None:
    """Red when the second pass over the input opens it again: empty, or for ever."""
    await serve()
    (darkq.home / "in.jsonl").write_bytes(prompts(3))
    typed = darkq.start(command=shell(darkq, line))
    done = await asyncio.to_thread(typed.done)
    assert done.code == 0, done.err
    assert sorted(ids(darkq.home / "out.jsonl")) == ["c1", "c2", "c3"]
    assert left_in(darkq.home) == []


async def test_the_same_pipe_again_goes_on_and_another_is_refused(
    darkq: Darkq, client: Client, serve: Serve
) -> None:
    (darkq.home / "in.jsonl").write_bytes(prompts(3))
    (darkq.home / "other.jsonl").write_bytes(prompts(2))
    line = "exec darkq batch run <(cat {}) -o out.jsonl"
    first = darkq.start(command=shell(darkq, line.format("in.jsonl")))
    await wait_until("the batch", lambda: first.says("batch batch-"))
    first.send(signal.SIGTERM)
    assert (await asyncio.to_thread(first.done)).code == 143
    other = darkq.start(command=shell(darkq, line.format("other.jsonl")))
    refused = await asyncio.to_thread(other.done)
    assert refused.code == 2
    assert "has changed since the start of the batch" in refused.err
    await serve()
    again = darkq.start(command=shell(darkq, line.format("in.jsonl")))
    done = await asyncio.to_thread(again.done)
    assert done.code == 0, done.err
    assert sorted(ids(darkq.home / "out.jsonl")) == ["c1", "c2", "c3"]


def _waits_in(pid: int, *names: str) -> bool:
    """Tell whether a process is asleep in a function of the kernel of such a name."""
    place = Path(f"/proc/{pid}/wchan").read_text()
    return any(name in place for name in names)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("wrote", [b"", prompts(1)], ids=["no writer", "silent writer"])
async def test_a_pipe_that_says_nothing_more_is_left_by_ctrl_c(
    darkq: Darkq, number: signal.Signals, code: int, wrote: bytes
) -> None:
    """Red when the input is opened, or read, where signals only cancel a task."""
    fifo = darkq.home / "pipe"
    os.mkfifo(fifo)
    running = darkq.start("batch", "run", "pipe", "-o", "out.jsonl")
    writer = await asyncio.to_thread(fifo.open, "wb", 0) if wrote else None
    try:
        if writer is not None:
            writer.write(wrote)
        await wait_until("it to wait", lambda: _waits_in(running.pid, "pipe", "partner"))
        running.send(number)
        done = await asyncio.to_thread(running.done)
    finally:
        if writer is not None:
            writer.close()
    assert done.code == code, done.err
    assert "Traceback" not in done.err
    assert left_in(darkq.home) == []
