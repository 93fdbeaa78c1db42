"""Upstreams, asked now for a word, as `darkq upstreams` does: a call of each one's limits."""

from __future__ import annotations

from collections.abc import AsyncIterator
from importlib.util import find_spec

from darkq import DarkqError, Settings
from darkq_cli.doctor.findings import Answer, Finding, finding, ok, problem, skipped
from darkq_cli.terminal import program

NAME = "upstream"
TIMEOUT_S = 15.0


async def probe(settings: Settings) -> AsyncIterator[Finding]:
    """Yield what asking each upstream finds."""
    if find_spec("aiohttp") is None or find_spec("arq") is None:
        yield finding(NAME, skipped("arq or aiohttp is not installed", "pip install darkq[worker]"))
        return
    from darkq_cli.commands.upstreams import Finding as Found
    from darkq_cli.commands.upstreams import find

    def answer(found: Found) -> Answer:
        if found.works is None:
            return skipped(found.reason)
        if found.works:
            return ok(f"answers, after {found.latency_s:.2f} s")
        setting = _setting(found.status.name)
        again = f"{program.command()} upstreams asks it again"
        return problem(found.reason, f"See that the service runs and {setting} is right; {again}")

    try:
        for found in await find(settings, TIMEOUT_S):
            yield finding(NAME, answer(found), found.status.name)
    except DarkqError as error:
        yield finding(NAME, skipped(f"not asked: {error}"))


def _setting(upstream: str) -> str:
    from darkq.settings.upstreams import DARKAI

    return "DARKQ_DARKAI_URL" if upstream == DARKAI else f"DARKQ_UPSTREAMS__{upstream.upper()}__URL"
