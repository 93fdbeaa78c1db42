"""Callers that wait for one job, and leave in any order."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from darkq import Client
from darkq_local.local_darkai import LocalDarkAI
from support.http_api import Answer, Api
from support.waiting import wait_until

GRACE_S = 0.2
CALLERS = 3
StartGateway = Callable[..., Awaitable[Api]]
Working = Callable[..., Awaitable[LocalDarkAI]]


def ask(api: Api, prompt: str, **headers: str) -> asyncio.Task[Answer]:
    """Wait for an answer as a caller that may leave: cancel the task."""
    body = {"model": "llama-3-70b", "messages": [{"role": "user", "content": prompt}]}
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return asyncio.create_task(api("POST", "/v1/chat/completions", body, headers=names))


async def states(client: Client) -> list[str]:
    return [job.state for job in await client.jobs()]


async def is_running(client: Client, count: int) -> bool:
    return (await states(client)).count("running") == count


@pytest.mark.parametrize("how", ["one key in two tabs", "one body, repeated by its SDK"])
async def test_who_leaves_does_not_cancel_the_job_of_who_waits(
    start_gateway: StartGateway, client: Client, working: Working, how: str
) -> None:
    """Red when a job has one holder, who came last."""
    darkai = await working(chunks=40, chunks_per_s=20)
    api = await start_gateway(gateway_cancel_grace_s=GRACE_S)
    keyed = how.startswith("one key")
    alice = ask(api, "hello", **({"Idempotency_Key": "k"} if keyed else {}))
    await wait_until("alice's job to run", lambda: is_running(client, 1))
    bob = ask(api, "hello", **({"Idempotency_Key": "k"} if keyed else {}))
    if not keyed:  # bob has made a job of his own, the latest for this body: alice is given it
        await wait_until("bob's job to run", lambda: is_running(client, 2))
        alice.cancel()
        alice = ask(api, "hello", x_stainless_retry_count="1")
    await asyncio.sleep(0.3)  # both have come, and no further job is made
    alice.cancel()
    assert (await bob).status == 200
    assert len(darkai.exchanges) == (1 if keyed else 2)


async def test_any_order_of_coming_and_leaving(
    start_gateway: StartGateway, client: Client, working: Working
) -> None:
    """A job is cancelled if no caller is left for the grace, and only then."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    await working(chunks=100, chunks_per_s=20)
    apis = [await start_gateway(gateway_cancel_grace_s=5 * GRACE_S) for _ in range(2)]

    async def play(number: int) -> tuple[bool, list[Answer]]:
        """Callers with one key; return whether one stays, and the answers to those who stay."""
        rng = random.Random(f"{seed} {number}")
        calls: list[asyncio.Task[Answer]] = []
        for _ in range(CALLERS):
            calls.append(ask(rng.choice(apis), f"prompt {number}", Idempotency_Key=f"k{number}"))
            await asyncio.sleep(rng.uniform(0.1, GRACE_S / 1.5))
            if rng.random() < 0.6:
                rng.choice(calls).cancel()
        stays = rng.random() < 0.5 and not all(call.cancelling() for call in calls)
        for call in calls:
            if not stays:
                call.cancel()
        done = await asyncio.gather(*calls, return_exceptions=True)
        return stays, [answer for answer in done if isinstance(answer, Answer)]

    plays = await asyncio.gather(*(play(number) for number in range(16)))
    for stays, answers in plays:
        assert bool(answers) == stays
        assert all(answer.status == 200 for answer in answers), answers
    ended = ("completed", "cancelled")

    async def all_ended() -> Any:
        return all(state in ended for state in await states(client))

    await wait_until("all jobs to end", all_ended)
    assert (await states(client)).count("completed") == sum(stays for stays, _ in plays)


async def test_who_comes_after_the_last_has_stayed_away_has_a_job_of_its_own(
    start_gateway: StartGateway, client: Client, working: Working
) -> None:
    await working(chunks=10, chunks_per_s=20)
    api = await start_gateway(gateway_cancel_grace_s=0)
    first = ask(api, "hello")
    await wait_until("its job to run", lambda: is_running(client, 1))
    first.cancel()

    async def is_cancelled() -> bool:
        return await states(client) == ["cancelled"]

    await wait_until("the job to be cancelled", is_cancelled)
    again = await ask(api, "hello", x_stainless_retry_count="1")
    assert again.status == 200
