"""Putting single jobs in: everything of them is stored, or nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.crc import key_slot

from darkq import Client, IdempotencyConflict, InvalidJob, JobNotFound, Settings
from darkq.protocol.job import Job
from darkq.protocol.keys import JobKeys, PartitionKeys
from darkq.protocol.prompt import Message
from darkq.protocol.record import decode_job
from support.by_hand import Hand
from support.servers import binaries, running

MakeSettings = Callable[..., Settings]


async def script_calls(redis: Redis) -> int:
    stats = await redis.info("commandstats")
    names = ("cmdstat_evalsha", "cmdstat_eval")
    return sum(int(stats.get(name, {"calls": 0})["calls"]) for name in names)


async def stored(redis: Redis, job_id: str) -> Job:
    return decode_job(await redis.get(JobKeys.parse(job_id).job)).job


OPTIONS: list[dict[str, Any]] = [
    {},
    {"model": "gpt-4o"},
    {"upstream": "darkai"},
    {"priority": "bulk"},
    {"timeout_s": 5},
    {"tries": 7},
    {"metadata": {"user": "ü", "": ""}},
    {"proxy": "http://user:p%40ss@proxy:8080"},
    {"idempotency_key": "order 7"},
]


class TestEnqueue:
    @pytest.mark.parametrize(
        "options",
        [*OPTIONS, {k: v for o in OPTIONS for k, v in o.items()}],
        ids=lambda options: "+".join(options),
    )
    async def test_every_option_is_stored(
        self, client: Client, redis: Redis, options: dict[str, Any]
    ) -> None:
        before_ms = int(time.time() * 1000)
        job = await client.enqueue("Hallo 😀", **options)
        keys = JobKeys.parse(job.id)
        record = decode_job(await redis.get(keys.job))
        options.pop("idempotency_key", None)
        assert record.job == Job.create("Hallo 😀", **options)
        assert before_ms <= record.et <= int(time.time() * 1000)
        assert (
            await redis.zscore(PartitionKeys(0).queue(record.job.priority), keys.arq_id) is not None
        )
        assert not job.duplicate
        status = await job.status()
        assert (status.state, status.job_id) == ("queued", job.id)
        assert status.metadata == options.get("metadata", {})

    async def test_a_conversation_is_stored(self, client: Client, redis: Redis) -> None:
        job = await client.enqueue(
            [
                {"role": "user", "content": [{"type": "text", "text": "a"}]},
                Message("assistant", "b"),
            ]
        )
        prompt = (Message("user", ({"type": "text", "text": "a"},)), Message("assistant", "b"))
        assert (await stored(redis, job.id)).prompt == prompt

    async def test_keys_live_as_long_as_configured(
        self, make_settings: MakeSettings, redis: Redis
    ) -> None:
        async with Client(settings=make_settings(job_ttl_s=50)) as client:
            job = await client.enqueue("hi", idempotency_key="k")
        keys = JobKeys.parse(job.id)
        for name in (keys.job, PartitionKeys(0).idempotency("k")):
            assert 40_000 < await redis.pttl(name) <= 50_000, name
        assert 90_000 < await redis.pttl(keys.events) <= 100_000
        assert len(await redis.keys()) == 5, "these, the queue and the list of jobs"

    @pytest.mark.parametrize(
        ("field", "prompt", "options"),
        [
            ("prompt", "", {}),
            ("prompt", None, {}),
            ("prompt", [], {}),
            ("prompt", "x" * (8 << 20) + "x", {}),
            ("prompt", "\ud800", {}),
            ("prompt[0]", ["a string"], {}),
            ("prompt[1]", [Message("user", "x"), {"role": "tool", "content": "x"}], {}),
            ("parameters.stream", "x", {"parameters": {"stream": True}}),
            ("parameters.tools", "x", {"parameters": {"tools": [{"a": float("nan")}]}}),
            ("parameters", "x", {"parameters": {"a b": 1}}),
            ("parameters", "x", {"parameters": {"tools": ["x" * (1 << 20)]}}),
            ("parameters", "x", {"parameters": [1]}),
            ("parameters.seed", "x", {"parameters": {"seed": 1}, "options": {"seed": 2}}),
            ("model", "x", {"model": ""}),
            ("upstream", "x", {"upstream": "a\nb"}),
            ("priority", "x", {"priority": "urgent"}),
            ("timeout_s", "x", {"timeout_s": 0}),
            ("tries", "x", {"tries": 0}),
            ("metadata", "x", {"metadata": {"a": 1}}),
            ("proxy", "x", {"proxy": "socks5://host:1"}),
            ("idempotency_key", "x", {"idempotency_key": ""}),
            ("idempotency_key", "x", {"idempotency_key": "k" * 256}),
            ("idempotency_key", "x", {"idempotency_key": 7}),
            ("idempotency_key", "x", {"idempotency_key": b"k"}),
            ("idempotency_key", "x", {"idempotency_key": "\ud800"}),
        ],
    )
    async def test_bad_input_is_refused_and_nothing_is_stored(
        self, client: Client, redis: Redis, field: str, prompt: Any, options: dict[str, Any]
    ) -> None:
        with pytest.raises(InvalidJob) as caught:
            await client.enqueue(prompt, **options)
        assert caught.value.field == field
        assert await redis.dbsize() == 0

    async def test_concurrent_calls_share_round_trips(self, client: Client, redis: Redis) -> None:
        """Red without the group commit: 500 calls."""
        await client.enqueue("so that the script is there")
        before = await script_calls(redis)
        jobs = await asyncio.gather(*(client.enqueue(f"prompt {n}") for n in range(500)))
        assert await script_calls(redis) - before <= 3
        assert len({job.id for job in jobs}) == 500
        for n in (0, 250, 499):
            assert (await stored(redis, jobs[n].id)).prompt == f"prompt {n}"
        assert await redis.zcard(PartitionKeys(0).queue("interactive")) == 501

    async def test_a_bad_job_among_concurrent_ones_harms_no_other(
        self, client: Client, redis: Redis
    ) -> None:
        results = await asyncio.gather(
            *(client.enqueue("" if n == 5 else "x") for n in range(10)), return_exceptions=True
        )
        assert [n for n, result in enumerate(results) if isinstance(result, InvalidJob)] == [5]
        assert await redis.zcard(PartitionKeys(0).queue("interactive")) == 9

    async def test_closing_sends_what_waits(self, settings: Settings, redis: Redis) -> None:
        client = Client(settings=settings)
        calls = [asyncio.create_task(client.enqueue("x")) for _ in range(5)]
        await asyncio.sleep(0)
        await client.aclose()
        for call in calls:
            assert await redis.exists(JobKeys.parse((await call).id).job)


class TestIdempotency:
    async def test_the_second_call_gets_the_first_job(self, client: Client, redis: Redis) -> None:
        first = await client.enqueue("hi", idempotency_key="k")
        second = await client.enqueue("hi", idempotency_key="k")
        assert (first.id, first.duplicate) == (second.id, False)
        assert second.duplicate
        assert await redis.zcard(PartitionKeys(0).queue("interactive")) == 1

    async def test_another_content_is_a_conflict(self, client: Client) -> None:
        first = await client.enqueue("hi", idempotency_key="k")
        for prompt, options in (("ho", {}), ("hi", {"model": "m"}), ("hi", {"priority": "bulk"})):
            with pytest.raises(IdempotencyConflict) as caught:
                await client.enqueue(prompt, idempotency_key="k", **options)  # type: ignore[arg-type]
            assert (caught.value.key, caught.value.job_id) == ("k", first.id)

    async def test_the_order_of_metadata_is_no_content(self, client: Client) -> None:
        one = await client.enqueue("hi", metadata={"a": "1", "b": "2"}, idempotency_key="k")
        other = await client.enqueue("hi", metadata={"b": "2", "a": "1"}, idempotency_key="k")
        assert one.id == other.id

    async def test_producers_at_the_same_time_make_one_job(
        self, settings: Settings, redis: Redis
    ) -> None:
        async with Client(settings=settings) as one, Client(settings=settings) as other:
            calls = [c.enqueue("hi", idempotency_key="k") for c in (one, other) * 20]
            jobs = await asyncio.gather(*calls)
        assert len({job.id for job in jobs}) == 1
        assert sum(not job.duplicate for job in jobs) == 1
        assert await redis.zcard(PartitionKeys(0).queue("interactive")) == 1

    async def test_it_holds_over_the_end_of_the_job(self, client: Client, hand: Hand) -> None:
        first = await client.enqueue("hi", idempotency_key="k")
        await hand.finish(await hand.claim_one())
        assert (await client.enqueue("hi", idempotency_key="k")).id == first.id

    async def test_across_partitions_too(self, make_settings: MakeSettings) -> None:
        async with (
            Client(settings=make_settings(partitions=8)) as one,
            Client(settings=make_settings(partitions=8)) as other,
        ):
            for n in range(20):
                first = await one.enqueue("hi", idempotency_key=f"k{n}")
                assert (await other.enqueue("hi", idempotency_key=f"k{n}")).id == first.id


class TestPartitions:
    async def test_every_key_of_a_job_shares_its_partitions_slot(
        self, make_settings: MakeSettings, redis: Redis
    ) -> None:
        """So that a script never crosses slots of a Redis Cluster."""
        async with Client(settings=make_settings(partitions=8)) as client:
            jobs = await asyncio.gather(
                *(client.enqueue("hi", idempotency_key=f"k{n}") for n in range(60))
            )
        assert {JobKeys.parse(job.id).partition for job in jobs} == set(range(8))
        slots = {key_slot(f"{{{partition}}}".encode()) for partition in range(8)}
        names = await redis.keys()
        assert {key_slot(name) for name in names} == slots
        for job in jobs:
            keys = JobKeys.parse(job.id)
            own = [name for name in names if keys.random.encode() in name]
            assert len(own) == 2
            assert {key_slot(name) for name in own} == {key_slot(f"{{{keys.partition}}}".encode())}

    async def test_the_server_agrees_on_the_slots(self, redis: Redis, hand: Hand) -> None:
        with running(binaries()["valkey"], "--cluster-enabled", "yes") as server:
            async with Redis.from_url(server.url) as cluster:
                await hand.take()
                for name in await redis.keys():
                    slot = await cluster.execute_command("CLUSTER KEYSLOT", name)
                    assert slot == key_slot(name) == key_slot(b"{0}")

    async def test_all_of_them_are_used(self, make_settings: MakeSettings, redis: Redis) -> None:
        async with Client(settings=make_settings(partitions=3)) as client:
            for _ in range(60):
                await client.enqueue("hi")
        assert (
            sum([await redis.zcard(PartitionKeys(n).queue("interactive")) for n in range(3)]) == 60
        )
        assert min([await redis.zcard(PartitionKeys(n).queue("interactive")) for n in range(3)]) > 3


async def test_a_handle_asks_nobody(client: Client, redis: Redis) -> None:
    job = await client.enqueue("hi")
    keys = JobKeys.parse(job.id)
    again = client.job(job.id)
    assert (again.id, again.duplicate, repr(again)) == (job.id, False, f"JobHandle({job.id!r})")
    assert JobKeys.from_arq_id(keys.arq_id).public_id == job.id
    with pytest.raises(JobNotFound):
        client.job("nonsense")
    with pytest.raises(JobNotFound):
        await client.job(f"0-{'0' * 32}").status()


@pytest.fixture
def hand(redis: Redis) -> Hand:
    return Hand(redis)
