"""What does a call of one chunk cost over TLS, its connection kept and not?

10 concurrent calls of an OpenAI-compatible service; CPU of the calling process only. Bare aiohttp
reads, splits and decodes without checks. Then one-chunk jobs through a worker, like `overhead`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import trustme

from benchmarks.figures import Answer, Figures, Row, Target
from benchmarks.machine import THE_REST
from benchmarks.overhead import rate
from benchmarks.processes import child, measure, module, read_line
from benchmarks.systems import darkq

CALLS = {"kept": 4000, "closed": 600}
JOBS = 1000


class Service(NamedTuple):
    """A service with TLS, and the file with its CA certificate."""

    url: str
    authority: Path


async def answer(url: str, repetitions: int, scale: float) -> Answer:
    del url  # that service has no TLS
    calls: dict[tuple[str, str], list[float]] = {}
    jobs: dict[str, list[float]] = {}
    with _service() as service:
        for _ in range(repetitions):
            for how, count in CALLS.items():
                for who in ("darkq", "bare"):
                    command = module("tls_calls", *service, who, how, int(count * scale))
                    calls.setdefault((who, how), []).append(measure(*command)["cpu_ms"])
                jobs.setdefault(how, []).append(await _job_ms(service, how, int(JOBS * scale)))
    ours, closed, bare, bare_closed = (
        Figures.of(calls[who, how]) for who in ("darkq", "bare") for how in CALLS
    )
    kept_job, closed_job = (Figures.of(jobs[how]) for how in CALLS)
    what = "CPU per call over TLS"
    return Answer(
        [
            Row(f"{what}, kept", "ms", ours, bare, "bare aiohttp", Target("≤", 1.3)),
            Row(f"{what}, not kept", "ms", closed, bare_closed, "bare aiohttp"),
            Row(f"{what}, kept", "ms", ours, closed, "not kept"),
            Row("worker's CPU per one-chunk job over TLS", "ms", kept_job, closed_job, "not kept"),
        ],
        [],
    )


@contextmanager
def _service() -> Iterator[Service]:
    with tempfile.TemporaryDirectory(prefix="darkq-bench-") as folder:
        authority, own = Path(folder) / "authority.pem", Path(folder) / "own.pem"
        signer = trustme.CA()
        signer.cert_pem.write_to_path(authority)
        signer.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(own)
        with child(*module("tls_upstream", own), role=THE_REST) as process:
            yield Service(f"https://127.0.0.1:{read_line(process)}/v1", authority)


async def _job_ms(service: Service, how: str, jobs: int) -> float:
    """Return the worker's CPU milliseconds per job."""
    settings = {
        "DARKQ_UPSTREAMS__TLS__URL": service.url,
        "DARKQ_UPSTREAMS__TLS__MODELS": "m",
        "DARKQ_UPSTREAMS__TLS__KEEPS_CONNECTIONS": str(how == "kept").lower(),
        "SSL_CERT_FILE": str(service.authority),
    }
    async with darkq("none", settings=settings) as system:
        return (await rate(system, jobs))[1]
