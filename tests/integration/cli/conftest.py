"""Fixtures: `darkq` in a home of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.command import Darkq
from support.servers import Server
from support.terminal import Terminal


@pytest.fixture
def home() -> Iterator[Path]:
    """A directory for one test. Its path is short: the embedded server's socket fits in it."""
    with tempfile.TemporaryDirectory(prefix="darkq-cli-") as name:
        yield Path(name)


@pytest.fixture
def alone(home: Path) -> Iterator[Darkq]:
    """The command on a machine without any Redis."""
    darkq = Darkq(home)
    yield darkq
    darkq.end()


@pytest.fixture
def darkq(home: Path, redis: object, redis_server: Server) -> Iterator[Darkq]:
    """The command with the test's Redis."""
    darkq = Darkq(home, redis_url=redis_server.url)
    yield darkq
    darkq.end()


@pytest.fixture
def open_terminal() -> Iterator[Callable[..., Terminal]]:
    terminals: list[Terminal] = []

    def start(darkq: Darkq, *arguments: str, **environment: str) -> Terminal:
        terminals.append(Terminal(darkq, *arguments, **environment))
        return terminals[-1]

    yield start
    for terminal in terminals:
        terminal.close()
