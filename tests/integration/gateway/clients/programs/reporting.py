"""Cases of a program: each is what a user of the client does. One JSON line reports each."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import traceback
from collections.abc import Callable
from typing import Any

BASE_URL = os.environ["OPENAI_BASE_URL"]
API_KEY = os.environ["OPENAI_API_KEY"]
REAL = "smollm2"  # llama.cpp, which forces the grammar of a schema

_cases: list[tuple[str, Callable[[], Any]]] = []


def case(what: str) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    """Register a function. `what` is the case's name, and its words in docs/compatibility.md."""

    def register(function: Callable[[], Any]) -> Callable[[], Any]:
        _cases.append((what, function))
        return function

    return register


def run() -> None:
    """Run all cases."""
    for what, function in _cases:
        problem = ""
        try:
            if inspect.iscoroutinefunction(function):
                asyncio.run(function())
            else:
                function()
        except Exception:
            problem = traceback.format_exc()
        print(json.dumps({"case": what, "problem": problem}), flush=True)


def param_of_refusal(call: Callable[[], Any]) -> str:
    """Return the parameter that an error of OpenAI's SDK names."""
    try:
        call()
    except Exception as error:
        if getattr(error, "status_code", None) != 400:
            raise
        return str(getattr(error, "param", ""))
    raise AssertionError("it was not refused")


def equal(found: object, wanted: object) -> None:
    """Compare."""
    if found != wanted:
        raise AssertionError(f"found {found!r}, wanted {wanted!r}")
