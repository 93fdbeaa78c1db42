"""What a reader has not taken yet: bounded, and honest about what it dropped."""

from __future__ import annotations

import asyncio

import pytest

from darkq.jobs import mailbox
from darkq.jobs.mailbox import Mailbox


@pytest.fixture
def box(monkeypatch: pytest.MonkeyPatch) -> Mailbox:
    monkeypatch.setattr(mailbox, "MAX_MESSAGES", 3)
    monkeypatch.setattr(mailbox, "MAX_BYTES", 30)
    return Mailbox()


async def test_all_that_waits_is_taken_at_once_and_in_order(box: Mailbox) -> None:
    box.deliver(b"a")
    box.deliver(b"b")
    assert await box.take(1) == [b"a", b"b"]
    assert await box.take(0.001) is None


async def test_a_message_wakes_who_waits(box: Mailbox) -> None:
    taking = asyncio.create_task(box.take(10))
    await asyncio.sleep(0)
    box.deliver(b"a")
    assert await taking == [b"a"]


async def test_a_gap_wakes_who_waits(box: Mailbox) -> None:
    taking = asyncio.create_task(box.take(10))
    await asyncio.sleep(0)
    box.gap()
    assert await taking is None


async def test_silence_ends(box: Mailbox) -> None:
    assert await box.take(0.001) is None


async def test_a_gap_drops_what_waits_and_lasts_until_forgotten(box: Mailbox) -> None:
    box.deliver(b"before")
    box.gap()
    box.deliver(b"after")
    assert await box.take(1) is None
    assert await box.take(1) is None
    box.forget()
    assert await box.take(0.001) is None
    box.deliver(b"new")
    assert await box.take(1) == [b"new"]


@pytest.mark.parametrize("messages", [[b"x"] * 4, [b"x" * 10, b"x" * 21], [b"x" * 31]])
async def test_an_overflow_is_a_gap_and_frees_the_memory(
    box: Mailbox, messages: list[bytes]
) -> None:
    for message in messages:
        box.deliver(message)
    assert box._messages == []
    for _ in range(100):
        box.deliver(b"y")
    assert box._messages == []
    assert await box.take(1) is None


@pytest.mark.parametrize("messages", [[b"x"] * 3, [b"x" * 30]])
async def test_the_bounds_themselves_fit(box: Mailbox, messages: list[bytes]) -> None:
    for _ in range(3):  # what was taken no longer counts
        for message in messages:
            box.deliver(message)
        assert await box.take(1) == messages


async def test_forgetting_makes_room(box: Mailbox) -> None:
    for _ in range(3):
        box.deliver(b"x" * 9)
    box.forget()
    for _ in range(3):
        box.deliver(b"y" * 9)
    assert await box.take(1) == [b"y" * 9] * 3


async def test_cancelling_a_take_loses_nothing(box: Mailbox) -> None:
    taking = asyncio.create_task(box.take(10))
    await asyncio.sleep(0)
    box.deliver(b"a")
    taking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await taking
    assert await box.take(1) == [b"a"]
