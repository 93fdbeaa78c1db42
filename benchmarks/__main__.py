"""python -m benchmarks [NAME…] [--quick] [--json | --markdown] [--plots FOLDER]

A benchmark that fails is a row that says why. The others still run, and the exit code is 1.
`python -m benchmarks capacity --help` runs nothing: it calculates.
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
import traceback
from pathlib import Path

import uvloop

from benchmarks import capacity_text, report
from benchmarks.figures import Answer, Row, error_line
from benchmarks.machine import THE_REST, describe, load, on_core
from benchmarks.processes import upstream

NAMES = (
    *("chunks", "pickup", "relay", "pace", "streams", "overhead", "enqueue"),
    *("batches", "priority", "idle", "memory", "readers", "replay"),
)
ON_REQUEST = (
    *("admissions", "costs", "gateway", "long_batches", "peers", "predicted"),
    *("scaling", "script_times", "server", "soak", "tls", "wakeups"),
)
REPETITIONS = 3
QUICK_SCALE = 0.2


def main() -> None:
    """Parse, run what was named, and print."""
    if sys.argv[1:2] == ["capacity"]:
        capacity_text.main(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    known = (*NAMES, *ON_REQUEST)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of: {', '.join(known)}")
    parser.add_argument("--quick", action="store_true", help="a fifth of the load: a smoke test")
    parser.add_argument("--repetitions", type=int, default=REPETITIONS, help=f"{REPETITIONS}")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="print every repetition's number")
    how.add_argument("--markdown", action="store_true", help="print what docs/benchmarks.md holds")
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="draw the answers as PNGs")
    options = parser.parse_args()
    if unknown := set(options.names) - set(known):
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    for name in [name for name in os.environ if name.startswith("DARKQ_")]:
        del os.environ[name]  # defaults are what is measured
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that every process is ended
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, lambda *_: sys.exit(1))
    machine = describe()
    answers: dict[str, Answer] = {}
    try:
        with on_core(THE_REST), upstream() as url:
            for name in options.names or NAMES:
                scale = QUICK_SCALE if options.quick else 1.0
                answers[name] = _run(name, url, options.repetitions, scale)
    finally:  # prints what there is when it is interrupted too
        machine.append(f"load average {load()} at the end")
        _print(answers, machine, options)
    if options.plots:
        # matplotlib takes a second to import.
        from benchmarks.plots import draw

        draw(answers, options.plots)
    if any(found.has_failed for found in answers.values()):
        sys.exit(1)


def _print(answers: dict[str, Answer], machine: list[str], options: argparse.Namespace) -> None:
    if options.json:
        print(report.as_json(answers, machine))
    elif options.markdown:
        print(report.markdown(answers, machine))
    else:
        print("\n".join(machine), end="\n\n")
        print(report.table([row for found in answers.values() for row in found.rows]))


def _run(name: str, url: str, repetitions: int, scale: float) -> Answer:
    """Run a benchmark. An error is a row, so that the results of the others are not lost."""
    try:
        benchmark = importlib.import_module(f"benchmarks.{name}")
        question = (benchmark.__doc__ or "").splitlines()[0]
        print(f"{name}: {question}", file=sys.stderr, flush=True)
        found: Answer = uvloop.run(benchmark.answer(url, repetitions, scale))
    except Exception as error:
        traceback.print_exception(error)
        found = Answer([Row.failed(name, error_line(error))], [])
    print(report.text(found), file=sys.stderr, flush=True)
    return found


if __name__ == "__main__":
    main()
