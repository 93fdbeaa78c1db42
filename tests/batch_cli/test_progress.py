"""How a batch is shown while it runs, and summed up at its end."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from darkq_cli import talk
from darkq_cli.batch import progress
from darkq_cli.batch.plan import Plan, decode, encode
from darkq_cli.batch.progress import Progress
from darkq_cli.batch.state import Place, State
from darkq_cli.batch.summary import Summary
from darkq_cli.problems import Problem


@pytest.fixture
def now_s(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The clock, to be set."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])  # type: ignore[attr-defined]
    return now


def test_without_a_terminal_a_line_now_and_then(
    now_s: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress(1000, Place()) as shown:
        now_s[0] += 5
        shown.show(Place(completed=50))
        assert capsys.readouterr().err == ""
        now_s[0] += 5
        shown.running = 40
        shown.waits_for = "no worker is running"
        shown.show(Place(completed=95, failed=5, chunks=3000))
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        "100 of 1,000 lines, 5 failed, 40 in progress, 10.0 lines/s, 300 chunks/s, "
        "1 min 30 s left, no worker is running"
    )


def test_with_json_it_is_an_object(
    now_s: list[float], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(talk, "as_json", True)
    with Progress(10, Place()) as shown:
        now_s[0] += 11
        shown.show(Place(completed=3, failed=1))
    told = json.loads(capsys.readouterr().err)
    assert (told["lines"], told["completed"], told["failed"]) == (10, 3, 1)


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (59, "59 s"), (61, "1 min 01 s"), (7322, "2 h 02 min")]
)
def test_what_is_left_is_told_in_two_units(seconds: float, words: str) -> None:
    assert progress._span(seconds) == words


def test_a_plan_survives_its_state(make_plan: Callable[..., Plan]) -> None:
    plan = make_plan(7, name="reviews", ordered=True)
    assert decode(encode(plan)) == plan


@pytest.mark.parametrize(
    ("place", "said"),
    [
        (Place(completed=10), None),
        (Place(completed=9, failed=1), "1 of 10 lines failed"),
        (Place(completed=9), "1 of 10 lines are missing"),
    ],
)
def test_only_a_whole_batch_is_a_success(
    make_plan: Callable[..., Plan], place: Place, said: str | None
) -> None:
    state = State.__new__(State)
    state.plan, state.place = make_plan(10), place
    summary = Summary.of(state)
    if said is None:
        summary.raise_if_failed()
        return
    with pytest.raises(Problem, match=said):
        summary.raise_if_failed()
