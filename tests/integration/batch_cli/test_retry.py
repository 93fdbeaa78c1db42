"""`darkq batch retry`: the lines that failed or were cancelled, and no other."""

from __future__ import annotations

import asyncio
import csv
import io

import pytest

from darkq import Client
from darkq_local.faults import Fault
from integration.batch_cli.conftest import Serve
from integration.batch_cli.test_batch_commands import started
from support.batches import ids, left_in, lines, prompts, run
from support.command import Darkq


@pytest.mark.parametrize("by", ["id", "short id", "output"])
async def test_failed_lines_run_again_and_no_other(darkq: Darkq, serve: Serve, by: str) -> None:
    """Red when a line that has an answer runs again, or a failure stays in the errors file."""
    darkai = await serve(*(Fault.parse("html=403") for _ in range(3)))
    (darkq.home / "in.jsonl").write_bytes(prompts(8))
    words = ("run", "in.jsonl", "-o", "out.jsonl")
    done = await run(darkq, *words, "--json")
    assert done.code == 1, done.err
    batch_id = done.objects[0]["batch_id"]
    assert len(lines(darkq.home / "out.errors.jsonl")) == 3
    seen = darkai.requests_seen
    again = await run(darkq, *words)
    assert again.code == 1  # the same command only says it again
    assert f"batch retry {batch_id}" in again.err
    assert darkai.requests_seen == seen
    given = {"id": batch_id, "short id": batch_id[:20], "output": "out.jsonl"}[by]
    retried = await run(darkq, "retry", given, "--json")
    assert retried.code == 0, retried.err
    assert darkai.requests_seen == seen + 3
    assert retried.objects[0]["completed"] == 8
    assert sorted(ids(darkq.home / "out.jsonl")) == sorted(f"c{n}" for n in range(1, 9))
    assert not (darkq.home / "out.errors.jsonl").exists()
    assert left_in(darkq.home) == []
    assert list((darkq.state / "batches").iterdir()) == []


async def test_lines_that_fail_again_replace_the_errors(darkq: Darkq, serve: Serve) -> None:
    await serve(*(Fault.parse("html=403") for _ in range(5)))
    (darkq.home / "in.csv").write_text("id,prompt\n1,a\n2,b\n3,c\n")
    words = ("run", "in.csv", "-o", "out.csv", "--id-field", "id", "--ordered")
    assert (await run(darkq, *words)).code == 1
    assert not (darkq.home / "out.csv").exists()
    assert (await run(darkq, "retry", "out.csv")).code == 1
    errors = list(csv.DictReader(io.StringIO((darkq.home / "out.errors.csv").read_text())))
    assert list(errors[0]) == ["id", "prompt", "error"]
    assert len(errors) == 2
    assert errors[0]["error"].startswith("protocol_violation: ")
    assert (await run(darkq, "retry", "out.csv")).code == 0
    answers = list(csv.DictReader(io.StringIO((darkq.home / "out.csv").read_text())))
    assert sorted(row["id"] for row in answers) == ["1", "2", "3"]
    refused = await run(darkq, "retry", "out.csv")
    assert refused.code == 1
    assert "with failed lines was run here" in refused.err


async def test_a_cancelled_batch_is_retried(darkq: Darkq, client: Client, serve: Serve) -> None:
    running, batch_id = await started(darkq, client, 40, "--window", "10")
    unfinished = await run(darkq, "retry", "out.jsonl")
    assert unfinished.code == 1  # its runner has locked the state
    assert (await run(darkq, "cancel", batch_id)).code == 0
    assert (await asyncio.to_thread(running.done)).code == 1
    await serve()
    done = await run(darkq, "retry", batch_id)
    assert done.code == 0, done.err
    assert sorted(ids(darkq.home / "out.jsonl")) == sorted(f"c{n}" for n in range(1, 41))


async def test_outputs_that_were_deleted_begin_again(darkq: Darkq, serve: Serve) -> None:
    await serve(Fault.parse("html=403"))
    (darkq.home / "in.jsonl").write_bytes(prompts(2))
    words = ("run", "in.jsonl", "-o", "out.jsonl")
    assert (await run(darkq, *words)).code == 1
    for name in ("out.jsonl", "out.errors.jsonl"):
        (darkq.home / name).unlink()
    done = await run(darkq, *words)
    assert done.code == 0, done.err
    assert sorted(ids(darkq.home / "out.jsonl")) == ["c1", "c2"]
    assert left_in(darkq.home) == []
