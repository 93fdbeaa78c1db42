"""A batch whose runner, workers and Redis are killed while it runs.

What counts is what the person has in the end: each line of the input once in the output.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

from faults.check import Tally
from faults.stage import UNLUCKY_WORKER, Setup, Stage
from faults.suite import Fault
from support.waiting import wait_until

BATCH_LEASE_S = 1.0
PAUSE_S = 0.05
END_TIMEOUT_S = 240.0

_SETUP = Setup(
    redis=("--appendonly", "yes", "--appendfsync", "always"),
    worker=UNLUCKY_WORKER,
    chunks=12,
    chunks_per_s=40.0,
)


# A slow disk and a slow Redis, so that most kills fall between two steps of a page.
_SLOWLY = f"""if True:
    import asyncio, os, time
    import darkq.batches.lease
    from darkq import Batch
    from darkq_cli.main import main

    sync, acknowledge = os.fsync, Batch.acknowledge

    def slow_sync(fd):
        time.sleep({PAUSE_S})
        sync(fd)

    async def slow_acknowledge(self, page):
        await asyncio.sleep({4 * PAUSE_S})
        await acknowledge(self, page)

    darkq.batches.lease.LEASE_S = {BATCH_LEASE_S}
    os.fsync, Batch.acknowledge = slow_sync, slow_acknowledge
    main()
"""


class _Runner:
    """`darkq batch run`, started again with the same words each time that it was killed."""

    def __init__(self, stage: Stage, directory: Path, *options: str) -> None:
        self.output = directory / "out.jsonl"
        self.starts = 0
        self._directory = directory
        self._options = options
        self._settings = stage.settings()
        self.start()

    def start(self) -> None:
        """Start it."""
        self.starts += 1
        command = ["batch", "run", "in.jsonl", "-o", self.output.name, *self._options]
        assert self._settings.redis_url is not None
        with (self._directory / "runner.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _SLOWLY, *command],
                cwd=self._directory,
                env={
                    **os.environ,
                    "DARKQ_REDIS_URL": self._settings.redis_url.get_secret_value(),
                    "DARKQ_STATE_DIR": str(self._directory / "state"),
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def kill(self) -> None:
        """SIGKILL it."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(10)

    async def to_the_end(self) -> int:
        """Wait for its end; return the exit code."""
        try:
            await wait_until("the batch's end", lambda: self.has_ended, END_TIMEOUT_S)
        finally:
            if not self.has_ended:
                self.kill()
        return self._process.returncode


async def killed(stage: Stage, rng: Random) -> Tally:
    """SIGKILL of runner, workers and Redis at random moments: each line once, and whole.

    Red when what was not committed stays in the file. When what comes again is not known, lines are
    doubled, and the batch does not end.
    """
    count, kills = (2000, 50) if stage.full else (120, 6)
    directory = stage.directory / f"batch-{os.urandom(4).hex()}"
    directory.mkdir()
    asked = {f"c{n}": stage.prompt() for n in range(count)}
    text = (json.dumps({"custom_id": key, "prompt": prompt}) for key, prompt in asked.items())
    (directory / "in.jsonl").write_text("\n".join(text))
    await stage.crew(2)
    runner = _Runner(stage, directory, *rng.choice([(), ("--ordered",)]))
    struck: Counter[str] = Counter()
    for _ in range(kills):
        await asyncio.sleep(rng.uniform(0.02, 1.2))  # the random moment, not a wait
        if runner.has_ended:
            break
        victim = rng.choice(["runner", "runner", "worker", "redis"])
        struck[victim] += 1
        await _strike(stage, runner, victim, rng)
    code = await runner.to_the_end()
    tally = _judge(stage, runner.output, asked)
    log = (directory / "runner.log").read_text()
    tally.require(code == 0, f"the runner exits with 0, not {code}: {log[-500:]}")
    tally.require("forgotten" not in log, "no line is acknowledged and not written")
    tally.require(sum(struck.values()) >= kills // 2, f"half of the kills hit: {dict(struck)}")
    tally.require(not list(directory.glob("*.darkq*")), "no state is left behind")
    return tally


async def _strike(stage: Stage, runner: _Runner, victim: str, rng: Random) -> None:
    if victim == "runner":
        await asyncio.to_thread(runner.kill)
        runner.start()
    elif victim == "worker":
        worker = rng.choice(stage.workers)
        worker.send(signal.SIGKILL)
        await worker.wait()
        stage.workers.remove(worker)
        stage.start_worker()
    else:
        await asyncio.to_thread(stage.server.kill)
        await asyncio.sleep(rng.uniform(0, 0.5))
        await asyncio.to_thread(stage.server.start)


def _judge(stage: Stage, output: Path, asked: dict[str, str]) -> Tally:
    tally = Tally(jobs=len(asked))
    seen: Counter[str] = Counter()
    for path in (output, output.with_name("out.errors.jsonl")):
        for text in path.read_text().splitlines() if path.exists() else ():
            line = json.loads(text)
            seen[line["custom_id"]] += 1
            if line["error"] is None:
                whole = stage.model.is_whole(asked[line["custom_id"]], _answer(line))
                tally.wrong += not whole
            else:
                tally.broken.append(f"{line['custom_id']} failed: {line['error']['code']}")
    tally.lost += len(asked.keys() - seen.keys())
    tally.duplicated += sum(times - 1 for times in seen.values()) + len(seen.keys() - asked.keys())
    return tally


def _answer(line: dict[str, Any]) -> str:
    answer: str = line["response"]["body"]["choices"][0]["message"]["content"]
    return answer


FAULTS = [Fault("batch: SIGKILL of runner, workers, Redis", killed, 1, _SETUP, limit_s=600)]
"""The one run has fifty kills."""
