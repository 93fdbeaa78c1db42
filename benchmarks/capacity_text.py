"""python -m benchmarks capacity --streams 10000 …: the resources for a load, as a table."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from benchmarks.capacity import Part, Plan, plan
from benchmarks.crew import Load
from benchmarks.figures import number

_HELP = {
    "streams": "live streams at once",
    "chunks_per_s": "chunks a second of each",
    "answer_chunks": "chunks of an answer",
    "readers_per_job": "readers of each stream, through gateways",
    "jobs_per_s": "jobs a second; not given: as many as end",
    "waiting_jobs": "jobs that wait in queues",
    "result_ttl_s": "DARKQ_RESULT_TTL_S",
    "linger_s": "DARKQ_WORKER_LINGER_S",
    "partitions": "DARKQ_PARTITIONS; not given: 1, or 16 for each master at least",
    "workers_per_partition": "workers that share a partition at most",
    "use": "how much of its core a process may take",
    "redis_gb": "memory for data of a master, GB",
}
_WHOLE = ("partitions", "workers_per_partition")


def main(arguments: Sequence[str]) -> None:
    """Parse a load, and print the resources that it needs."""
    print(text(plan(parse(arguments))))


def parse(arguments: Sequence[str]) -> Load:
    """Read a load from the command's arguments."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks capacity", description=__doc__)
    for name, meaning in _HELP.items():
        default = Load._field_defaults.get(name)
        shown = "" if default is None else f" ({default:g})"
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=int if name in _WHOLE else float,
            required=name not in Load._field_defaults,
            default=default,
            help=meaning + shown,
        )
    return Load(**vars(parser.parse_args(arguments)))


def text(found: Plan) -> str:
    """Return a plan as text."""
    load, sent = found.load, found.flow
    lines = [
        f"{number(load.streams)} streams of {load.chunks_per_s:g} chunks/s, "
        f"{number(load.readers)} readers, {number(load.jobs)} jobs/s "
        f"of {load.answer_chunks:g} chunks,",
        f"kept for {load.result_ttl_s:g} s, linger {load.linger_s:g} s",
        "",
        *_columns(
            [
                ("part", "how many", "its core is used to", "GB in all", "one carries"),
                _row("worker processes", found.workers, load),
                _row("Redis masters", found.masters, load),
                _row("gateways", found.gateways, load),
            ]
        ),
        "",
        f"events/s  {number(sent.events)} in {number(sent.calls)} calls, "
        f"{number(sent.flushes)} flushes",
        f"MB/s      {number(found.to_redis_mb_per_s)} to Redis, "
        f"{number(found.from_redis_mb_per_s)} from it, "
        f"{number(found.to_readers_mb_per_s)} to readers",
        f"DARKQ_PARTITIONS={found.partitions}, {found.partitions_per_worker} of them per worker; "
        f"{number(found.busiest_gb)} of {load.redis_gb:g} GB in the fullest master",
        "needs     " + ", ".join(f"{name} {number(need)}" for name, need in found.needs),
    ]
    if not found.fits:
        lines.append(f"{found.masters.many:,} masters do not carry this")
    return "\n".join(lines)


def _row(name: str, part: Part, load: Load) -> tuple[str, ...]:
    carries = f"{number(load.streams / part.many)} streams" if part.many else ""
    return name, f"{part.many:,}", f"{part.share:.0%}", number(part.gb), carries


def _columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
