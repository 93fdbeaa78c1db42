"""Server checks: its replicas, and the cluster that it belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from darkq_cli.doctor.checks import CheckResult, Checks, Findings, ok, problem, skipped, warning
from darkq_cli.doctor.servers import Server

_LAG_MAX_S = 10
_SLOTS = 16384

REPLICAS: Checks[Server] = Checks()


@REPLICAS.check("replication", by_hand="INFO replication")
async def replication(server: Server) -> CheckResult:
    info = await server.info()
    if info["role"] != "master":
        return _check_replica(info, is_node=bool(info.get("cluster_enabled")))
    replicas = [each for n in range(info["connected_slaves"]) if (each := info.get(f"slave{n}"))]
    least = await server.config_or_none("min-replicas-to-write")
    findings = _find_late(replicas)
    if least and int(least):
        good = info.get("min_slaves_good_slaves", len(replicas))
        if good < int(least):
            findings.problem(
                f"{good} good replicas; with fewer than {least} it refuses all writes",
                f"Start more replicas, or CONFIG SET min-replicas-to-write {good}",
            )
    if not replicas:
        return findings.combine(otherwise="no replica: the data is only on its own disk")
    words = f"{len(replicas)} replicas, none late"
    if least == "0":
        words += (
            "; min-replicas-to-write is 0, so a failover loses writes that no replica had received"
        )
    return findings.combine(otherwise=words)


def _check_replica(info: Mapping[str, Any], *, is_node: bool) -> CheckResult:
    is_linked = info.get("master_link_status") == "up"
    found = f"it is a replica of {info.get('master_host')}:{info.get('master_port')}"
    found += "" if is_linked else ", and the link to it is down"
    if not is_node:
        return problem(f"{found}, and refuses writes", "Point DARKQ_REDIS_URL at the master")
    return ok(found) if is_linked else warning(found, "Check its log and its network")


def _find_late(replicas: list[dict[str, Any]]) -> Findings:
    late = [
        f"{each['ip']}:{each['port']} ({each['state']}, {each.get('lag', 0)} s behind)"
        for each in replicas
        if each["state"] != "online" or each.get("lag", 0) > _LAG_MAX_S
    ]
    do = "Check the log and the network of that replica"
    return Findings([warning(f"late replicas: {', '.join(late)}", do)] if late else [])


@REPLICAS.check("cluster", by_hand="CLUSTER INFO; CLUSTER NODES")
async def cluster(server: Server) -> CheckResult:
    if not (await server.info()).get("cluster_enabled"):
        return skipped("it is not part of a cluster")
    reply: Any = await server.redis.execute_command("CLUSTER", "INFO")
    info = dict(line.split(":", 1) for line in reply.decode().split() if ":" in line)
    findings = Findings()
    state, assigned = info["cluster_state"], int(info["cluster_slots_assigned"])
    down = int(info["cluster_slots_pfail"]) + int(info["cluster_slots_fail"])
    if state != "ok" or assigned < _SLOTS or down:
        findings.problem(
            f"cluster_state {state}, {assigned:,} of {_SLOTS:,} slots assigned, {down:,} of "
            "them on nodes that do not answer",
            "redis-cli --cluster check HOST:PORT, then --cluster fix",
        )
    nodes: Any = await server.redis.execute_command("CLUSTER", "NODES")
    masters, alone = _parse_masters(nodes.decode())
    if alone:
        findings.warning(
            f"masters without a replica: {', '.join(alone)}; if one fails, its slots fail",
            "redis-cli --cluster add-node NEW:PORT HOST:PORT --cluster-slave",
        )
    return findings.combine(otherwise=f"cluster_state ok, {masters} masters, each with a replica")


def _parse_masters(nodes: str) -> tuple[int, list[str]]:
    """Return how many masters hold slots, and the addresses of those without a live replica."""
    rows = [line.split() for line in nodes.splitlines()]
    masters = {row[0]: row[1].split("@")[0] for row in rows if "master" in row[2] and len(row) > 8}
    copied = {row[3] for row in rows if "slave" in row[2] and "fail" not in row[2]}
    return len(masters), [address for id_, address in masters.items() if id_ not in copied]
