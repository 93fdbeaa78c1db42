"""Numbers as printable text: how a history keeps the sizes of events."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from darkq.protocol.history import pack, unpack


@given(st.lists(st.integers(0, 70) | st.integers(0, 1 << 40)))
def test_numbers_come_back(numbers: list[int]) -> None:
    assert list(unpack(pack(numbers))) == numbers


@given(st.lists(st.integers(0, 1 << 20)))
def test_json_needs_no_escapes(numbers: list[int]) -> None:
    packed = pack(numbers)
    assert msgspec.json.encode(packed) == f'"{packed}"'.encode()


@pytest.mark.parametrize(("number", "size"), [(0, 1), (64, 1), (65, 2), (1689, 2), (1690, 3)])
def test_a_usual_size_is_one_character(number: int, size: int) -> None:
    assert len(pack([number])) == size
