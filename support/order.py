"""Runs the tests in another order each time: folders, their files, and the tests of a file.

The order follows from a seed alone, and is the same in each process of pytest-xdist. The report's
head names the seed, and so does its end when a test has failed; `--order-seed` gives it again. 0 is
the order in which the tests are written.
"""

from __future__ import annotations

import random
import secrets
from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--order-seed", type=int, help="the order of the tests; 0: as written")


def pytest_configure(config: pytest.Config) -> None:
    given = getattr(config, "workerinput", {})  # to a process of pytest-xdist
    if config.option.order_seed is None:
        config.option.order_seed = given.get("order_seed", secrets.randbits(32))


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Give a process of pytest-xdist the seed."""
    node.workerinput["order_seed"] = node.config.option.order_seed


def pytest_report_header(config: pytest.Config) -> str:
    return f"order of the tests: --order-seed {config.option.order_seed}"


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, exitstatus: int, config: pytest.Config
) -> None:
    if exitstatus not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        terminalreporter.write_line(pytest_report_header(config))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Shuffle. Afterwards pytest puts the tests together that share a server."""
    if seed := config.option.order_seed:
        items.sort(key=lambda item: _place(seed, item))


def _place(seed: int, item: pytest.Item) -> list[float]:
    """A test's place in the order, whichever others are selected."""
    file, _, test = item.nodeid.partition("::")
    folder = file.rpartition("/")[0]
    return [random.Random(f"{seed} {name}").random() for name in (folder, file, f"{file} {test}")]
