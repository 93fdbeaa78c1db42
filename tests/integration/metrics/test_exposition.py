"""What `/metrics` says: well-formed, bounded, and true of the queues, whatever stands in Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest
from redis.asyncio import Redis

from darkq import Client, Settings
from darkq.operate.stats import MAX_FIELDS, Report, add
from darkq.operate.upstreams import Served, announcement
from darkq.operate.workers import sign_in
from darkq.protocol.keys import STATS, PartitionKeys, WorkerKeys
from darkq.settings.parsing import Window
from darkq.telemetry.metrics import MAX_NUMBER, MEASURES
from darkq_gateway.operations.metrics import MAX_UPSTREAMS, MAX_WINDOWS
from darkq_gateway.serve import gateway
from darkq_local.local_darkai import LocalDarkAI
from integration.metrics.conftest import StartGateway, scrape
from support.by_hand import Hand
from support.http_api import Api
from support.servers import binaries, running
from support.waiting import wait_until

StartDarkAI = Callable[..., Awaitable[LocalDarkAI]]
StartWorker = Callable[[Settings], asyncio.Task[None]]
MakeSettings = Callable[..., Settings]

TOKEN = "a-token-of-some-length"


@pytest.fixture
def hand(redis: Redis) -> Hand:
    return Hand(redis)


async def busy(
    client: Client, fast: MakeSettings, start_darkai: StartDarkAI, start_worker: StartWorker
) -> None:
    """Leave something behind of everything that is counted."""
    darkai = await start_darkai()
    start_worker(fast(darkai_url=darkai.url, darkai_limits="100/60,1000/3600", job_tries=2))
    jobs = [await client.enqueue("SECRET-PROMPT", tenant="SECRET-TENANT", metadata={"a": "SECRET"})]
    jobs.append(await client.enqueue("[fault: status=503] SECRET-PROMPT"))
    for job in jobs:
        async for _ in job.events():
            pass
    await wait_until("its announcement", client.upstreams)
    await wait_until("its report", lambda: has_counts(client))


async def has_counts(client: Client) -> bool:
    names = {name for name, _, _ in (await client.stats()).numbers}
    return {"darkq_jobs_ended", "darkq_job_failures", "darkq_chunk_relay_seconds"} <= names


async def test_both_formats_say_the_same_and_both_parsers_take_them(
    client: Client,
    api: Api,
    fast: MakeSettings,
    start_darkai: StartDarkAI,
    start_worker: StartWorker,
) -> None:
    await busy(client, fast, start_darkai, start_worker)
    await scrape(api)  # which is counted itself
    text, openmetrics = await scrape(api), await scrape(api, openmetrics=True)
    assert text.values.keys() == openmetrics.values.keys()
    assert openmetrics.text.endswith("# EOF\n")
    for measure in MEASURES:
        family = openmetrics.families[measure.name]
        assert family.type == ("histogram" if measure.is_histogram else "counter")
    for family in openmetrics.families.values():
        assert family.name.startswith("darkq_")
        assert family.documentation.endswith(".")
        assert family.type in ("counter", "gauge", "histogram")
        assert (family.type == "histogram") <= family.name.endswith("_seconds")
        assert (family.unit == "seconds") == family.name.endswith("_seconds")
        for sample in family.samples:
            assert set(sample.labels) <= {
                *("outcome", "upstream", "code", "reason", "priority", "state", "window_seconds"),
                *("method", "route", "status", "le"),
            }
    assert "SECRET" not in text.text + openmetrics.text
    assert not any(job_id in text.text for job_id in await all_ids(client))


async def all_ids(client: Client) -> list[str]:
    jobs = await client.jobs(tenant="SECRET-TENANT") + await client.jobs()
    assert len(jobs) == 2
    return [job.job_id for job in jobs]


async def test_the_queues_are_counted_by_state_and_priority(
    api: Api, redis: Redis, hand: Hand
) -> None:
    for _ in range(3):
        await hand.enqueue()
    (await hand.claim(slots=2))[0]
    await hand.release((await hand.claim(slots=1))[0], delay_ms=60_000)
    await hand.enqueue(priority="bulk")
    late = await hand.enqueue(priority="bulk")
    seconds, _ = await redis.time()
    await redis.zadd(
        PartitionKeys(0).queue("bulk"), {late.arq_id: (seconds - 100) * 1000, "no id": 9e12}
    )
    seen = await scrape(api)
    state = {
        name.removeprefix("darkq_jobs"): value for name, value in seen.some("darkq_jobs{").items()
    }
    assert state == {
        '{priority="interactive",state="waiting"}': 0,
        '{priority="interactive",state="deferred"}': 1,
        '{priority="interactive",state="running"}': 2,
        '{priority="bulk",state="waiting"}': 2,
        '{priority="bulk",state="deferred"}': 1,
        '{priority="bulk",state="running"}': 0,
    }
    assert seen.values['darkq_oldest_waiting_job_seconds{priority="interactive"}'] == 0
    assert 100 <= seen.values['darkq_oldest_waiting_job_seconds{priority="bulk"}'] < 110


async def test_queues_of_many_partitions_are_counted_together(
    start_gateway: StartGateway, make_settings: MakeSettings
) -> None:
    api = await start_gateway(partitions=8)
    async with Client(settings=make_settings(partitions=8)) as client:
        await client.enqueue_many(["hello"] * 200)
    seen = await scrape(api)
    assert seen.values['darkq_jobs{priority="interactive",state="waiting"}'] == 200


def flat(mapping: Mapping[Any, Any]) -> list[Any]:
    return [word for pair in mapping.items() for word in pair]


async def test_what_no_worker_has_written_is_left_out(api: Api, redis: Redis) -> None:
    junk = {
        "darkq_jobs_ended:completed:darkai": "3",
        "darkq_jobs_ended:exploded:darkai": "1",
        "darkq_jobs_ended:completed:": "1",
        "darkq_jobs_ended:completed:Darkai": "1",
        'darkq_jobs_ended:completed:a"} 1\nb': "1",
        "darkq_jobs_ended:completed": "1",
        "darkq_jobs_ended:completed:darkai:x": "1",
        "darkq_job_failures:a-prompt:darkai": "1",
        "darkq_job_failures:timeout:darkai": "-1",
        "darkq_job_failures:rejected:darkai": "1.5",
        "darkq_job_failures:truncated:darkai": str(MAX_NUMBER + 1),
        "darkq_job_failures:expired:none": str(MAX_NUMBER),
        "darkq_retries:timeout:x": "١",
        "darkq_pickup_seconds:interactive:22": "1",
        "darkq_pickup_seconds:interactive:23": "1",
        "darkq_pickup_seconds:interactive:-1": "1",
        "darkq_pickup_seconds:interactive:sum": "2500000",
        "darkq_pickup_seconds:interactive": "1",
        "darkq_pickup_seconds": "1",
        "darkq_none": "1",
        "": "1",
        b"\xff": b"\xff",
    }
    await redis.execute_command("HSET", STATS, *flat(junk))
    await redis.expire(STATS, 60)
    seen = await scrape(api)
    counted = seen.some("darkq_jobs_ended", "darkq_job_failures", "darkq_retries", "darkq_pickup")
    assert {name: value for name, value in counted.items() if value} == {
        'darkq_jobs_ended_total{outcome="completed",upstream="darkai"}': 3,
        'darkq_job_failures_total{code="expired",upstream="none"}': float(MAX_NUMBER),
        'darkq_pickup_seconds_bucket{le="+Inf",priority="interactive"}': 1,
        'darkq_pickup_seconds_count{priority="interactive"}': 1,
        'darkq_pickup_seconds_sum{priority="interactive"}': 2.5,
    }


async def test_no_more_fields_are_read_than_there_can_be(
    api: Api, redis: Redis, client: Client
) -> None:
    names = {f"darkq_chunks:x{number}": 1 for number in range(MAX_FIELDS * 3)}
    await redis.execute_command("HSET", STATS, *flat(names))
    await redis.expire(STATS, 60)
    assert MAX_FIELDS <= len((await client.stats()).numbers) < MAX_FIELDS * 2
    assert len((await scrape(api)).values) < MAX_FIELDS * 2


async def test_a_key_of_another_type_in_their_place_costs_the_counts_alone(
    api: Api, redis: Redis, client: Client
) -> None:
    await redis.set(STATS, "x", ex=60)
    await sign_in(redis, "w")
    await redis.set("darkq:{workers}:w", "well", ex=60)
    await redis.set(WorkerKeys("w").stats, "x", ex=60)
    seen = await scrape(api)
    assert seen.values["darkq_gateway_redis_up"] == 1
    assert seen.values["darkq_workers"] == 1
    assert seen.values["darkq_worker_buffer_chars"] == 0
    assert not seen.some("darkq_jobs_ended_total")


async def test_announcements_cannot_add_series_without_bound(api: Api, redis: Redis) -> None:
    windows = tuple(Window(1, float(length_s)) for length_s in range(1, 50))
    names = [f"u{number}" for number in range(MAX_UPSTREAMS + 50)]
    many = [
        Served(name=name, kind="openai", default_model="m", models=("m",), windows=windows)
        for name in (*names, "A name", 'x"\n', "")
    ]
    await sign_in(redis, "w", announcement(many))
    await redis.set("darkq:{workers}:w", "well", ex=60)
    seen = await scrape(api)
    shown = {
        f'darkq_upstream_workers{{upstream="{name}"}}' for name in sorted(names)[:MAX_UPSTREAMS]
    }
    assert seen.some("darkq_upstream_workers").keys() == shown
    assert len(seen.some("darkq_upstream_window_calls{")) == MAX_UPSTREAMS * MAX_WINDOWS


async def test_the_fullest_buffer_shows(api: Api, redis: Redis) -> None:
    for number, (name, chars) in enumerate({"a": 250, "b": 750}.items()):
        await sign_in(redis, name)
        await redis.set(f"darkq:{{workers}}:{name}", "well", ex=60)
        await add(redis, name, Report(number, {}, chars, 1000))
    seen = await scrape(api)
    assert seen.values["darkq_worker_buffer_chars"] == 1000
    assert seen.values["darkq_worker_buffer_fullest_ratio"] == 0.75


async def test_without_redis_a_gateway_tells_of_itself(make_settings: MakeSettings) -> None:
    changes = {"gateway_port": 0, "redis_patience_s": 0.1, "redis_timeout_s": 0.5}
    with running(binaries()["valkey"]) as server:
        settings = make_settings(redis_url=server.url, gateway_metrics_token=TOKEN, **changes)
        open_settings = make_settings(redis_url=server.url, **changes)
        async with (
            gateway(settings) as url,
            gateway(open_settings) as open_url,
            Api(url, TOKEN) as api,
            Api(open_url) as anybody,
        ):
            assert (await scrape(api)).values["darkq_gateway_redis_up"] == 1
            server.stop()
            seen = await scrape(api)
            assert seen.values["darkq_gateway_redis_up"] == 0
            assert not [name for name in seen.values if not name.startswith("darkq_gateway_")]
            # Whether there are keys by now, nobody can tell.
            assert (await anybody("GET", "/metrics")).status == 503
