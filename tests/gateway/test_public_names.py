"""The gateway is the proof that the library suffices: it knows nothing but its public names."""

from __future__ import annotations

import ast
from pathlib import Path

import darkq

GATEWAY = Path(__file__).parents[2] / "gateway"


def test_the_gateway_imports_public_names_only() -> None:
    private = []
    for path in GATEWAY.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("darkq."):
                private.append(f"{path.name}: {node.module}")
            if isinstance(node, ast.ImportFrom) and node.module == "darkq":
                private += [f"{path.name}: {a.name}" for a in node.names if a.name not in ALL]
            if isinstance(node, ast.Import):
                private += [f"{path.name}: {a.name}" for a in node.names if "darkq." in a.name]
    assert private == []


ALL = frozenset(darkq.__all__)
