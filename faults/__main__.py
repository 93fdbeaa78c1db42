"""`python -m faults`: play the faults, print the table; exit 1 unless every promise was kept."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import random
import sys
import time

from faults import stock_arq, table
from faults.catalogue import CATALOGUE
from faults.suite import Row, play


def main() -> int:
    options = _options()
    seed = random.randrange(1 << 32) if options.seed is None else options.seed
    every = [fault for faults in CATALOGUE.values() for fault in faults]
    chosen = [fault for fault in every if (options.only or "") in fault.name]
    if not chosen:
        print(f"no fault has {options.only!r} in its name", file=sys.stderr)
        return 2
    logging.disable(logging.ERROR)  # of producers and readers here, who are meant to complain
    began_s = time.monotonic()
    print(f"seed {seed}\n{table.HEAD}", file=sys.stderr if options.json else sys.stdout, flush=True)
    rows = asyncio.run(
        play(
            chosen,
            seed=seed,
            full=not options.short,
            runs=options.runs,
            report=_ignore if options.json else _tell,
        )
    )
    if options.json:
        print(json.dumps({"seed": seed, "faults": table.as_json(rows)}, indent=2))
    else:
        print(f"{table.summary(rows)}; {time.monotonic() - began_s:.0f} s")
    if options.stock:
        asyncio.run(stock_arq.main())
    return 0 if all(row.kept for row in rows) else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="faults", description="Play the fault suite.")
    parser.add_argument("--runs", type=int, help="so many runs of every fault")
    parser.add_argument("--only", metavar="NAME", help="the faults with this in their name")
    parser.add_argument("--seed", type=int, help="repeat a run's random choices")
    parser.add_argument("--short", action="store_true", help="one short run of each")
    parser.add_argument("--stock", action="store_true", help="then stock arq, to compare")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    return parser.parse_args()


def _tell(row: Row) -> None:
    print(table.line(row), flush=True)


def _ignore(_: Row) -> None: ...


if __name__ == "__main__":
    sys.exit(main())
