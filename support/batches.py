"""Batches by the command: inputs, outputs, and what is left beside them."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from support.command import Darkq, Done


async def run(darkq: Darkq, *arguments: str, stdin: bytes = b"", **settings: str) -> Done:
    """Run `darkq batch …` to its end; this process's servers go on meanwhile."""
    environment = {f"DARKQ_{name.upper()}": value for name, value in settings.items()}
    return await asyncio.to_thread(darkq, "batch", *arguments, stdin=stdin, environment=environment)


def lines(path: Path) -> list[dict[str, Any]]:
    """The lines of an output."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def ids(path: Path) -> list[str]:
    """Whose lines they are."""
    return [line["custom_id"] for line in lines(path)]


def prompts(count: int) -> bytes:
    """An input: `c1` asks `p1`, and so on."""
    texts = (json.dumps({"custom_id": f"c{n}", "prompt": f"p{n}"}) for n in range(1, count + 1))
    return "".join(f"{text}\n" for text in texts).encode()


def left_in(home: Path) -> list[str]:
    """What an unfinished batch keeps beside its output."""
    return sorted(path.name for path in home.glob("*.darkq*"))
