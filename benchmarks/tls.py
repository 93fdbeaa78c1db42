"""What does a call of one chunk cost over TLS, its connection kept and not?

10 calls at a time, of a service on OpenAI's wire; CPU of the calling process alone. Bare aiohttp
reads, splits and decodes, and checks nothing.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import trustme

from benchmarks.figures import Answer, Figures, Row, Target
from benchmarks.machine import THE_REST
from benchmarks.processes import child, measure, module, read_line

CALLS = {"kept": 4000, "closed": 600}


async def answer(url: str, repetitions: int, scale: float) -> Answer:
    del url  # that service speaks no TLS
    found: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="darkq-bench-") as folder:
        authority, own = Path(folder) / "authority.pem", Path(folder) / "own.pem"
        signer = trustme.CA()
        signer.cert_pem.write_to_path(authority)
        signer.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(own)
        with child(*module("tls_upstream", own), role=THE_REST) as process:
            service = f"https://127.0.0.1:{read_line(process)}/v1"
            for _ in range(repetitions):
                for how, calls in CALLS.items():
                    for who in ("darkq", "bare"):
                        command = module("tls_calls", service, authority, who, how)
                        used = measure(*command, str(int(calls * scale)))
                        found.setdefault((who, how), []).append(used["cpu_ms"])
    ours, closed, bare, bare_closed = (
        Figures.of(found[who, how]) for who in ("darkq", "bare") for how in CALLS
    )
    what = "CPU per call over TLS"
    return Answer(
        [
            Row(f"{what}, kept", "ms", ours, bare, "bare aiohttp", Target("≤", 1.3)),
            Row(f"{what}, not kept", "ms", closed, bare_closed, "bare aiohttp"),
            Row(f"{what}, kept", "ms", ours, closed, "not kept"),
        ],
        [],
    )
