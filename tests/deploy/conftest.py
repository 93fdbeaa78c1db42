"""Fixtures: `darkq` as a service runs it, with the test's Redis."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration.gateway.conftest import api, make_key, start_gateway, working
from support.command import Darkq
from support.servers import Server

__all__ = ["api", "make_key", "start_gateway", "working"]


@pytest.fixture
def darkq(redis: object, redis_server: Server) -> Iterator[Darkq]:
    """The command with the test's Redis, in a home of its own."""
    with tempfile.TemporaryDirectory(prefix="darkq-deploy-") as home:
        darkq = Darkq(Path(home), redis_url=redis_server.url)
        yield darkq
        darkq.end()
