"""An environment that cannot be installed."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from integration.gateway.clients.environments import PROBLEMS, run_step

FAILS = [sys.executable, "-c", "raise SystemExit('the index cannot be reached')"]


@pytest.mark.parametrize(
    ("ci", "outcome"), [("true", pytest.fail.Exception), ("", pytest.skip.Exception)]
)
def test_environment_that_cannot_be_installed_fails_in_ci(
    monkeypatch: pytest.MonkeyPatch, ci: str, outcome: type[BaseException]
) -> None:
    """Red if CI skips the clients without a word."""
    monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome, match=r"'sdks' cannot be installed: the index"):
        run_step("sdks", FAILS)


def test_step_that_hangs_ends_at_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    hangs = [sys.executable, "-c", "import time; time.sleep(600)"]
    with pytest.raises(pytest.fail.Exception, match="not done within"):
        run_step("sdks", hangs, deadline_s=0.5)


@pytest.fixture(autouse=True)
def no_problem_is_kept() -> Iterator[None]:
    yield
    PROBLEMS.clear()


def test_second_program_does_not_install_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Red if each program waits for an index that does not answer."""
    monkeypatch.setenv("CI", "true")
    for step in (FAILS, [sys.executable, "-c", ""]):
        with pytest.raises(pytest.fail.Exception, match="the index cannot be reached"):
            run_step("sdks", step)
