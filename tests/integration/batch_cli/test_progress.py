"""How a batch is shown while it runs, and summed up at its end."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from darkq import Client, Job, UpstreamStatus
from darkq.batches.lines import ForAllLines
from darkq.operate.upstreams import WindowUse
from darkq_cli.batch.plan import Plan, decode, encode
from darkq_cli.batch.progress import BatchProgress, JobCounts, describe_delays, read_job_counts
from darkq_cli.batch.state import Checkpoint, State
from darkq_cli.batch.summary import Summary
from darkq_cli.terminal import messages, progress
from darkq_cli.terminal.problems import Problem
from darkq_cli.terminal.units import format_duration
from support.waiting import wait_until


@pytest.fixture
def now_s(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The clock, to be set."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])  # type: ignore[attr-defined]
    return now


def test_without_a_terminal_a_line_now_and_then(
    now_s: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with BatchProgress(1000, Checkpoint()) as shown:
        now_s[0] += 5
        shown.show_checkpoint(Checkpoint(completed=50))
        assert capsys.readouterr().err == ""
        now_s[0] += 5
        shown.jobs = JobCounts(40, 8, "3 retrying")
        shown.show_checkpoint(Checkpoint(completed=95, failed=5, chunks=3000))
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        "100 of 1,000 lines, 5 failed, 40 running, 8 waiting, 10.0 lines/s, 300 chunks/s, "
        "1 min 30 s left, 3 retrying"
    )


def test_what_the_runner_waits_for_is_told_at_once_and_once(
    now_s: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with BatchProgress(10, Checkpoint()) as shown:
        shown.jobs = JobCounts(1, 0, "1 retrying")
        for waits_for in ("waits for Redis", "", "waits for Redis"):
            shown.waits_for = waits_for
            shown.show_checkpoint(Checkpoint())
        assert capsys.readouterr().err == "0 of 10 lines, 1 running, waits for Redis\n"


def test_on_a_narrow_terminal_no_word_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    console = Console(file=screen, width=60, force_terminal=True, soft_wrap=True)
    monkeypatch.setattr(messages, "console", lambda: console)
    with BatchProgress(100_000, Checkpoint(completed=30_000)) as shown:
        shown.jobs = JobCounts(100, 1900, "no worker is running; to start one: darkq up")
        shown.show_checkpoint(Checkpoint(completed=30_000))
        assert shown._bar is not None
        shown._bar.refresh()
    words = " ".join(re.sub("\x1b\\[[^a-zA-Z]*[a-zA-Z]|[━╺╸]", "", screen.getvalue()).split())
    told = "30,000 of 100,000 lines, 100 running, 1,900 waiting, no worker is running; to start one"
    assert told in words


def upstream(**changes: Any) -> UpstreamStatus:
    fields: dict[str, Any] = {"name": "a", "kind": "openai", "default_model": "m", "workers": 1}
    return UpstreamStatus(**{**fields, "models": ("m",), "options": (), **changes})


@pytest.mark.parametrize(
    ("changes", "retrying", "words"),
    [
        ({}, 0, ""),
        ({}, -2, ""),
        ({}, 3, "3 retrying"),
        ({"breaker": "open", "reopens_at_ms": 12_400}, 0, "breaker open for 12 s more"),
        ({"breaker": "open", "reopens_at_ms": None}, 0, "breaker open for 0 s more"),
        ({"breaker": "half-open"}, 0, "breaker half-open, testing with one call"),
        ({"breaker": "blocked", "reopens_at_ms": 5000}, 0, "limited by the upstream for 5 s more"),
        (
            {"windows": (WindowUse(calls=4, length_s=60, used=4),), "waiting": 96},
            2,
            "2 retrying, limit reached: 4 calls in 60 s, 96 deferred",
        ),
        ({"windows": (WindowUse(calls=4, length_s=60, used=3),)}, 0, ""),
    ],
)
def test_what_holds_jobs_up_is_told(changes: dict[str, Any], retrying: int, words: str) -> None:
    assert describe_delays([upstream(**changes)], retrying, now_ms=0) == words


def test_of_several_upstreams_the_one_in_trouble_is_named() -> None:
    both = [upstream(), upstream(name="b", breaker="half-open")]
    assert describe_delays(both, 0, now_ms=0) == "b: breaker half-open, testing with one call"


async def test_redis_tells_how_a_batch_stands(
    client: Client, start_darkai: Any, start_worker: Any, make_settings: Any
) -> None:
    async with client.batch() as batch:
        for _ in range(5):
            await batch.add(Job.create("x", priority="bulk"))
        running, waiting, reason = await read_job_counts(client, batch, ForAllLines())
        assert (running, waiting) == (0, 5)
        assert reason.startswith("no worker is running; to start one: ")
        darkai = await start_darkai(chunks=1000, chunks_per_s=20.0)
        start_worker(make_settings(darkai_url=darkai.url, darkai_limits="2/600"))

        async def stands() -> bool:
            found = await read_job_counts(client, batch, ForAllLines())
            return found == (2, 3, "limit reached: 2 calls in 600 s, 3 deferred")

        await wait_until("two to run and three to wait for their turn", stands)


def test_with_json_it_is_an_object(
    now_s: list[float], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(messages, "as_json", True)
    with BatchProgress(10, Checkpoint()) as shown:
        now_s[0] += 11
        shown.show_checkpoint(Checkpoint(completed=3, failed=1))
    told = json.loads(capsys.readouterr().err)
    assert (told["lines"], told["completed"], told["failed"]) == (10, 3, 1)


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (59, "59 s"), (61, "1 min 01 s"), (7322, "2 h 02 min")]
)
def test_what_is_left_is_told_in_two_units(seconds: float, words: str) -> None:
    assert format_duration(seconds) == words


def test_a_plan_survives_its_state(make_plan: Callable[..., Plan]) -> None:
    plan = make_plan(7, name="reviews", ordered=True)
    home = plan.files.state.parent
    assert decode(encode(plan, home), home) == plan


@pytest.mark.parametrize(
    ("place", "said"),
    [
        (Checkpoint(completed=10), None),
        (Checkpoint(completed=9, failed=1), "1 of 10 lines failed"),
        (Checkpoint(completed=9), "1 of 10 lines are missing"),
    ],
)
def test_only_a_whole_batch_is_a_success(
    make_plan: Callable[..., Plan], place: Checkpoint, said: str | None
) -> None:
    state = State.__new__(State)
    state.plan, state.checkpoint = make_plan(10), place
    summary = Summary.build(state)
    if said is None:
        summary.raise_if_failed()
        return
    with pytest.raises(Problem, match=said):
        summary.raise_if_failed()
