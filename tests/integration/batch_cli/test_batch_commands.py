"""Looking at batches, leaving them and stopping them."""

from __future__ import annotations

import asyncio
import json
import re
import signal
from contextlib import suppress

import pytest
from typer.testing import CliRunner

from darkq import Client
from darkq.errors import BatchNotFound
from darkq_cli.app import app
from integration.batch_cli.conftest import Serve
from support.batches import ids, lines, prompts, run
from support.command import Darkq, Running
from support.waiting import wait_until

SUBCOMMANDS = ("run", "resume", "list", "show", "tail", "cancel", "results")
UNKNOWN = "batch-0-" + "0" * 32


async def started(darkq: Darkq, client: Client, count: int, *arguments: str) -> tuple[Running, str]:
    """Start a batch; once its lines are sent, as many as fit, return its command and its id."""
    (darkq.home / "in.jsonl").write_bytes(prompts(count))
    running = darkq.start("batch", "run", "in.jsonl", "-o", "out.jsonl", *arguments)
    await wait_until("the batch", lambda: running.says("batch batch-"))
    batch_id = re.findall(r"batch-0-[0-9a-f]{32}", running.err)[0]

    async def is_sent() -> bool:
        with suppress(BatchNotFound):
            status = await client.batch(batch_id).status()
            return status.total == count or status.outstanding == status.window
        return False

    await wait_until("the lines in Redis", is_sent)
    return running, batch_id


async def left(running: Running) -> str:
    """Leave a batch at once; return what it said."""
    running.send(signal.SIGTERM)
    done = await asyncio.to_thread(running.done)
    assert done.code == 143
    return done.err


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_every_command_has_help_with_an_example(name: str) -> None:
    found = CliRunner().invoke(app, ["batch", name, "-h"])
    assert found.exit_code == 0
    assert f"  darkq batch {name}" in found.output


async def test_show_and_list_tell_where_a_batch_stands(
    darkq: Darkq, client: Client, serve: Serve
) -> None:
    running, batch_id = await started(darkq, client, 5, "--name", "reviews")
    shown = await run(darkq, "show", batch_id, "--json")
    (status,) = shown.objects
    assert (status["batch_id"], status["state"], status["total"]) == (batch_id, "open", 5)
    listed = (await run(darkq, "list", "--json")).objects
    assert [found["batch_id"] for found in listed] == [batch_id]
    told = (await run(darkq, "show", batch_id)).out.decode()
    assert "reviews" in told
    assert batch_id in (await run(darkq, "list")).out.decode()
    await serve()
    assert (await asyncio.to_thread(running.done)).code == 0
    (status,) = (await run(darkq, "show", batch_id, "--json")).objects
    assert (status["state"], status["completed"]) == ("completed", 5)


async def test_without_batches_list_says_so(darkq: Darkq, client: Client) -> None:
    done = await run(darkq, "list")
    assert (done.code, done.out, done.err) == (0, b"", "there are no batches in Redis\n")


async def test_an_unknown_batch_is_named(darkq: Darkq, client: Client) -> None:
    for arguments in (["show"], ["cancel"], ["tail"], ["results", "-o", "x.jsonl"]):
        done = await run(darkq, arguments[0], UNKNOWN, *arguments[1:])
        assert (done.code, done.out) == (1, b""), done.err
        assert UNKNOWN in done.err
        assert "Traceback" not in done.err
    done = await run(darkq, "resume", "../../etc/passwd")
    assert done.code == 1
    assert "is not the id of a batch" in done.err


async def test_tail_tells_each_end_once_and_goes_on_after_a_cursor(
    darkq: Darkq, client: Client, serve: Serve
) -> None:
    running, batch_id = await started(darkq, client, 6)
    tail = darkq.start("batch", "tail", batch_id, "--json")
    words = darkq.start("batch", "tail", batch_id, "--chunks")
    await serve()
    assert (await asyncio.to_thread(running.done)).code == 0
    done = await asyncio.to_thread(tail.done)
    assert done.code == 0, done.err
    assert sorted(end["number"] for end in done.objects) == [1, 2, 3, 4, 5, 6]
    assert {end["outcome"] for end in done.objects} == {"completed"}
    told = (await asyncio.to_thread(words.done)).out.decode().splitlines()
    assert sum("  completed  0-" in line for line in told) == 6
    assert all(line.startswith("line ") for line in told)
    rest = await run(darkq, "tail", batch_id, "--after", done.objects[3]["cursor"])
    assert len(rest.out.splitlines()) == 2
    gone = await run(darkq, "tail", batch_id, "--after", "99")
    assert gone.code == 1
    assert f"the events after 99 in {batch_id} have expired" in gone.err
    assert gone.err.splitlines()[-1].endswith(f" batch tail {batch_id}")
    wrong = await run(darkq, "tail", batch_id, "--after", "x")
    assert wrong.code == 2


async def test_results_copies_what_is_there_and_takes_nothing(
    darkq: Darkq, client: Client, serve: Serve
) -> None:
    running, batch_id = await started(darkq, client, 5)
    await left(running)
    await serve()

    async def all_ended() -> bool:
        return (await client.batch(batch_id).status()).ended == 5

    await wait_until("all ends", all_ended)
    for name in ("so-far.jsonl", "again.jsonl"):
        done = await run(darkq, "results", batch_id, "-o", name, "--json")
        assert done.code == 0, done.err
        assert done.objects[0]["completed"] == 5
        assert sorted(ids(darkq.home / name)) == ["c1", "c2", "c3", "c4", "c5"]
    refused = await run(darkq, "results", batch_id, "-o", "again.jsonl")
    assert refused.code == 2
    assert (await run(darkq, "resume", batch_id)).code == 0
    assert (darkq.home / "out.jsonl").read_bytes() == (darkq.home / "again.jsonl").read_bytes()


async def test_ctrl_c_leaves_the_jobs_running_and_says_how_to_go_on(
    darkq: Darkq, client: Client, serve: Serve
) -> None:
    running, batch_id = await started(darkq, client, 5)
    running.send(signal.SIGINT)
    done = await asyncio.to_thread(running.done)
    assert done.code == 130
    assert f"batch resume {batch_id}\n" in done.err
    assert (await client.batch(batch_id).status()).state == "open"
    await serve()
    resumed = await run(darkq, "resume", batch_id, "--json")
    assert resumed.code == 0, resumed.err
    assert resumed.objects[0]["completed"] == 5


async def test_two_ctrl_c_leave_the_jobs_running_and_only_cancel_stops_them(
    darkq: Darkq, client: Client
) -> None:
    running, batch_id = await started(darkq, client, 5, "--json")
    running.send(signal.SIGINT)
    running.send(signal.SIGINT)
    done = await asyncio.to_thread(running.done)
    assert done.code == 130
    assert f"batch cancel {batch_id}" in done.err
    assert (await client.batch(batch_id).status()).state == "open"
    assert (await run(darkq, "cancel", batch_id)).code == 0
    assert (await client.batch(batch_id).status()).state == "cancelled"
    resumed = await run(darkq, "resume", batch_id)
    assert resumed.code == 1
    assert "5 of 5 lines failed" in resumed.err
    assert {line["error"]["code"] for line in lines(darkq.home / "out.errors.jsonl")} == {
        "cancelled"
    }


async def test_cancelled_by_another_a_batch_ends_with_a_line_for_each_line(
    darkq: Darkq, client: Client, serve: Serve
) -> None:
    running, batch_id = await started(darkq, client, 40, "--window", "10")
    done = await run(darkq, "cancel", batch_id, "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["state"] in ("cancelling", "cancelled")
    ended = await asyncio.to_thread(running.done)
    assert ended.code == 1
    written = ids(darkq.home / "out.errors.jsonl")
    assert sorted(written) == sorted(f"c{n}" for n in range(1, 41))


async def test_ctrl_c_shows_how_to_read_on(darkq: Darkq, client: Client, serve: Serve) -> None:
    running, batch_id = await started(darkq, client, 2)
    tail = darkq.start("batch", "tail", batch_id, "--chunks", "--json")
    # Longer than a process takes to start: the tail prints only the ends of lines that have ended.
    await serve(chunks=240, chunks_per_s=30)
    await wait_until("some words", lambda: tail.out.count(b"chunk") > 5)
    tail.send(signal.SIGINT)
    done = await asyncio.to_thread(tail.done)
    assert done.code == 130
    resume = json.loads(done.err.splitlines()[-1])["resume"]
    assert f" batch tail {batch_id} --chunks --after {done.objects[-1]['cursor']} --json" in resume
    rest = await asyncio.to_thread(darkq.typed, resume)
    assert (await asyncio.to_thread(running.done)).code == 0
    events = [
        (item["number"], item["event"]["id"])
        for item in done.objects + rest.objects
        if "event" in item
    ]
    assert len(events) == len(set(events))
    assert {item["number"] for item in rest.objects if "outcome" in item} == {1, 2}
