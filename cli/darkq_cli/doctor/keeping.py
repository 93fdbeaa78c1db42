"""Server checks: does it keep its data."""

from __future__ import annotations

from darkq_cli.doctor.checks import CheckResult, Checks, Findings, ok, problem, warning
from darkq_cli.doctor.servers import Server
from darkq_cli.terminal.units import format_megabytes

_MIN_VERSION = (6, 2)
_FULL_FRACTION = 0.95
_HIGH_FRACTION = 0.8
_FSYNC = {
    "always": "acknowledged writes are on disk",
    "everysec": "a crash of the machine loses the last second",
}

KEEPING: Checks[Server] = Checks()


@KEEPING.check("version", by_hand="redis-server --version; it must be 6.2 or newer, or Valkey")
async def version(server: Server) -> CheckResult:
    info = await server.info()
    name, number = "Redis", str(info["redis_version"])
    if valkey := info.get("valkey_version"):
        name, number = "Valkey", str(valkey)
    parts = str(info["redis_version"]).split(".")[:2]
    if tuple(int(part) for part in parts if part.isdigit()) < _MIN_VERSION:
        return problem(f"{name} {number} is too old", "Install Redis 6.2 or newer, or Valkey.")
    return ok(f"{name} {number}")


@KEEPING.check("persistence", by_hand="CONFIG GET appendonly appendfsync save")
async def persistence(server: Server) -> CheckResult:
    info = await server.info()
    save = await server.config_or_none("save")
    if info["aof_enabled"]:
        return _check_fsync(await server.config_or_none("appendfsync"))
    do = "CONFIG SET appendonly yes, and `appendonly yes` in its configuration file"
    if save:
        found = f"snapshots only (save {save}): a crash loses all writes since the last one"
        return warning(found, do)
    if save is None:
        return warning(
            "appendonly is off, and the server does not tell whether it takes snapshots", do
        )
    if info["connected_slaves"]:
        return warning("nothing is on disk: jobs are lost with the last of its replicas", do)
    return problem("nothing is on disk: a restart of Redis loses all jobs and results", do)


def _check_fsync(fsync: str | None) -> CheckResult:
    if fsync == "no":
        return warning(
            "appendonly yes, but appendfsync no: a crash of the machine loses what the kernel had "
            "not written, often half a minute",
            "CONFIG SET appendfsync everysec, and the same in its configuration file",
        )
    if fsync is None:
        return ok("appendonly yes (the server does not tell appendfsync)")
    return ok(f"appendonly yes, appendfsync {fsync}: {_FSYNC[fsync]}")


@KEEPING.check("disk writes", by_hand="INFO persistence: …_status must be ok")
async def disk_writes(server: Server) -> CheckResult:
    info = await server.info()
    names = {
        "rdb_last_bgsave_status": "the last snapshot",
        "aof_last_bgrewrite_status": "the last rewrite of the append-only file",
        "aof_last_write_status": "the last write to the append-only file",
    }
    failed = [words for name, words in names.items() if info.get(name, "ok") != "ok"]
    if failed:
        return problem(
            f"failed: {', '.join(failed)}; Redis may refuse all writes until it succeeds",
            "See its log. Free disk space, or let it write to its directory (CONFIG GET dir). Then "
            "BGSAVE or BGREWRITEAOF",
        )
    return ok("the last ones succeeded, if there were any")


@KEEPING.check("eviction", by_hand="CONFIG GET maxmemory-policy; it must be noeviction")
async def eviction(server: Server) -> CheckResult:
    info = await server.info()
    policy = info["maxmemory_policy"]
    if policy == "noeviction":
        return ok("maxmemory-policy noeviction: a full Redis refuses jobs instead of deleting them")
    do = "CONFIG SET maxmemory-policy noeviction, and the same in its configuration file"
    if info["maxmemory"]:
        found = f"maxmemory-policy {policy}: a full Redis deletes jobs; workers refuse to start"
        return problem(found, do)
    return warning(f"maxmemory-policy {policy}: with a maxmemory it would delete jobs", do)


@KEEPING.check("memory", by_hand="INFO memory: used_memory, maxmemory")
async def memory(server: Server) -> CheckResult:
    info = await server.info()
    used, most = info["used_memory"], info["maxmemory"]
    machine = info.get("total_system_memory", 0)
    if not most:
        if server.settings.redis_url is None:
            return ok(f"{format_megabytes(used)} used of the machine's {format_megabytes(machine)}")
        found = f"{format_megabytes(used)} used, and no maxmemory: the kernel may kill Redis"
        do = "CONFIG SET maxmemory to about two thirds of the machine's memory, with noeviction"
        return warning(found, do)
    found = f"{format_megabytes(used)} of {format_megabytes(most)} used, {used / most:.0%}"
    do = (
        "Raise maxmemory; or store less: DARKQ_RESULT_TTL_S, DARKQ_FAILED_TTL_S, "
        "DARKQ_QUEUE_MAX_JOBS"
    )
    findings = Findings()
    if used >= _FULL_FRACTION * most:
        findings.problem(f"{found}: at the limit it refuses new jobs", do)
    elif used >= _HIGH_FRACTION * most:
        findings.warning(found, do)
    if machine and most > machine:
        too_high = f"maxmemory is above the machine's {format_megabytes(machine)}"
        findings.warning(too_high, "Lower maxmemory with CONFIG SET")
    return findings.combine(otherwise=found)
