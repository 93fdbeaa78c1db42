"""A Python that runs blocks of a document, one line of JSON each, with `await` anywhere."""

from __future__ import annotations

import ast
import asyncio
import inspect
import json
import sys
import traceback
import warnings
from typing import Any

import darkq


def main() -> None:
    warnings.simplefilter("ignore")
    asyncio.run(_run(sys.argv[1]))


async def _run(mark: str) -> None:
    async with darkq.Client() as client:
        names: dict[str, Any] = {name: getattr(darkq, name) for name in darkq.__all__}
        names |= {"client": client, "asyncio": asyncio, "__name__": "__main__"}
        while line := await asyncio.to_thread(sys.stdin.readline):
            code, place = json.loads(line)
            failed = 0
            try:
                flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
                result = eval(compile(code, place, "exec", flags=flags), names)
                if inspect.iscoroutine(result):
                    await result
            except BaseException:
                traceback.print_exc(file=sys.stdout)
                failed = 1
            print(f"\n{mark} {failed}", flush=True)
