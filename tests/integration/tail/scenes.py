"""A job that has come so far, and somebody who listens to its text."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from darkq import event as ev
from darkq.event import Cursor
from darkq.protocol.record import Failure, encode
from darkq_worker.leases import Claim
from support.by_hand import Hand, chunk, result_record, started


async def in_mid_stream(hand: Hand, chunks: int = 3) -> Claim:
    """A job that has written `started` and some chunks."""
    claim = await hand.take()
    await hand.append(claim, started(1), *(chunk(1, n) for n in range(1, chunks + 1)))
    return claim


async def completed(hand: Hand, chunks: int = 3) -> Claim:
    claim = await in_mid_stream(hand, chunks)
    await hand.complete(claim, "x" * chunks, Cursor(1, chunks + 1))
    return claim


async def written(hand: Hand, *texts: str) -> Claim:
    """A running job that has written some text."""
    claim = await hand.take()
    await write(hand, claim, *texts)
    return claim


async def write(hand: Hand, claim: Claim, *texts: str) -> None:
    chunks = [chunk(claim.attempt, n, text) for n, text in enumerate(texts, start=1)]
    assert await hand.append(claim, started(claim.attempt), *chunks) == []


async def next_attempt(hand: Hand, claim: Claim, seq: int) -> Claim:
    at = f"{claim.attempt}-{seq}"
    retrying = ev.Retrying(id=at, attempt=claim.attempt, reason="r", retry_in_s=0, at_ms=1)
    assert await hand.release(claim, retrying, delay_ms=0) == 1
    return await hand.claim_one()


async def fail(hand: Hand, claim: Claim, seq: int) -> None:
    failure = Failure(type="JobFailed", code="rejected", message="no")
    event = ev.Failed(id=f"{claim.attempt}-{seq}", code="rejected", message="no", at_ms=1)
    record = result_record(claim.keys, failure, attempt=claim.attempt)
    assert await hand.finish(claim, event, result=encode(record)) == 1


async def all_of(texts: AsyncIterator[str]) -> str:
    return "".join([text async for text in texts])


class Listener:
    """Collects a text in a task of its own."""

    def __init__(self, texts: AsyncIterator[str]) -> None:
        self.text = ""
        self.task = asyncio.create_task(self._listen(texts))

    async def _listen(self, texts: AsyncIterator[str]) -> None:
        async for text in texts:
            self.text += text
