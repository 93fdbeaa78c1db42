"""Fixtures: `darkq` in a home of its own, as for the other commands; plans and states."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from darkq import Settings
from darkq.batches.lines import ForAllLines
from darkq.openai.body import CHAT
from darkq_cli.batch.plan import Files, Plan, build_errors_path
from darkq_cli.batch.source import Fingerprint
from darkq_local.faults import Fault
from darkq_local.local_darkai import LocalDarkAI
from integration.cli.conftest import home
from support.command import Darkq
from support.echo_model import EchoModel
from support.servers import Server

__all__ = ["home"]


@pytest.fixture
def darkq(home: Path, redis: object, redis_server: Server) -> Iterator[Darkq]:
    """The command with the test's Redis."""
    darkq = Darkq(home, redis_url=redis_server.url)
    yield darkq
    darkq.end()


MakePlan = Callable[..., Plan]


@pytest.fixture
def make_plan(tmp_path: Path) -> MakePlan:
    """Make a plan of so many lines, in a directory."""

    def make(lines: int, directory: Path = tmp_path, **changes: Any) -> Plan:
        answers = directory / "results.jsonl"
        fields: dict[str, Any] = {
            "name": None,
            "files": Files(
                source=directory / "prompts.jsonl",
                answers=answers,
                errors=build_errors_path(answers),
            ),
            "common": ForAllLines(),
            "ordered": False,
            "window": 100,
            "endpoint": CHAT,
            "lines": lines,
            "fingerprint": Fingerprint(0, ""),
        }
        return Plan(**{**fields, **changes})

    return make


@pytest.fixture
async def echo(start_worker: Callable[[Settings], Any], make_settings: Any) -> AsyncIterator[Any]:
    """A local DarkAI that answers with the prompt, which begins with `quick`; and a worker."""
    async with LocalDarkAI(EchoModel()) as darkai:
        start_worker(make_settings(darkai_url=darkai.url, retry_base_s=0.01, job_tries=1))
        yield darkai


Serve = Callable[..., Awaitable[Any]]


@pytest.fixture
def serve(start_darkai: Any, start_worker: Callable[[Settings], Any], make_settings: Any) -> Serve:
    """Start a local DarkAI and a worker that asks it, both in this process."""

    async def start(*plan: Fault, **options: Any) -> Any:
        darkai = await start_darkai(*plan, **options)
        start_worker(make_settings(darkai_url=darkai.url, retry_base_s=0.01, job_tries=1))
        return darkai

    return start
