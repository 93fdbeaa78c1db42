"""How do other queues fare with the same job, beside darkq in the same run?

Each peer has an environment of its own and one worker process, as many jobs at once as darkq, and
streams as its users would: line by line, one publish per chunk. None of them keeps a log or has a
fence. Where chunks are counted the clock runs from the first one; a one-chunk job counts as done
when its chunk has been published, darkq's when nothing of it waits or runs any more.
"""

from __future__ import annotations

from benchmarks.figures import Answer, Figures, Row, Target
from benchmarks.peers.measures import Measures, ask_darkq, ask_peer, ask_producer
from benchmarks.peers.system import PEERS, running

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


async def answer(url: str, repetitions: int, scale: float) -> Answer:
    ours: list[Measures] = []
    theirs: dict[str, list[Measures]] = {name: [] for name in PEERS}
    for _ in range(repetitions):
        ours.append(await ask_darkq(url, scale))
        for name in PEERS:
            async with running(name, url) as peer:
                found = await ask_peer(peer, scale)
            theirs[name].append(found | await ask_producer(name, scale))
    rows = []
    for key, (question, unit) in QUESTIONS.items():
        mine = Figures.of([measures[key] for measures in ours])
        for name, all_found in theirs.items():
            if all(key in measures for measures in all_found):
                baseline = Figures.of([measures[key] for measures in all_found])
                rows.append(Row(question, unit, mine, baseline, name, TARGETS.get(key)))
    return Answer(rows, [])
