"""The order of the tests: another one for each seed, long tests first, files together."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

from support.order import LONG, SHORT, find_place
from support.repository import ROOT


class Item(NamedTuple):
    """What a place depends on."""

    nodeid: str
    slow: bool = False

    def get_closest_marker(self, _: str) -> bool:
        return self.slow


LONG_ONES = [Item(f"tests/integration/cli/test_up.py::test_{n}") for n in range(3)]
OTHERS = [Item(f"tests/integration/gateway/test_{f}.py::test_{n}") for f in "ab" for n in range(3)]
SHORT_ONES = [Item(f"tests/unit/darkq/test_keys.py::test_{n}") for n in range(3)]


def order(seed: int, *items: Item) -> list[Item]:
    def place(item: Any) -> Any:
        return find_place(seed, item)

    return sorted(items, key=place)


@pytest.mark.parametrize("seed", range(1, 6))
def test_long_tests_run_first_and_short_ones_last(seed: int) -> None:
    """Red if the last file to begin can be a long one: then the other processes wait for it."""
    slow = Item("tests/unit/darkq/test_sse.py::test_slow", slow=True)
    found = order(seed, *SHORT_ONES, *OTHERS, *LONG_ONES, slow)
    assert set(found[:4]) == {*LONG_ONES, slow}
    assert set(found[4:10]) == set(OTHERS)
    assert len({item.nodeid.partition("::")[0] for item in found[4:7]}) == 1, "a file at a time"


def test_another_seed_is_another_order() -> None:
    assert len({tuple(order(seed, *OTHERS)) for seed in range(1, 9)}) > 4


def test_the_folders_that_it_names_exist() -> None:
    """Red if a folder is renamed: its long tests would run at any time."""
    for name in (*LONG, *SHORT):
        assert list((ROOT / "tests").glob(f"{name.removesuffix('/')}*")), name
