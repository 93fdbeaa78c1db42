"""Leaving a batch: once, and its jobs go on; twice, and it is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from darkq import Batch, DarkqError
from darkq_cli import here, interrupts, talk

SECOND_THOUGHTS_S = 3.0
CANCEL_TIMEOUT_S = 10.0


@asynccontextmanager
async def leaving(batch: Callable[[], Batch | None]) -> AsyncIterator[None]:
    """On Ctrl-C in the block say how to go on; on another soon after, cancel the batch.

    Raises `CancelledError` in the end, as the block does.
    """
    try:
        yield
    except asyncio.CancelledError:
        left = batch()
        if left is not None:
            _say_how_to_go_on(left)
            if interrupts.exit_code() == interrupts.CTRL_C_EXIT_CODE:
                await _second_thoughts(left)
        raise


def _say_how_to_go_on(batch: Batch) -> None:
    darkq = here.command()
    resume, cancel = f"{darkq} batch resume {batch.id}", f"{darkq} batch cancel {batch.id}"
    talk.leave_line()
    talk.say(
        f"What was sent goes on without this. To go on:\n  {resume}\nTo stop it:\n  {cancel}",
        resume=resume,
        cancel=cancel,
    )


async def _second_thoughts(batch: Batch) -> None:
    talk.say(f"Ctrl-C again within {SECOND_THOUGHTS_S:g} s cancels the batch.")
    try:
        await asyncio.sleep(SECOND_THOUGHTS_S)
    except asyncio.CancelledError:
        talk.leave_line()
        try:
            async with asyncio.timeout(CANCEL_TIMEOUT_S):
                await batch.cancel()
        except (DarkqError, TimeoutError) as error:
            talk.say(f"it was not cancelled: {error}", style="red")
        else:
            talk.say("The batch is cancelled; resume writes what had ended.", style="yellow")
        raise
