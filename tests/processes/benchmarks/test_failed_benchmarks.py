"""A benchmark that fails costs no result of the others. Figures are not looked at here."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import report
from benchmarks.answers import burst
from benchmarks.figures import Answer, Figures, Row, Target, error_line
from benchmarks.priority import in_turn
from benchmarks.processes import Process, upstream

ROOT = Path(__file__).parents[3]

# Three benchmarks: one that answers, one that fails, one that never ends.
STAND_INS = """
import asyncio, sys
from benchmarks import chunks, idle, relay
from benchmarks.__main__ import main
from benchmarks.figures import Answer, Figures, Row

async def answers(*_):
    return Answer([Row("how many", "1/s", Figures.of([7.0]))], [])

async def fails(*_):
    async with asyncio.TaskGroup():
        raise RuntimeError("no such\\nworker")

async def never_ends(*_):
    print("waiting", file=sys.stderr, flush=True)
    await asyncio.Event().wait()

relay.answer, chunks.answer, idle.answer = answers, fails, never_ends
main()
"""


def start(*arguments: str) -> Process:
    return subprocess.Popen(
        [sys.executable, "-c", STAND_INS, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_failed_benchmark_is_a_row_and_the_others_run() -> None:
    """Red if the error ends the run, or if the exit code is 0."""
    process = start("chunks", "relay")
    printed, errors = process.communicate(timeout=50)
    assert process.returncode == 1
    *_, first, second = printed.splitlines()
    assert first == "chunks    failed: RuntimeError: no such worker"
    assert second.split() == ["how", "many", "7.00", "1/s"]
    assert "Traceback" in errors


def test_exit_code_is_0_when_nothing_failed() -> None:
    process = start("relay", "--json")
    printed, _ = process.communicate(timeout=50)
    assert process.returncode == 0
    (row,) = json.loads(printed)["benchmarks"]["relay"]
    assert (row["ours"], row["failure"]) == ([7.0], None)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_run_prints_the_results_that_it_has(number: signal.Signals) -> None:
    """Red if the table is printed only after the last benchmark."""
    process = start("relay", "idle")
    assert process.stderr is not None
    assert any(line == "waiting\n" for line in process.stderr)
    process.send_signal(number)
    printed, _ = process.communicate(timeout=50)
    assert process.returncode
    assert "how many  7.00 1/s" in printed


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_priority_runs_a_longer_batch_when_one_has_ended(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Red if a batch that ends during a repetition is an error, or if that repetition counts."""
    with upstream() as url:
        busy, idle = await in_turn(url, burst(1), jobs=2, repetitions=2, lines=500)
    assert [len(latencies) for latencies in (*busy, *idle)] == [2, 2, 2, 2]
    assert capfd.readouterr().err.count('"note":"batch ') > 1  # the first does not fill the window


def test_reports_hold_the_rows_that_have_failed() -> None:
    kept = Row("kept", "ms", Figures.of([2.0]), Figures.of([1.0]), "them", Target("≤", 3))
    answers = {"a": Answer([Row.failed("lost", "ValueError: a | b"), kept], ["a note"])}
    rows = answers["a"].rows
    assert report.table(rows).splitlines() == [
        "question  ours     baseline       ratio  target  reached",
        "lost      failed: ValueError: a | b",
        "kept      2.00 ms  them: 1.00 ms  2.00   ≤ 3.00  yes",
    ]
    assert r"| lost | failed: ValueError: a \| b |  |  |  |  |" in report.markdown(answers, [])
    assert "  lost: failed: ValueError: a | b" in report.text(answers["a"])
    written = json.loads(report.as_json(answers, []))["benchmarks"]["a"]
    assert [row["failure"] for row in written] == ["ValueError: a | b", None]


@pytest.mark.parametrize(
    ("ours", "baseline", "ratio"),
    [((1.0,), (0.0,), "inf"), ((0.0,), (0.0,), "nan"), ((math.inf,), (math.inf,), "nan")],
)
def test_ratio_that_is_no_number_can_be_printed(
    ours: tuple[float, ...], baseline: tuple[float, ...], ratio: str
) -> None:
    """Red if a median of 0, or “never” on both sides, loses the table."""
    row = Row("q", "ms", Figures(ours), Figures(baseline), "them", Target("≤", 1))
    assert report.cells(row)[3:] == (ratio, "≤ 1.00", "no")


def test_error_is_one_short_line() -> None:
    assert error_line(ExceptionGroup("two", [ValueError("a\n  b"), OSError()])) == "ValueError: a b"
    assert error_line(AssertionError()) == "AssertionError"
    assert len(error_line(RuntimeError("x" * 1000))) < 200
