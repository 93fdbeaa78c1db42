"""Commands, pipelines and scripts go to the server that has their key, wherever that is."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from redis.crc import key_slot
from redis.exceptions import ConnectionError, ResponseError

from darkq import Client, ConfigurationError, Settings
from darkq.protocol.keys import JobKeys, PartitionKeys, absent_key
from darkq.redis import scripts
from darkq.redis.cluster_client import ClusterRedis
from darkq.redis.servers import each_server, servers_of
from darkq_worker.main import run_worker
from support.by_hand import Hand, chunk, put, started
from support.cluster import RealCluster
from support.daemon import Daemon, free_ports
from support.servers import binaries
from support.waiting import wait_until

from .conftest import client_of

pytestmark = pytest.mark.slow


async def test_each_key_is_where_it_belongs(redis: ClusterRedis) -> None:
    for n in range(50):
        await redis.set(f"k{n}", n, ex=60)
    assert [await redis.get(f"k{n}") for n in range(50)] == [str(n).encode() for n in range(50)]
    sizes = [await server.dbsize() for _, server in await each_server(redis)]
    assert sum(sizes) == 50
    assert all(sizes)


async def test_a_pipeline_goes_everywhere_and_answers_in_order(redis: ClusterRedis) -> None:
    async with redis.pipeline(transaction=False) as pipe:
        for n in range(100):
            pipe.set(f"k{n}", n, ex=60)
            pipe.time()
            pipe.get(f"k{n}")
        replies = await pipe.execute()
    assert replies[2::3] == [str(n).encode() for n in range(100)]
    assert all(isinstance(seconds, int) for seconds, _ in replies[1::3])


async def test_an_error_in_a_pipeline_is_the_commands_own(redis: ClusterRedis) -> None:
    await redis.set("text", "x", ex=60)
    pipe = redis.pipeline(transaction=False)
    pipe.incr("text")
    pipe.get("text")
    error, text = await pipe.execute(raise_on_error=False)
    assert isinstance(error, ResponseError)
    assert text == b"x"
    pipe.incr("text")
    with pytest.raises(ResponseError, match="not an integer"):
        await pipe.execute()


async def test_a_transaction_is_one_within_a_slot(redis: ClusterRedis) -> None:
    async with redis.pipeline(transaction=True) as pipe:
        pipe.set("{a}1", "x", ex=60)
        pipe.get("{a}1")
        pipe.time()
        assert (await pipe.execute())[:2] == [True, b"x"]
        pipe.set("{a}1", "x", ex=60)
        pipe.set("{b}1", "x", ex=60)
        with pytest.raises(ValueError, match="share a slot"):
            await pipe.execute()


async def test_a_stale_client_finds_what_has_moved(cluster: RealCluster) -> None:
    """Single commands, pipelines and transactions; then back, for the tests that follow."""
    slot = key_slot(b"{moved}")
    source = await cluster.owner_of_slot(slot)
    target = next(node for node in await cluster.masters() if node is not source)
    redis = client_of(cluster)
    await redis.set("{moved}1", "x", ex=60)
    await cluster.move(slot, target)
    try:
        assert await redis.get("{moved}1") == b"x"
        stale = [client_of(cluster) for _ in range(2)]
        for client in stale:
            await client.get("{moved}1")
        await cluster.move(slot, source)
        async with stale[0].pipeline(transaction=False) as pipe:
            pipe.get("{moved}1")
            pipe.get("elsewhere")
            assert await pipe.execute() == [b"x", None]
        async with stale[1].pipeline(transaction=True) as pipe:
            pipe.get("{moved}1")
            assert await pipe.execute() == [b"x"]
        await asyncio.gather(*(client.aclose() for client in stale))
    finally:
        await redis.aclose()
        if not await source.has(slot):
            await cluster.move(slot, source)


async def test_while_a_slot_is_on_the_move(cluster: RealCluster, redis: ClusterRedis) -> None:
    """Single keys are found on either side. Scripts are refused as a whole, and wait."""
    keys = JobKeys.new(3)
    slot = key_slot(b"3")
    await put(redis, JobKeys.new(3))
    source = await cluster.owner_of_slot(slot)
    target = next(node for node in await cluster.masters() if node is not source)
    await cluster.begin_move(slot, target)
    try:
        assert await redis.exists(PartitionKeys(3).queue("interactive")) == 1
        await redis.set("{3}new", "x", ex=60)  # which the source has not: it is made at the target
        assert await redis.get("{3}new") == b"x"
        before = await source.ask("DBSIZE"), await target.ask("DBSIZE")
        enqueueing = asyncio.create_task(put(redis, keys))
        impatient = client_of(cluster, redis_patience_s=0.2)
        with pytest.raises(ConnectionError, match=r"TRYAGAIN|ASK"):
            await put(impatient, JobKeys.new(3))
        await impatient.aclose()
        assert (await source.ask("DBSIZE"), await target.ask("DBSIZE")) == before
        assert not enqueueing.done()
        await cluster.end_move(slot, source, target)
        ((verdict, _),) = await enqueueing
        assert verdict == "new"
        assert await redis.zcard(PartitionKeys(3).queue("interactive")) == 2
    finally:
        await cluster.move(slot, source)


async def test_a_script_does_not_run_where_some_of_its_keys_have_gone(
    cluster: RealCluster, redis: ClusterRedis
) -> None:
    """Red without the key that never exists: the one key that `append` declares is there, and the
    other that it looks at is not; the attempt would seem to be nobody's.
    """
    hand, slot = Hand(redis), key_slot(b"0")
    claim = await hand.take()
    source = await cluster.owner_of_slot(slot)
    target = next(node for node in await cluster.masters() if node is not source)
    await cluster.begin_move(slot, target)
    try:
        await source.ask("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", claim.keys.retry)
        impatient = client_of(cluster, redis_patience_s=0.2)
        with pytest.raises(ConnectionError, match=r"TRYAGAIN"):
            await Hand(impatient).append(claim, started(1), chunk(1, 1))
        await impatient.aclose()
        appending = asyncio.create_task(hand.append(claim, started(1), chunk(1, 1)))
        await cluster.end_move(slot, source, target)
        assert await appending == []
        assert await redis.xlen(claim.keys.events) == 3
    finally:
        await cluster.move(slot, source)


async def test_a_script_comes_by_itself_to_each_server(redis: ClusterRedis) -> None:
    for partition in range(8):
        keys = JobKeys.new(partition)
        assert (await put(redis, keys))[0].verdict == "new"
        assert await redis.exists(absent_key(keys.job)) == 0
        await redis.delete(PartitionKeys(partition).queue("interactive"))


async def test_a_dead_server_is_waited_for_as_long_as_there_is_patience(
    own_cluster: RealCluster,
) -> None:
    redis = client_of(own_cluster, redis_patience_s=30)
    await redis.set("k", "x", ex=600)
    await wait_until("a replica in step", own_cluster.replicated)
    impatient = client_of(own_cluster, redis_patience_s=0.001)
    await impatient.get("k")
    dead = await own_cluster.owner("k")
    dead.kill()
    with pytest.raises(ConnectionError):
        await impatient.get("k")
    assert await redis.get("k") == b"x", "its replica has taken its place"
    await asyncio.gather(redis.aclose(), impatient.aclose())


async def test_servers_that_are_not_there() -> None:
    nobody = Settings(_env_file=None, redis_url="redis+cluster://127.0.0.1:1", redis_patience_s=0.1)
    redis = servers_of(nobody).client()
    with pytest.raises(ConnectionError, match="no node of the cluster answers"):
        await redis.ping()
    await redis.aclose()


async def test_one_server_is_no_cluster(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    server = Daemon(tmp_path, port, [str(binaries()["valkey"]), "--port", str(port)])
    await server.start()
    try:
        redis = servers_of(Settings(_env_file=None, redis_url=f"redis+cluster://127.0.0.1:{port}"))
        with pytest.raises(ConfigurationError, match=f"redis://127.0.0.1:{port}"):
            await redis.client().ping()
    finally:
        server.end()


async def test_a_wake_up_is_heard_by_shard_subscribers(redis: ClusterRedis) -> None:
    """`make_due` publishes as every script does, to the shard or to all."""
    keys = JobKeys.new(5)
    await put(redis, keys)
    gone = await scripts.make_due(redis, 5, [scripts.Turn(keys.arq_id.encode(), 0, 1)])
    assert gone == []


def test_a_cluster_is_not_asked_before_it_is_used() -> None:
    settings = Settings(_env_file=None, redis_url="redis+cluster://127.0.0.1:1")
    assert servers_of(settings).is_cluster
    with pytest.raises(ConfigurationError, match="DARKQ_REDIS_URL"):
        servers_of(Settings(_env_file=None, redis_url="redis+cluster://:hunter2@127.0.0.1/7"))


async def test_a_url_that_names_one_server_of_a_cluster(cluster: RealCluster) -> None:
    settings = Settings(_env_file=None, redis_url=f"redis://127.0.0.1:{cluster.nodes[0].port}")
    async with Client(settings=settings) as client:
        asked = (client.job(f"{n}-{'0' * 32}").status() for n in range(9))
        errors = await asyncio.gather(*asked, return_exceptions=True)
        refused = [str(error) for error in errors if isinstance(error, ConfigurationError)]
        assert refused
        assert all("redis+cluster://" in text for text in refused)
    with pytest.raises(ConfigurationError, match=r"redis\+cluster://"):
        await run_worker(settings, handle_signals=False)
