"""Checks of a server: its replicas, and the cluster that it is part of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from darkq_cli.doctor.findings import Answer, Checks, ok, problem, skipped, warning, worst_of
from darkq_cli.doctor.servers import Server

_LAG_MAX_S = 10
_SLOTS = 16384

TOGETHER: Checks[Server] = Checks()


@TOGETHER.check("replication", by_hand="INFO replication")
async def replication(server: Server) -> Answer:
    info = await server.info()
    if info["role"] != "master":
        return _of_replica(info, is_node=bool(info.get("cluster_enabled")))
    replicas = [each for n in range(info["connected_slaves"]) if (each := info.get(f"slave{n}"))]
    least = await server.config_if_told("min-replicas-to-write")
    answers = [*_behind(replicas)]
    if least and int(least):
        good = info.get("min_slaves_good_slaves", len(replicas))
        if good < int(least):
            answers.append(
                problem(
                    f"{good} good replicas, and without {least} it refuses all writes",
                    f"Bring replicas back, or CONFIG SET min-replicas-to-write {good}",
                )
            )
    if not replicas:
        return worst_of(answers, otherwise="no replica: its own disk is all there is")
    words = f"{len(replicas)} replicas, none behind"
    if least == "0":
        words += "; min-replicas-to-write is 0, so a failover loses what no replica had yet"
    return worst_of(answers, otherwise=words)


def _of_replica(info: Mapping[str, Any], *, is_node: bool) -> Answer:
    is_linked = info.get("master_link_status") == "up"
    found = f"it is a replica of {info.get('master_host')}:{info.get('master_port')}"
    found += "" if is_linked else ", to which its link is down"
    if not is_node:
        return problem(f"{found}, and refuses writes", "Point DARKQ_REDIS_URL at the master")
    return ok(found) if is_linked else warning(found, "See its log, and its network")


def _behind(replicas: list[dict[str, Any]]) -> list[Answer]:
    late = [
        f"{each['ip']}:{each['port']} ({each['state']}, {each.get('lag', 0)} s behind)"
        for each in replicas
        if each["state"] != "online" or each.get("lag", 0) > _LAG_MAX_S
    ]
    do = "See the log of that replica, and its network"
    return [warning(f"late replicas: {', '.join(late)}", do)] if late else []


@TOGETHER.check("cluster", by_hand="CLUSTER INFO; CLUSTER NODES")
async def cluster(server: Server) -> Answer:
    if not (await server.info()).get("cluster_enabled"):
        return skipped("it is part of none")
    told: Any = await server.redis.execute_command("CLUSTER", "INFO")
    info = dict(line.split(":", 1) for line in told.decode().split() if ":" in line)
    answers = []
    state, assigned = info["cluster_state"], int(info["cluster_slots_assigned"])
    down = int(info["cluster_slots_pfail"]) + int(info["cluster_slots_fail"])
    if state != "ok" or assigned < _SLOTS or down:
        answers.append(
            problem(
                f"cluster_state {state}, {assigned:,} of {_SLOTS:,} slots assigned, {down:,} of "
                "them on nodes that do not answer",
                "redis-cli --cluster check HOST:PORT, then --cluster fix",
            )
        )
    nodes: Any = await server.redis.execute_command("CLUSTER", "NODES")
    masters, alone = _masters(nodes.decode())
    if alone:
        answers.append(
            warning(
                f"without a replica: {', '.join(alone)}; when one is lost, so are its slots",
                "redis-cli --cluster add-node NEW:PORT HOST:PORT --cluster-slave",
            )
        )
    return worst_of(answers, otherwise=f"cluster_state ok, {masters} masters, each with a replica")


def _masters(nodes: str) -> tuple[int, list[str]]:
    """Return how many masters hold slots, and the addresses of those without a live replica."""
    rows = [line.split() for line in nodes.splitlines()]
    masters = {row[0]: row[1].split("@")[0] for row in rows if "master" in row[2] and len(row) > 8}
    copied = {row[3] for row in rows if "slave" in row[2] and "fail" not in row[2]}
    return len(masters), [address for id_, address in masters.items() if id_ not in copied]
