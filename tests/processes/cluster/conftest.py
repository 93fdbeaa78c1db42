"""A real cluster of three masters with a replica each, and settings that name it."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from darkq import Client, Settings
from darkq.redis.cluster_client import ClusterRedis
from darkq.redis.servers import each_server, servers_of
from support.cluster import RealCluster, build, prepared_cluster, running_cluster
from support.leaks import keys_without_ttl
from support.servers import binaries

PARTITIONS = 8

MakeSettings = Callable[..., Settings]


@pytest.fixture(scope="session", params=sorted(binaries()))
def shared_cluster(request: pytest.FixtureRequest) -> Iterator[RealCluster]:
    """A cluster for tests that leave it as it was; on Valkey, and on a Redis before 7."""
    with tempfile.TemporaryDirectory(prefix="darkq-cluster-") as name:
        binary = binaries()[request.param]
        made = prepared_cluster(binary, Path(name), masters=3, replicas=1)
        try:
            asyncio.run(build(made, 3))
            yield made
        finally:
            made.end()


@pytest.fixture
async def cluster(shared_cluster: RealCluster) -> AsyncIterator[RealCluster]:
    """The shared cluster, empty; afterwards every key left must have a time to live."""
    for node in await shared_cluster.masters():
        await node.ask("FLUSHALL")
    yield shared_cluster
    redis = client_of(shared_cluster)
    for _, server in await each_server(redis):
        leaked = await keys_without_ttl(server)
        assert not leaked, f"keys without a time to live: {leaked}"
    await redis.aclose()


@pytest.fixture
async def own_cluster() -> AsyncIterator[RealCluster]:
    """A cluster that a test may break."""
    async with running_cluster(binaries()["valkey"]) as cluster:
        yield cluster


def client_of(cluster: RealCluster, **changes: Any) -> ClusterRedis:
    """Return a client as darkq's; whoever asked closes it."""
    made = servers_of(Settings(_env_file=None, redis_url=cluster.url, **changes)).client()
    assert isinstance(made, ClusterRedis)
    return made


@pytest.fixture
def settings_of(tmp_path: Path) -> Callable[..., Settings]:
    """Make settings from arguments alone, on a cluster."""

    def make(cluster: RealCluster, **changes: Any) -> Settings:
        defaults = {
            "redis_url": cluster.url,
            "state_dir": tmp_path / "state",
            "partitions": PARTITIONS,
            "redis_patience_s": 20,
        }
        return Settings(_env_file=None, **{**defaults, **changes})

    return make


@pytest.fixture
def settings(settings_of: MakeSettings, cluster: RealCluster) -> Settings:
    return settings_of(cluster)


@pytest.fixture
async def client(settings: Settings) -> AsyncIterator[Client]:
    async with Client(settings=settings) as client:
        yield client


@pytest.fixture
async def redis(cluster: RealCluster) -> AsyncIterator[ClusterRedis]:
    client = client_of(cluster)
    yield client
    await client.aclose()
