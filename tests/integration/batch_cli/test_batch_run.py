"""`darkq batch run` from its input to its files: real workers, a local DarkAI, a real Redis."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import signal
import sys
from contextlib import suppress
from typing import Any

import pytest
import zstandard

from darkq import Client
from darkq.errors import BatchNotFound
from darkq.protocol.keys import BatchKeys
from darkq_local.faults import Fault
from integration.batch_cli.conftest import Serve
from support.batches import ids, left_in, lines, prompts, run
from support.command import Darkq
from support.waiting import wait_until


async def test_every_line_is_answered_once_and_nothing_is_left(darkq: Darkq, serve: Serve) -> None:
    await serve()
    (darkq.home / "in.jsonl").write_bytes(prompts(30) + b"\n \n")
    done = await run(darkq, "run", "in.jsonl", "-o", "out.jsonl", "--json")
    assert done.code == 0, done.err
    (summary,) = done.objects
    assert (summary["lines"], summary["completed"], summary["failed"]) == (30, 30, 0)
    assert (summary["chunks"], summary["errors"]) == (600, None)
    written = lines(darkq.home / "out.jsonl")
    assert sorted(line["custom_id"] for line in written) == sorted(f"c{n}" for n in range(1, 31))
    body = written[0]["response"]["body"]
    assert body["object"] == "chat.completion"
    assert len(body["choices"][0]["message"]["content"].split()) == 20
    assert left_in(darkq.home) == []
    assert list((darkq.state / "batches").iterdir()) == []


@pytest.mark.parametrize("packing", ["plain", "gz", "zst", "stdin", "text", "stdin text"])
async def test_an_input_may_be_packed_or_piped(darkq: Darkq, serve: Serve, packing: str) -> None:
    await serve()
    text = b"hi\r\nho\n\nhu" if "text" in packing else prompts(3)
    arguments = ["-", "--text"] if packing == "stdin text" else ["-"]
    if not packing.startswith("stdin"):
        packed = {"gz": gzip.compress(text), "zst": zstandard.compress(text)}.get(packing, text)
        name = {"plain": "in.jsonl", "text": "in.txt"}.get(packing, f"in.jsonl.{packing}")
        (darkq.home / name).write_bytes(packed)
        arguments, text = [name], b""
    done = await run(darkq, "run", *arguments, "-o", "out.jsonl", stdin=text)
    assert done.code == 0, done.err
    expected = ["line-1", "line-2", "line-4"] if "text" in packing else ["c1", "c2", "c3"]
    assert sorted(ids(darkq.home / "out.jsonl")) == expected
    assert left_in(darkq.home) == []


async def test_the_responses_endpoint_is_answered_with_responses(
    darkq: Darkq, serve: Serve
) -> None:
    await serve()
    line = {"custom_id": "a", "method": "POST", "url": "/v1/responses", "body": {"input": "hi"}}
    (darkq.home / "in.jsonl").write_text(json.dumps(line))
    assert (await run(darkq, "run", "in.jsonl", "-o", "out.jsonl")).code == 0
    assert lines(darkq.home / "out.jsonl")[0]["response"]["body"]["object"] == "response"


async def test_failures_go_to_a_file_of_their_own(darkq: Darkq, serve: Serve) -> None:
    await serve(Fault.parse("html=403"))
    (darkq.home / "in.jsonl").write_bytes(prompts(5))
    done = await run(darkq, "run", "in.jsonl", "-o", "out.jsonl")
    assert done.code == 1
    (failure,) = lines(darkq.home / "out.errors.jsonl")
    error = failure["error"]
    *said, retry = done.err.splitlines()
    assert re.fullmatch(r"To run them again: \S+ .*batch retry batch-0-\w+", retry)
    assert said[-3:] == [
        "darkq: 1 of 5 lines failed",
        f"The first is {failure['custom_id']}: {error['code']}: {error['message']}",
        "See out.errors.jsonl",
    ]
    assert failure["response"] is None
    assert failure["error"]["code"]
    assert failure["error"]["message"]
    assert len({failure["custom_id"], *ids(darkq.home / "out.jsonl")}) == 5
    done = await run(darkq, "run", "in.jsonl", "-o", "two.jsonl", "--errors", "bad.jsonl")
    assert (done.code, left_in(darkq.home)) == (0, ["out.jsonl.darkq"])  # for `batch retry`
    assert not (darkq.home / "bad.jsonl").exists()


async def test_ordered_answers_are_in_the_order_of_the_input(darkq: Darkq, serve: Serve) -> None:
    # The first call is the slowest by far, and holds all others back.
    await serve(Fault.parse("slow=0.1"), chunks=10)
    (darkq.home / "in.jsonl").write_bytes(prompts(60))
    arguments = ("run", "in.jsonl", "-o", "out.jsonl", "--ordered", "--window", "10")
    done = await run(darkq, *arguments)
    assert done.code == 0, done.err
    assert ids(darkq.home / "out.jsonl") == [f"c{n}" for n in range(1, 61)]


@pytest.mark.parametrize("dry", [False, True])
async def test_one_wrong_line_and_nothing_is_sent(darkq: Darkq, client: Client, dry: bool) -> None:
    text = prompts(40).splitlines(keepends=True)
    text[16], text[30] = b"{wrong\n", text[2]
    (darkq.home / "in.jsonl").write_bytes(b"".join(text))
    done = await run(darkq, "run", "in.jsonl", "-o", "out.jsonl", *(["--dry-run"] if dry else []))
    assert (done.code, done.out) == (2, b"")
    head, *said = done.err.splitlines()
    assert head.startswith("darkq: 2 of 40 lines of ")
    assert head.endswith(" are invalid; nothing was sent")
    assert said[0].startswith("line 17: JSON is malformed")
    assert said[1] == "line 31: custom_id: is also that of line 3"
    assert [batch async for batch in client.batches()] == []
    assert not (darkq.home / "out.jsonl").exists()
    assert left_in(darkq.home) == []


async def test_a_dry_run_counts_and_writes_nothing(darkq: Darkq) -> None:
    (darkq.home / "in.jsonl").write_bytes(prompts(7))
    before = sorted(darkq.home.glob("*.jsonl*"))
    done = await run(darkq, "run", "in.jsonl", "--dry-run", "--json")
    assert (done.code, done.objects) == (0, [{"lines": 7, "endpoint": "/v1/chat/completions"}])
    assert sorted(darkq.home.glob("*.jsonl*")) == before
    done = await run(darkq, "run", "-", "--dry-run", "--text", stdin=b"hi\nho\n")
    assert done.line == "2 lines, all valid; nothing was sent"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("in.jsonl", b"", "has no lines"),
        ("in.jsonl", b"\n\n", "has no lines"),
        ("in.jsonl", b'{"prompt": "caf\xe9"}', "line 1: is not UTF-8"),
        ("in.txt", b"ok\ncaf\xe9\n", "line 2: prompt: is not UTF-8"),
        ("in.jsonl", b'{"prompt": "x", "temperature": 9}', "line 1: temperature: "),
        (
            "in.txt",
            b"ok\n" + b"x" * (9 << 20),
            "line 2: prompt: has 9,437,184 bytes; DARKQ_MAX_PROMPT_BYTES allows 8,388,608",
        ),
        ("in.jsonl", b'{"prompt": "' + b"x" * (13 << 20) + b'"}', "line 1: is longer than "),
        ("in.jsonl.gz", b"no gzip", "is damaged, or not compressed as its name says"),
        ("in.jsonl.gz", gzip.compress(prompts(99))[:-9], "is damaged"),
        ("in.jsonl.zst", b"no zstd", "is damaged, or not compressed as its name says"),
        ("in.jsonl.zst", zstandard.compress(prompts(99))[:-9], "is damaged"),
        (".", b"", "cannot read"),
        ("missing.jsonl", b"", "No such file"),
    ],
)
async def test_an_input_that_is_wrong_is_named(
    darkq: Darkq, name: str, content: bytes, said: str
) -> None:
    if not name.startswith(("missing", ".")):
        (darkq.home / name).write_bytes(content)
    done = await run(darkq, "run", name, "-o", "out.jsonl")
    assert done.code == 2, done.err
    assert said in done.err
    assert "Traceback" not in done.err
    assert left_in(darkq.home) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("in.jsonl",), "-o"),
        (("in.jsonl", "-o", "in.jsonl"), "the input are the same file"),
        (("in.jsonl", "-o", "a.jsonl", "--errors", "a.jsonl"), "are the same file"),
        (("in.jsonl", "-o", "nowhere/out.jsonl"), "does not exist"),
        (("in.jsonl", "-o", "old.jsonl"), "already exists"),
        (("in.jsonl", "-o", "/dev/null"), "/dev/null is not a regular file"),
        (("in.jsonl", "-o", "new.jsonl", "--errors", "."), "is not a regular file"),
        (("in.jsonl", "-o", "new.jsonl", "--name", "a\nb"), "name: must be 1 to"),
        (("in.jsonl", "-o", "new.jsonl", "--errors", "old.jsonl"), "already exists"),
        (("in.jsonl", "-o", "new.jsonl", "--tries", "0"), "tries"),
        (("in.jsonl", "-o", "new.jsonl", "--window", "0"), "--window"),
    ],
)
async def test_wrong_usage_exits_with_2(
    darkq: Darkq, arguments: tuple[str, ...], said: str
) -> None:
    (darkq.home / "in.jsonl").write_bytes(prompts(1))
    (darkq.home / "old.jsonl").write_text("precious\n")
    done = await run(darkq, "run", *arguments)
    assert (done.code, done.out) == (2, b""), done.err
    assert said in done.err
    assert (darkq.home / "old.jsonl").read_text() == "precious\n"
    assert (darkq.home / "in.jsonl").read_bytes() == prompts(1)
    assert left_in(darkq.home) == []


async def test_a_directory_that_cannot_be_written_to_is_named(darkq: Darkq) -> None:
    (darkq.home / "in.jsonl").write_bytes(prompts(1))
    done = await run(darkq, "run", "in.jsonl", "-o", "/proc/out.jsonl")
    assert done.code == 1
    assert "cannot write /proc/out.jsonl.darkq" in done.err


async def test_a_second_runner_of_an_output_is_refused(darkq: Darkq, client: Client) -> None:
    (darkq.home / "in.jsonl").write_bytes(prompts(5))
    first = darkq.start("batch", "run", "in.jsonl", "-o", "out.jsonl")  # there is no worker
    await wait_until("the batch", lambda: first.says("batch batch-"))
    done = await run(darkq, "run", "in.jsonl", "-o", "out.jsonl")
    assert done.code == 1
    assert "another darkq batch is writing" in done.err
    first.send(signal.SIGTERM)
    assert (await asyncio.to_thread(first.done)).code == 143


async def test_an_unfinished_batch_goes_on_with_the_same_words_only(
    darkq: Darkq, client: Client, serve: Serve
) -> None:
    source = darkq.home / "in.jsonl"
    source.write_bytes(prompts(5))
    first = darkq.start("batch", "run", "in.jsonl", "-o", "out.jsonl")
    await wait_until("the batch", lambda: first.says("batch batch-"))
    first.send(signal.SIGTERM)
    left = await asyncio.to_thread(first.done)
    assert "The jobs that were sent continue" in left.err

    async def refused(said: str, *arguments: str) -> None:
        done = await run(darkq, "run", *arguments, "-o", "out.jsonl")
        assert done.code == 2
        assert said in done.err

    (darkq.home / "other.jsonl").write_bytes(prompts(4))
    await refused("which has another input", "other.jsonl")
    await refused("which has other options", "in.jsonl", "--ordered")
    await refused("which has other options", "in.jsonl", "--model", "gpt-4o")
    source.write_bytes(prompts(5).replace(b"p4", b"q4"))
    await refused("has changed since the start of the batch", "in.jsonl")
    source.write_bytes(prompts(5))
    await serve()
    done = await run(darkq, "run", "in.jsonl", "-o", "out.jsonl")
    assert done.code == 0, done.err
    assert sorted(ids(darkq.home / "out.jsonl")) == ["c1", "c2", "c3", "c4", "c5"]


async def test_a_batch_that_was_piped_in_is_resumed_by_its_id(
    darkq: Darkq, client: Client, serve: Serve
) -> None:
    first = darkq.start("batch", "run", "-", "-o", "out.jsonl", stdin=prompts(5))
    await wait_until("the batch", lambda: first.says("batch batch-"))
    first.send(signal.SIGTERM)
    left = await asyncio.to_thread(first.done)
    assert {"out.jsonl.darkq", "out.jsonl.darkq-input"} <= set(left_in(darkq.home))
    await serve()
    (resume,) = (line for line in left.err.splitlines() if " batch resume " in line)
    done = await asyncio.to_thread(darkq.typed, resume)
    assert done.code == 0, done.err
    assert sorted(ids(darkq.home / "out.jsonl")) == ["c1", "c2", "c3", "c4", "c5"]
    assert left_in(darkq.home) == []
    again = await asyncio.to_thread(darkq.typed, resume)
    assert again.code == 1
    assert "no unfinished batch" in again.err


async def test_its_files_may_move_to_another_machine(
    darkq: Darkq, client: Client, serve: Serve
) -> None:
    here, there = darkq.home / "here", darkq.home / "elsewhere" / "there"
    here.mkdir()
    (here / "in.jsonl").write_bytes(prompts(5))
    first = darkq.start("batch", "run", str(here / "in.jsonl"), "-o", str(here / "out.jsonl"))
    await wait_until("the batch", lambda: first.says("batch batch-"))
    first.kill()
    await serve()
    there.parent.mkdir()
    here.rename(there)
    done = await run(
        darkq,
        *("run", str(there / "in.jsonl"), "-o", str(there / "out.jsonl")),
        state_dir=str(darkq.home / "state of another machine"),
    )
    assert done.code == 0, done.err
    assert sorted(ids(there / "out.jsonl")) == ["c1", "c2", "c3", "c4", "c5"]
    assert left_in(there) == []


async def test_what_redis_has_forgotten_is_sent_again(
    darkq: Darkq, client: Client, redis: Any, serve: Serve
) -> None:
    (darkq.home / "in.jsonl").write_bytes(prompts(5))
    first = darkq.start("batch", "run", "in.jsonl", "-o", "out.jsonl")
    await wait_until("the batch", lambda: first.says("batch batch-"))
    first.send(signal.SIGTERM)
    await asyncio.to_thread(first.done)
    await redis.flushall()
    await serve()
    done = await run(darkq, "run", "in.jsonl", "-o", "out.jsonl")
    assert done.code == 0, done.err
    assert sorted(ids(darkq.home / "out.jsonl")) == ["c1", "c2", "c3", "c4", "c5"]


async def test_an_answer_that_redis_has_lost_is_asked_for_again(
    darkq: Darkq, client: Client, redis: Any, serve: Serve
) -> None:
    (darkq.home / "in.jsonl").write_bytes(prompts(9))
    words = ("in.jsonl", "-o", "out.jsonl", "--window", "5", "--ordered")
    first = darkq.start("batch", "run", *words)
    await wait_until("the batch", lambda: first.says("batch batch-"))
    (batch_id,) = re.findall(r"^batch (batch-0-\w+)$", first.err, re.MULTILINE)

    async def ended(count: int) -> bool:
        with suppress(BatchNotFound):
            status = await client.batch(batch_id).status()
            return status.added == 5 and status.ended == count
        return False

    await wait_until("a full window", lambda: ended(0))
    first.send(signal.SIGTERM)
    await asyncio.to_thread(first.done)
    await serve()
    await wait_until("all answers", lambda: ended(5))
    await redis.delete(*await redis.keys("arq:result:*"))
    done = await run(darkq, "run", *words)
    assert done.code == 0, done.err
    assert ids(darkq.home / "out.jsonl") == [f"c{n}" for n in range(1, 10)]


async def test_cancelled_line_whose_record_was_deleted_is_written_and_not_sent_again(
    darkq: Darkq, client: Client, redis: Any, serve: Serve
) -> None:
    (darkq.home / "in.jsonl").write_bytes(prompts(3))
    first = darkq.start("batch", "run", "in.jsonl", "-o", "out.jsonl")
    await wait_until("the batch", lambda: first.says("batch batch-"))
    (batch_id,) = re.findall(r"^batch (batch-0-\w+)$", first.err, re.MULTILINE)

    async def are_added() -> bool:
        with suppress(BatchNotFound):
            return (await client.batch(batch_id).status()).added == 3
        return False

    await wait_until("all lines", are_added)
    first.kill()
    cancelled = BatchKeys.parse(batch_id).job(2)
    await client.job(cancelled.public_id).cancel()
    await redis.delete(cancelled.result)  # as `darkq purge` does
    darkai = await serve()
    done = await run(darkq, "run", "in.jsonl", "-o", "out.jsonl")
    assert done.code == 1, done.err
    assert sorted(ids(darkq.home / "out.jsonl")) == ["c1", "c3"]
    assert ids(darkq.home / "out.errors.jsonl") == ["c2"]
    assert darkai.requests_seen == 2


_FULL_AT_100_KB = """if True:
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    from darkq_cli.main import main
    main()
"""


async def test_with_no_room_on_the_disk_it_stops_and_goes_on_later(
    darkq: Darkq, client: Client, serve: Serve
) -> None:
    await serve(chunks=200)
    (darkq.home / "in.jsonl").write_bytes(prompts(120))
    words = ("batch", "run", "in.jsonl", "-o", "out.jsonl", "--window", "20")
    full = darkq.start(*words, command=(sys.executable, "-c", _FULL_AT_100_KB))
    done = await asyncio.to_thread(full.done)
    assert done.code == 1, done.err
    error, resume = done.err.splitlines()[-2:]
    assert error.startswith("darkq: cannot write ")
    assert error.endswith("out.jsonl: File too large")
    assert resume.startswith("To resume: ")
    written = ids(darkq.home / "out.jsonl")  # whole lines only
    assert 0 < len(written) < 120
    done = await asyncio.to_thread(darkq.typed, resume.removeprefix("To resume: "))
    assert done.code == 0, done.err
    assert "forgotten" not in done.err  # nothing was acknowledged that was not written
    assert ids(darkq.home / "out.jsonl")[: len(written)] == written
    assert sorted(ids(darkq.home / "out.jsonl")) == sorted(f"c{n}" for n in range(1, 121))
