"""SIGKILL of the runner at random moments: each line once, whatever it was doing."""

from __future__ import annotations

import asyncio
import random
import secrets
import sys

import pytest

from integration.batch_cli.conftest import Serve
from support.batches import ids, left_in, prompts
from support.command import Darkq, Running

pytestmark = pytest.mark.slow

# A killed runner's lease is waited for.
_SHORT_LEASE = (
    "import darkq.batches.lease; darkq.batches.lease.LEASE_S = 0.3\n"
    "from darkq_cli.main import main; main()"
)
LINES = 60


def start(darkq: Darkq, *options: str) -> Running:
    command = (sys.executable, "-c", _SHORT_LEASE)
    arguments = ("batch", "run", "in.jsonl", "-o", "out.jsonl", "--window", "15", *options)
    return darkq.start(*arguments, command=command)


@pytest.mark.parametrize("options", [(), ("--ordered",)], ids=["as they come", "ordered"])
async def test_a_runner_that_is_killed_again_and_again_writes_each_line_once(
    darkq: Darkq, serve: Serve, options: tuple[str, ...]
) -> None:
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    await serve(chunks=3, chunks_per_s=15)
    (darkq.home / "in.jsonl").write_bytes(prompts(LINES))
    for _ in range(8):
        running = start(darkq, *options)
        await asyncio.sleep(rng.uniform(0.3, 1.2))  # the random moment, not a wait
        running.kill()
    done = await asyncio.to_thread(start(darkq, *options).done)
    assert done.code in (0, 2), done.err  # it may have been complete before
    expected = [f"c{n}" for n in range(1, LINES + 1)]
    written = ids(darkq.home / "out.jsonl")
    assert (written if options else sorted(written)) == (expected if options else sorted(expected))
    assert left_in(darkq.home) == []
