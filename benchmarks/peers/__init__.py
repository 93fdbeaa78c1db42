"""How do other queues perform with the same job, in the same run as darkq?

Each peer has its own environment and one worker process with as many concurrent jobs as darkq. It
streams as its users would: line by line, one publish per chunk. No peer has an event log or a
fence. Chunk rates are timed from the first chunk. A one-chunk job of a peer is done when its chunk
has been published; one of darkq, when it neither waits nor runs.

If a peer fails or exceeds its deadline, a row has the reason. It is not run again, and its earlier
results count.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping, Sequence

from benchmarks.figures import Answer, Figures, Row, Target, error_line
from benchmarks.peers.asking import DARKQ, ask
from benchmarks.peers.environment import PEERS, python
from benchmarks.peers.measures import Measures
from benchmarks.processes import module

QUESTIONS = {
    "chunks": ("chunks through one worker", "1/s"),
    "pickup_p50": ("pick-up p50, idle worker", "ms"),
    "pickup_p99": ("pick-up p99, idle worker", "ms"),
    "jobs": ("one-chunk jobs", "1/s"),
    "one": ("enqueue one by one", "1/s"),
    "at_once": ("enqueue 100 at once", "1/s"),
    "bulk": ("enqueue in bulk", "1/s"),
}
TARGETS = {
    "pickup_p50": Target("≤", 1),
    "pickup_p99": Target("≤", 1),
    "jobs": Target("≥", 5),
}


DEADLINE_S = 300.0
"""For one repetition of one system, its start included. It takes 20 s."""


async def answer(url: str, repetitions: int, scale: float) -> Answer:
    commands = {name: module("peers.one_system", name, url, scale) for name in (DARKQ, *PEERS)}
    rows = []
    for name in PEERS:
        try:
            python(name)
        except (OSError, subprocess.SubprocessError) as error:
            rows.append(Row.failed(name, error_line(error)))
            del commands[name]
    return Answer([*await compare(commands, repetitions), *rows], [])


async def compare(
    commands: Mapping[str, Sequence[str]], repetitions: int, deadline_s: float = DEADLINE_S
) -> list[Row]:
    """Run darkq and its peers alternately, each by its command."""
    found: dict[str, list[Measures]] = {name: [] for name in commands}
    failures: dict[str, str] = {}
    for _ in range(repetitions):
        for name, command in commands.items():
            if name not in failures:
                asked = await ask(command, deadline_s)
                found[name].append(asked.measures)
                if asked.failure:
                    failures[name] = asked.failure
    return [*_rows(found), *(Row.failed(*each) for each in failures.items())]


def _rows(found: Mapping[str, Sequence[Measures]]) -> Iterator[Row]:
    for key, (question, unit) in QUESTIONS.items():
        figures = {
            name: Figures.of([measures[key] for measures in repeated if key in measures])
            for name, repeated in found.items()
        }
        ours = figures.pop(DARKQ)
        for name, theirs in figures.items():
            if theirs.values:
                yield Row(question, unit, ours, theirs, name, TARGETS.get(key))
