"""`darkq upstreams`: which of them work now, measured by asking each for a word."""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from darkq import Settings
from darkq_cli import interrupts, output, talk
from darkq_cli.problems import Problem, require

if TYPE_CHECKING:
    from darkq_worker.upstreams.base import Upstream


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What the probe of one upstream found."""

    name: str
    works: bool
    latency_s: float
    reason: str
    default_model: str
    models: list[str]


def upstreams(*, timeout_s: float, as_json: bool) -> None:
    """Probe all upstreams at once and print what was found.

    Raises `Problem` when none works.
    """
    require("worker", "arq", "aiohttp")
    findings = interrupts.run(_probe_all(Settings.load(), timeout_s))
    if as_json:
        for finding in findings:
            output.write_json(asdict(finding))
    else:
        _print_table(findings)
    if not any(finding.works for finding in findings):
        raise Problem("no upstream works now")


async def _probe_all(settings: Settings, timeout_s: float) -> list[Finding]:
    from darkq_worker.main import make_session, make_upstreams

    async with make_session() as session:
        probes = [_probe(upstream, timeout_s) for upstream in make_upstreams(settings, session)]
        return await asyncio.gather(*probes)


async def _probe(upstream: Upstream, timeout_s: float) -> Finding:
    from darkq_worker.upstreams.base import UpstreamError

    began_s = time.monotonic()
    reason = ""
    try:
        await upstream.probe(timeout_s=timeout_s)
    except UpstreamError as error:
        reason = f"{error.code}: {error.message}"
    return Finding(
        name=upstream.name,
        works=not reason,
        latency_s=round(time.monotonic() - began_s, 3),
        reason=reason,
        default_model=upstream.default_model,
        models=list(upstream.models),
    )


def _print_table(findings: list[Finding]) -> None:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE, pad_edge=False)
    for heading in ("upstream", "works", "after", "models", "reason"):
        table.add_column(heading, overflow="fold")
    for finding in findings:
        models = [f"{finding.default_model} (default)"]
        models += [model for model in finding.models if model != finding.default_model]
        table.add_row(
            finding.name,
            "yes" if finding.works else "no",
            f"{finding.latency_s:.2f} s",
            ", ".join(models),
            talk.harmless(finding.reason),
        )
    talk.stdout_console().print(table)
