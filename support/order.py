"""Runs the tests in another order each time: folders, their files, and the tests of a file.

The order follows from a seed alone, and is the same in each process of pytest-xdist. The report's
head names the seed, and so does its end when a test has failed; `--order-seed` gives it again. 0 is
the order in which the tests are written.

Tests that start processes or browsers take seconds and run first, those of milliseconds last. So no
process of pytest-xdist has a long test left when the others have none. With `--dist loadscope` a
process takes the next file when it has finished one, or the next of the long tests.
"""

from __future__ import annotations

import secrets
from hashlib import blake2b
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

_LONG = (
    *(f"integration/{folder}/" for folder in ("batch_cli", "board", "cli", "clients", "examples")),
    *(f"processes/{folder}/" for folder in ("benchmarks", "faults", "sentinel", "upgrade")),
    *("deploy/", "docs/test_blocks", "integration/gateway/clients/"),
)
_SHORT = ("docs/", "repository/", "scripts/", "unit/")


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


class _Schedule(LoadScopeScheduling):  # type: ignore[misc]  # it has no types
    """Deals the tests in their order: long ones one by one, all others a file at a time."""

    def _split_scope(self, nodeid: str) -> str:
        return nodeid if _is_in(nodeid, _LONG) else nodeid.partition("::")[0]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> _Schedule | None:
    if config.option.dist != "loadscope":
        return None
    config.option.loadscopereorder = False  # it would put the files with most tests first
    return _Schedule(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Shuffle. Afterwards pytest puts the tests together that share a server."""
    if seed := config.option.order_seed:
        items.sort(key=lambda item: _place(seed, item))


def _place(seed: int, item: pytest.Item) -> tuple[int | str, ...]:
    """A test's place in the order, whichever others are selected."""
    test = item.nodeid
    file = test.partition("::")[0]
    folder = file.rpartition("/")[0]
    turn = 1
    if _is_in(test, _LONG) or item.get_closest_marker("slow"):
        turn = 0
    elif _is_in(test, _SHORT):
        turn = 2
    return turn, *(blake2b(f"{seed} {name}".encode()).hexdigest() for name in (folder, file, test))


def _is_in(test: str, folders: tuple[str, ...]) -> bool:
    return test.removeprefix("tests/").startswith(folders)
