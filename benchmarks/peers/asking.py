"""Measures one system in its own process group, with a deadline."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from benchmarks.figures import error_line
from benchmarks.machine import on_both_cores
from benchmarks.peers.measures import Measures
from benchmarks.processes import environment_with

DARKQ = "darkq"
FAILURE = "failure"
"""The key of the line that says why a system has failed."""


class Asked(NamedTuple):
    """The results, and why some are missing ("" if none is)."""

    measures: Measures
    failure: str


async def ask(command: Sequence[str], deadline_s: float) -> Asked:
    """Run a command that prints answers; kill its process group at the deadline and at the end.

    Answers that were printed before a failure are kept.
    """
    with on_both_cores():
        process = await asyncio.create_subprocess_exec(
            *command,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,
            env=environment_with({}),
        )
    measures: Measures = {}
    try:
        async with asyncio.timeout(deadline_s):
            failure = await _read(process, measures)
    except TimeoutError:
        failure = f"killed: not done within {deadline_s:g} s"
    except ValueError as error:
        failure = error_line(error)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
    return Asked(measures, failure)


async def _read(process: asyncio.subprocess.Process, measures: Measures) -> str:
    """Add what a process prints until it ends; return why it has failed, or ""."""
    assert process.stdout is not None
    failure = ""
    async for line in process.stdout:
        answer = json.loads(line)
        failure = answer.pop(FAILURE, failure)
        measures.update(answer)
    code = await process.wait()
    return failure or (f"ended with {code}" if code else "")
