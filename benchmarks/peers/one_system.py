"""Measures darkq or a peer once. python -m benchmarks.peers.one_system NAME UPSTREAM_URL SCALE

Prints a line of JSON for each answer as soon as it is known, and one for an error that ends the
run.
"""

from __future__ import annotations

import json
import sys
import traceback

import uvloop

from benchmarks.figures import error_line
from benchmarks.machine import THE_REST, on_core
from benchmarks.peers.asking import DARKQ, FAILURE
from benchmarks.peers.measures import ask_darkq, ask_peer


async def main(name: str, url: str, scale: float) -> None:
    answers = ask_darkq(url, scale) if name == DARKQ else ask_peer(name, url, scale)
    async for measures in answers:
        print(json.dumps(measures), flush=True)


if __name__ == "__main__":
    try:
        with on_core(THE_REST):
            uvloop.run(main(sys.argv[1], sys.argv[2], float(sys.argv[3])))
    except Exception as error:
        traceback.print_exception(error)
        print(json.dumps({FAILURE: error_line(error)}), flush=True)
        sys.exit(1)
