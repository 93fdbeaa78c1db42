"""Answers into files: each line once, wherever a kill or a full disk falls."""

from __future__ import annotations

import errno
import os
import random
import secrets
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec
import pytest

from darkq_cli.batch import files as output_files
from darkq_cli.batch import plan as plans
from darkq_cli.batch.ledger import Ledger
from darkq_cli.batch.plan import Plan
from darkq_cli.batch.state import EndedLine, State, StateFile
from darkq_cli.terminal.problems import Problem

MakePlan = Callable[..., Plan]


@contextmanager
def opened(plan: Plan) -> Iterator[tuple[Ledger, State]]:
    """The ledger of a plan, begun or taken up."""
    with closing(StateFile(plan.files.state)) as file:
        state = file.load() or file.start(plan)
        with closing(Ledger(state)) as ledger:
            yield ledger, state


def ended(number: int, *, failed: bool = False) -> EndedLine:
    return EndedLine(
        number, failed, f"{number} {'x' * (number % 5)}\n".encode(), chunks=2, tokens=3
    )


def numbers(path: Path) -> list[int]:
    text = path.read_text() if path.exists() else ""
    assert not text or text.endswith("\n")
    return [int(line.split()[0]) for line in text.splitlines()]


PAGES = [
    [ended(1), ended(4, failed=True), ended(3)],
    [ended(2), ended(6), ended(5, failed=True), ended(8)],
]


@pytest.mark.parametrize("ordered", [False, True])
def test_a_kill_at_any_byte_of_a_page_changes_nothing(
    make_plan: MakePlan, tmp_path: Path, ordered: bool
) -> None:
    here, before = tmp_path / "here", tmp_path / "before"
    here.mkdir()
    plan = make_plan(8, here, ordered=ordered)
    with opened(plan) as (ledger, _):
        ledger.write(PAGES[0])
    shutil.copytree(here, before)
    with opened(plan) as (ledger, _):
        ledger.write(PAGES[1])
    outputs = (plan.files.answers, plan.files.errors)
    expected = {path: path.read_bytes() for path in outputs}
    tried = 0
    for path, text in expected.items():
        committed = before / path.name
        for size in range(committed.stat().st_size if committed.exists() else 0, len(text) + 1):
            shutil.rmtree(here)
            shutil.copytree(before, here)
            if path is plan.files.errors:  # the answers are written before
                plan.files.answers.write_bytes(expected[plan.files.answers])
            path.write_bytes(text[:size])
            with opened(plan) as (ledger, _):
                ledger.write(PAGES[1])
            assert {path: path.read_bytes() for path in outputs} == expected
            tried += 1
    assert tried >= 20


def test_a_page_that_comes_again_is_not_written_again(make_plan: MakePlan) -> None:
    plan = make_plan(8)
    with opened(plan) as (ledger, state):
        ledger.write(PAGES[0])
        ledger.write([*PAGES[0], ended(2), ended(2)])
        assert sorted(numbers(plan.files.answers)) == [1, 2, 3]
        assert numbers(plan.files.errors) == [4]
        assert ledger.find_unfinished([1, 2, 5, 3]) == [5]
        assert not state.complete
        assert (state.checkpoint.completed, state.checkpoint.failed) == (3, 1)
        assert (state.checkpoint.chunks, state.checkpoint.tokens) == (8, 12)


@pytest.mark.parametrize("ordered", [False, True])
def test_any_story_of_pages_and_kills_writes_each_line_once(
    make_plan: MakePlan, tmp_path: Path, ordered: bool
) -> None:
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    for story in range(20):
        directory = tmp_path / str(story)
        directory.mkdir()
        plan = make_plan(40, directory, ordered=ordered)
        left = {n: ended(n, failed=rng.random() < 0.2) for n in range(1, 41)}
        while left:
            with opened(plan) as (ledger, state):
                for _ in range(rng.randrange(4)):
                    page = rng.sample(sorted(left), min(len(left), rng.randrange(1, 9)))
                    ledger.write([left[n] for n in page])
                    if rng.random() < 0.5:  # else the acknowledgement is lost
                        for number in page:
                            del left[number]
            with plan.files.answers.open("ab") as file:  # torn off in the midst of a line
                file.write(b"9" * rng.randrange(3))
        with opened(plan) as (_, state):
            assert state.complete
            assert state.checkpoint.held == 0
        answers, errors = numbers(plan.files.answers), numbers(plan.files.errors)
        assert sorted(answers + errors) == list(range(1, 41))
        if ordered:
            assert answers == sorted(answers)
            assert errors == sorted(errors)


def test_a_line_before_its_turn_is_held_in_the_state(make_plan: MakePlan) -> None:
    plan = make_plan(4, ordered=True)
    with opened(plan) as (ledger, state):
        ledger.write([ended(4), ended(2), ended(3)])
        assert (state.checkpoint.held, state.checkpoint.written) == (3, 0)
        assert not plan.files.answers.exists()
    with opened(plan) as (ledger, state):
        ledger.write([ended(1)])
        assert numbers(plan.files.answers) == [1, 2, 3, 4]
        assert (state.checkpoint.held, state.complete) == (0, True)


def test_lines_held_when_the_process_died_are_written_at_the_next_start(
    make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(2, ordered=True)
    with opened(plan) as (ledger, _):
        with monkeypatch.context() as patch:
            patch.setattr(Ledger, "_release", lambda _: None)  # as a kill after the commit
            ledger.write([ended(1), ended(2)])
        assert not plan.files.answers.exists()
    with opened(plan) as (_, state):
        assert numbers(plan.files.answers) == [1, 2]
        assert state.complete


def test_two_runners_of_one_output_exclude_each_other(make_plan: MakePlan) -> None:
    plan = make_plan(1)
    with opened(plan), pytest.raises(Problem, match=r"another darkq batch is writing .*s\.jsonl$"):
        StateFile(plan.files.state)
    StateFile(plan.files.state).close()


def test_a_file_that_somebody_has_cut_is_not_written_to(make_plan: MakePlan) -> None:
    plan = make_plan(8)
    with opened(plan) as (ledger, _):
        ledger.write(PAGES[0])
    os.truncate(plan.files.answers, 3)
    with pytest.raises(Problem, match="another program has changed it"), opened(plan):
        pass
    assert plan.files.answers.stat().st_size == 3


def test_a_state_that_is_none_is_left_alone(make_plan: MakePlan) -> None:
    plan = make_plan(1)
    plan.files.state.write_bytes(b"somebody's notes, and no state of a batch" * 50)
    with pytest.raises(Problem, match="is not the state of a batch"):
        StateFile(plan.files.state)
    assert plan.files.state.read_bytes().startswith(b"somebody's")


def test_a_full_disk_loses_nothing(make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = make_plan(8)
    with opened(plan) as (ledger, _):
        ledger.write(PAGES[0])
        written = plan.files.answers.read_bytes()

        def write_half(fd: int, data: memoryview) -> int:
            if len(data) < 6:
                raise OSError(errno.ENOSPC, "No space left on device")
            return write(fd, data[: len(data) // 2])

        write = os.write
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", write_half)
            with pytest.raises(Problem, match="No space left on device"):
                ledger.write(PAGES[1])
        assert plan.files.answers.read_bytes() == written
    with opened(plan) as (ledger, _):
        ledger.write(PAGES[1])
    assert sorted(numbers(plan.files.answers)) == [1, 2, 3, 6, 8]


def test_a_device_that_is_full_is_no_file(make_plan: MakePlan) -> None:
    files = make_plan(1).files
    output_file = output_files.OutputFile(Path("/dev/full"), 0)
    with closing(output_file), pytest.raises(Problem, match="not a regular file"):
        output_file.append(b"x")
    assert not files.answers.exists()


def commit_order(
    plan: Plan, page: Sequence[EndedLine], monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    steps: list[str] = []

    def noted(name: str, function: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **options: object) -> object:
            steps.append(name)
            return function(*arguments, **options)

        return call

    with opened(plan) as (ledger, state):
        monkeypatch.setattr(os, "fsync", noted("fsync", os.fsync))
        monkeypatch.setattr(state, "commit", noted("commit", state.commit))
        ledger.write(page)
    return steps


def test_the_disk_has_a_page_before_the_state_says_so(
    make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = commit_order(make_plan(8), PAGES[0], monkeypatch)
    assert steps[-1] == "commit"
    assert steps.count("fsync") >= 2


def test_a_file_for_failures_is_of_one_batch_until_that_is_over(tmp_path: Path) -> None:
    errors = tmp_path / "errors.jsonl"
    one, two = StateFile(tmp_path / "one.darkq"), StateFile(tmp_path / "two.darkq")
    one.claim(errors)
    one.claim(errors)
    with pytest.raises(Problem, match="belongs to another unfinished batch") as refused:
        two.claim(errors)
    assert refused.value.exit_code == 2
    with pytest.raises(Problem, match=r"another darkq batch is writing .*errors\.jsonl"):
        StateFile(tmp_path / "errors.jsonl.darkq")
    one.delete()
    two.claim(errors)
    two.close()
    (tmp_path / "two.darkq").unlink()  # by hand
    three = StateFile(tmp_path / "three.darkq")
    three.claim(errors)
    three.delete()
    assert list(tmp_path.glob("errors*")) == []


def test_an_output_is_not_taken_for_another_s_failures(tmp_path: Path) -> None:
    output = StateFile(tmp_path / "out.jsonl.darkq")
    other = StateFile(tmp_path / "other.jsonl.darkq")
    with pytest.raises(Problem, match="belongs to another unfinished batch"):
        other.claim(tmp_path / "out.jsonl")
    other.delete()
    output.delete()


def test_a_state_of_darkq_0_2_goes_on_here(make_plan: MakePlan, tmp_path: Path) -> None:
    """Red when an upgrade between two runs loses that the lines are text, or cannot commit."""
    plan = make_plan(3)
    with closing(sqlite3.connect(plan.files.state)) as database:
        old = msgspec.json.decode(plans.encode(plan, tmp_path))
        for name in ("input", "output", "columns"):
            old.pop(name)
        database.execute("CREATE TABLE plan (json BLOB NOT NULL)")
        database.execute("CREATE TABLE place (json BLOB NOT NULL)")
        database.execute("CREATE TABLE done (number INTEGER PRIMARY KEY)")
        database.execute("CREATE TABLE held (number INTEGER PRIMARY KEY, failed, line)")
        encoded = msgspec.json.encode({**old, "is_text": True})
        database.execute("INSERT INTO plan VALUES (?)", (encoded,))
        database.execute("INSERT INTO place VALUES ('{}')")
        database.commit()
    with opened(plan) as (ledger, state):
        assert state.plan.input.kind == "text"
        ledger.write([ended(1), ended(2, failed=True), ended(3)])
        assert state.complete
        state.forget_failed()
        assert ledger.find_unfinished([1, 2, 3]) == [2]


def test_failed_lines_without_a_list_of_them_are_not_run_again(make_plan: MakePlan) -> None:
    """Red when a retry of a batch that darkq 0.2 began would lose failures."""
    with opened(make_plan(1)) as (ledger, state):
        state.commit(msgspec.structs.replace(ledger.checkpoint, failed=1))
        with pytest.raises(Problem, match="kept no list of failed lines"):
            state.forget_failed()
