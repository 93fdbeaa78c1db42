"""Somebody puts another type, or odd bytes, at any key that darkq reads: nothing else is stopped.

Beside a worker and a gateway, one key at a time. Meanwhile jobs that the key has nothing to do with
complete; once it is gone, so do the others. Nothing ends, and callers only get darkq's errors.
"""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from redis.asyncio import Redis

from darkq import Client, DarkqError, Settings
from darkq.protocol.keys import BatchKeys, choose_partition
from darkq_gateway.http import auth
from darkq_gateway.serve import gateway
from darkq_local.local_darkai import LocalDarkAI
from darkq_worker.files import runner as file_batch_runners
from support.http_api import Api

ARCHITECTURE = Path(__file__).parents[3] / "ARCHITECTURE.md"
ODD = b"\xff\xfe\x00 odd"
OWN, SHARED, LIMITS = "its partition's", "all jobs go on", "its upstream's"
TOKEN = "t" * 32
KINDS = ("string", "hash", "set", "zset", "stream", "list")


class Place(NamedTuple):
    """A kind of key, as ARCHITECTURE.md names it, and whose jobs it may hold up."""

    name: str
    type: str
    holds_up: str

    def key(self, ids: dict[str, str]) -> str:
        """Return the key in this test's Redis."""
        key = self.name.replace("{p}", "{0}").replace("<priority>", "interactive")
        if key.startswith(("darkq:{workers}", "darkq:{stats}")):
            key = key.replace("<id>", ids["worker"])
        for what, value in ids.items():
            key = key.replace(f"<{what}>", value)
        return key


def places() -> list[Place]:
    """Return the keys of the table, but for channels."""
    rows = re.findall(r"^\| (`[^|]+) \| ([a-z, ]+) \|", ARCHITECTURE.read_text(), re.MULTILINE)
    found = []
    for names, types in rows:
        full = re.findall(r"`([^`]+)`", names)
        kinds = (types.split(", ") * len(full))[: len(full)]
        for name, kind in zip(full, kinds, strict=True):
            whole = name if not name.startswith("…") else full[0].rpartition(":")[0] + name[1:]
            if kind in KINDS:
                found.append(Place(whole, kind, _holds_up(whole)))
    return found


def _holds_up(name: str) -> str:
    if name.startswith("darkq:limit:"):
        return LIMITS
    return OWN if "{p}" in name else SHARED


@pytest.fixture
def settings(make_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr(file_batch_runners, "LOOK_S", 0.1)
    monkeypatch.setattr(auth, "CHECK_INTERVAL_S", 0.1)
    return make_settings(
        partitions=2, worker_poll_s=0.1, redis_patience_s=0.3, darkai_concurrency=50,
        gateway_port=0, gateway_drain_s=0.5, gateway_metrics_token=TOKEN,
    )  # fmt: skip


class Scene:
    """A worker and a gateway that run, and what is asked of them."""

    def __init__(self, client: Client, redis: Redis, api: Api, ids: dict[str, str]) -> None:
        self.client = client
        self.redis = redis
        self.api = api
        self.ids = ids
        self._numbers = itertools.count()

    async def answers(self, partition: int) -> None:
        """Enqueue a job in a partition, and wait for its answer."""
        numbers = (f"key {number}" for number in self._numbers)
        key = next(key for key in numbers if choose_partition(key, 2) == partition)
        job = await self.client.enqueue("hello", idempotency_key=key)
        assert (await job.result(timeout_s=8)).text

    async def spoil(self, place: Place, *, odd: bool) -> bool:
        """Put something else at a key, or something odd into it; False where nothing can be."""
        key = place.key(self.ids)
        if not odd:
            async with self.redis.pipeline(transaction=True) as pipe:
                pipe.delete(key)
                pipe.rpush(key, ODD)  # none of ours is a list
                await pipe.execute()
        elif place.type == "zset":
            await self.redis.zadd(key, {ODD: 1, b"{0}x": 2})
        elif place.type == "set":
            await self.redis.sadd(key, ODD)  # type: ignore[misc]
        elif place.type == "hash":
            await self.redis.hset(key, mapping={ODD: ODD})  # type: ignore[misc]
        elif place.type == "string":
            await self.redis.set(key, ODD)
        else:
            return False
        await self.redis.expire(key, 60)
        return True

    async def lists(self) -> None:
        """Call what reads many keys: it answers, or raises an error of darkq's."""
        client, job_id = self.client, self.ids["id"].replace("{", "").replace("}", "-")
        calls: list[Callable[[], Awaitable[Any]]] = [
            client.queues, client.workers, client.stats, client.fleet, client.jobs,
            client.upstreams, client.api_keys.listed, client.job(job_id).status,
            client.batch(BatchKeys(0, "a" * 32).public_id).status,
            lambda: client.file_batches.page(None, limit=5),
            lambda: _all(client.failed()), lambda: _all(client.batches()),
        ]  # fmt: skip
        for call in calls:
            with suppress(DarkqError):
                await call()
        for path in ("/jobs", f"/jobs/{job_id}", "/v1/batches", "/v1/models"):
            answer = await self.api("GET", path)
            assert answer.status in (200, 404, 409, 503), (path, answer)
        headers = {"Authorization": f"Bearer {TOKEN}"}
        assert (await self.api("GET", "/metrics", headers=headers)).status in (200, 503)
        assert (await self.api("GET", "/healthz")).status == 200


async def _all(items: Any) -> list[Any]:
    return [item async for item in items]


async def test_the_table_names_all_keys() -> None:
    names = {place.name for place in places()}
    assert {"darkq:{p}:interactive", "arq:job:<id>", "darkq:keys", "darkq:{stats}"} <= names
    assert "darkq:limit:{<upstream>}:late" in names
    assert len(names) > 40


@pytest.mark.parametrize("odd", [False, True], ids=["another type", "odd bytes"])
async def test_a_foreign_key_stops_nothing_else(
    redis: Redis,
    settings: Settings,
    start_darkai: Callable[..., Awaitable[LocalDarkAI]],
    start_worker: Callable[[Settings], asyncio.Task[None]],
    odd: bool,
) -> None:
    """Red when one task, or one call, stumbles over what is not its own."""
    darkai = await start_darkai(chunks=2)
    settings = settings.model_copy(update={"darkai_url": darkai.url})
    worker = start_worker(settings)
    failed = list[str]()
    async with Client(settings=settings) as client, gateway(settings) as url:
        key, secret = await client.api_keys.create("alice", concurrency=9)
        api = Api(url, secret)
        scene = Scene(client, redis, api, {})
        for partition in (0, 1):
            await scene.answers(partition)
        (alive,) = await client.workers()
        ids = {"id": "{0}" + "a" * 32, "upstream": "darkai", "worker": alive}
        ids |= {"hash": "b" * 64, "sha256": "c" * 64, "key id": key.id, "tenant's hash": "open"}
        scene.ids = ids
        for place in places():
            try:
                if not await scene.spoil(place, odd=odd):
                    continue
                async with asyncio.timeout(20):
                    if odd or place.holds_up == SHARED:
                        await scene.answers(0)
                    if odd or place.holds_up != LIMITS:
                        await scene.answers(1)
                    await scene.lists()
                    await redis.delete(place.key(ids))
                    await scene.answers(0)
            except (Exception, AssertionError) as error:
                failed.append(f"{place.name}: {error!r}"[:300])
                await redis.delete(place.key(ids))
            assert not worker.done(), place.name
        await api.http.close()
    await redis.delete("darkq:keys", *await redis.keys("darkq:key:*"))
    assert not failed, "\n".join(failed)
