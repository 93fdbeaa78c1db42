"""What `darkq doctor` finds in a cluster: each node is looked at, replicas too."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

from support.cluster import RealCluster, running_cluster
from support.servers import binaries


async def examine(cluster: RealCluster, folder: Path) -> list[dict[str, str]]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "darkq_cli", "doctor", "--json", "--no-probe"),
        env={
            **os.environ,
            "DARKQ_REDIS_URL": cluster.url,
            "DARKQ_STATE_DIR": str(folder / "state"),
            "DARKQ_PARTITIONS": "4",
        },
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    return [json.loads(line) for line in out.splitlines()]


async def test_each_node_is_looked_at(tmp_path: Path) -> None:
    async with running_cluster(binaries()["valkey"]) as cluster:
        found = await examine(cluster, tmp_path)
        reached = [each for each in found if each["check"] == "redis"]
        assert len(reached) == len(cluster.nodes)
        assert {each["verdict"] for each in reached} == {"ok"}
        whole = [each for each in found if each["check"] == "cluster"]
        assert {each["verdict"] for each in whole} == {"ok"}, whole
        (replica, *_) = [node for node in cluster.nodes if await node.role() == b"slave"]
        replica.kill()
        found = await examine(cluster, tmp_path)
        # It does not answer, or is not told of any more: then its master has no replica.
        told = [each for each in found if each["check"] in ("redis", "cluster", "replication")]
        assert {each["verdict"] for each in told} > {"ok"}, told
