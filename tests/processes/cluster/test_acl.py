"""The words that docs/security.md adds for a cluster: with them each role works, unrefused."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from darkq import Client, JobCancelled, Settings
from darkq_local.local_darkai import LocalDarkAI
from support.cluster import RealCluster

pytestmark = pytest.mark.slow

StartDarkAI = Callable[..., Awaitable[LocalDarkAI]]
StartWorker = Callable[[Settings], asyncio.Task[None]]
MakeSettings = Callable[..., Settings]

DOCS = (Path(__file__).parents[3] / "docs/security.md").read_text()
RULES = dict(re.findall(r"^ACL SETUSER darkq-(\w+) on >SECRET (.*)$", DOCS, re.MULTILINE))
(MORE,) = re.findall(r"^in a Cluster +(\+.*)$", DOCS, re.MULTILINE)
NEW_IN_7 = {"+ssubscribe", "+sunsubscribe", "+spublish"}


async def test_each_role_works_with_its_rule(
    cluster: RealCluster,
    settings_of: MakeSettings,
    start_darkai: StartDarkAI,
    start_worker: StartWorker,
) -> None:
    is_old = (await cluster.nodes[0].ask("INFO", "server"))["redis_version"].startswith("6")
    more = [word for word in MORE.split() if not (is_old and word in NEW_IN_7)]
    for node in cluster.nodes:
        for role, rule in RULES.items():
            await node.ask("ACL", "SETUSER", f"r-{role}", "on", ">secret", *rule.split(), *more)
        await node.ask("ACL", "LOG", "RESET")

    def as_role(role: str) -> Settings:
        url = cluster.url.replace("://", f"://r-{role}:secret@")
        return settings_of(cluster, redis_url=url, darkai_url=darkai.url)

    darkai = await start_darkai()
    worker = start_worker(as_role("worker"))
    async with Client(settings=as_role("producer")) as producer:
        async with Client(settings=as_role("reader")) as reader:
            jobs = await producer.enqueue_many(["prompt"] * 20)
            jobs += [await producer.enqueue("prompt", idempotency_key=str(n)) for n in range(20)]
            for job in jobs:
                text = [piece async for piece in reader.job(job.id).text()]
                assert (await producer.job(job.id).result(timeout_s=20)).text == "".join(text)
        worker.cancel()
        await asyncio.wait([worker])
        job = await producer.enqueue("prompt")
        await job.cancel()
        with pytest.raises(JobCancelled):
            await job.result()
    refusals = [entry for node in cluster.nodes for entry in await node.ask("ACL", "LOG")]
    for node in cluster.nodes:
        await node.ask("ACL", "DELUSER", *(f"r-{role}" for role in RULES))
    assert refusals == []
