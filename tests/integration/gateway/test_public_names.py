"""The gateway uses the library's public names, and what it shares with worker and command.

Shared are OpenAI's wire, API keys, tickets, files, repeated requests, lists of jobs and telemetry.
It does not use what speaks to Redis.
"""

from __future__ import annotations

import ast

import darkq
from support.repository import ROOT, files_of

GATEWAY = ROOT / "gateway"
SHARED = {
    "darkq.openai.body",
    "darkq.openai.chat",
    "darkq.openai.errors",
    "darkq.openai.response",
    "darkq.event",
    "darkq.openai.response_body",
    "darkq.openai.response_events",
    "darkq.openai.response_items",
    "darkq.protocol.job",
    "darkq.protocol.prompt",
    "darkq.protocol.record",
    "darkq.protocol.ticket",
    "darkq.protocol.validation",
    "darkq.errors",
    "darkq.sse",
    "darkq.operate.waiting",
    "darkq.batches.answers",
    "darkq.jobs.job_lists",
    "darkq.jobs.fanout",
    "darkq.jobs.tail",
    *(f"darkq.serving.{name}" for name in ("api_keys", "files", "file_batches", "request_dedup")),
    *(f"darkq.telemetry.{name}" for name in ("export", "logging", "metrics", "tracing")),
}


def test_the_gateway_imports_public_names_only() -> None:
    private = []
    for path in files_of(GATEWAY, "*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
            if module.startswith("darkq.") and module not in SHARED:
                private.append(f"{path.name}: {module}")
            if isinstance(node, ast.ImportFrom) and node.module == "darkq":
                private += [f"{path.name}: {a.name}" for a in node.names if a.name not in ALL]
            if isinstance(node, ast.Import):
                private += [f"{path.name}: {a.name}" for a in node.names if "darkq." in a.name]
    assert private == []


ALL = frozenset(darkq.__all__)
