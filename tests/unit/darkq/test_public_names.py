"""What `import darkq` offers, and what it loads for that."""

from __future__ import annotations

import subprocess
import sys

import darkq

MOST_NAMES = 65
HEAVY = (
    *("darkq.operate", "darkq.serving", "typer", "rich", "aiohttp", "arq", "obstore"),
    *("opentelemetry", "prometheus_client", "uvloop"),
)


def test_there_are_few_public_names_and_each_resolves() -> None:
    assert len(darkq.__all__) <= MOST_NAMES
    assert [name for name in darkq.__all__ if not hasattr(darkq, name)] == []


def test_an_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(darkq, "NoSuchName")


def test_importing_the_client_loads_nothing_heavy() -> None:
    """Red when `darkq/__init__` or `client` imports what operators and servers use."""
    code = "import sys; from darkq import Client; print(*sys.modules)"
    loaded = subprocess.check_output([sys.executable, "-c", code], text=True, timeout=30).split()
    assert "darkq.client" in loaded
    assert [name for name in loaded if name.startswith(HEAVY)] == []
