"""Checks of a server: whether it keeps what it is given."""

from __future__ import annotations

from darkq_cli.doctor.findings import Answer, Checks, ok, problem, warning, worst_of
from darkq_cli.doctor.servers import Server

_MIN_VERSION = (6, 2)
_FULL_PART = 0.95
_FILLING_PART = 0.8
_FSYNC = {
    "always": "what it acknowledges is on disk",
    "everysec": "a crash of the machine costs the last second",
}

KEEPING: Checks[Server] = Checks()


@KEEPING.check("version", by_hand="redis-server --version; it must be 6.2 or newer, or Valkey")
async def version(server: Server) -> Answer:
    info = await server.info()
    name, number = "Redis", str(info["redis_version"])
    if valkey := info.get("valkey_version"):
        name, number = "Valkey", str(valkey)
    if _parts(str(info["redis_version"])) < _MIN_VERSION:
        return problem(f"{name} {number} is too old", "Install Redis 6.2 or newer, or Valkey.")
    return ok(f"{name} {number}")


def _parts(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())


@KEEPING.check("persistence", by_hand="CONFIG GET appendonly appendfsync save")
async def persistence(server: Server) -> Answer:
    info = await server.info()
    save = await server.config_if_told("save")
    if info["aof_enabled"]:
        return _appended(await server.config_if_told("appendfsync"))
    do = "CONFIG SET appendonly yes, and `appendonly yes` in its configuration file"
    if save:
        found = f"snapshots only (save {save}): a crash costs what came since the last one"
        return warning(found, do)
    if save is None:
        return warning("appendonly is off, and whether there are snapshots it does not tell", do)
    if info["connected_slaves"]:
        return warning("nothing is on disk: jobs live as long as one of its replicas", do)
    return problem("nothing is on disk: a restart of Redis loses every job and every answer", do)


def _appended(fsync: str | None) -> Answer:
    if fsync == "no":
        return warning(
            "appendonly yes, but appendfsync no: a crash of the machine costs what the kernel had "
            "not written, often half a minute",
            "CONFIG SET appendfsync everysec, and the same in its configuration file",
        )
    if fsync is None:
        return ok("appendonly yes (appendfsync is not told)")
    return ok(f"appendonly yes, appendfsync {fsync}: {_FSYNC[fsync]}")


@KEEPING.check("disk writes", by_hand="INFO persistence: …_status must be ok")
async def disk_writes(server: Server) -> Answer:
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
            "See its log; make room on its disk, or let it write there (CONFIG GET dir); then "
            "BGSAVE or BGREWRITEAOF",
        )
    return ok("the last ones succeeded, as far as there were any")


@KEEPING.check("eviction", by_hand="CONFIG GET maxmemory-policy; it must be noeviction")
async def eviction(server: Server) -> Answer:
    info = await server.info()
    policy = info["maxmemory_policy"]
    if policy == "noeviction":
        return ok("maxmemory-policy noeviction: a full Redis refuses jobs, and loses none")
    do = "CONFIG SET maxmemory-policy noeviction, and the same in its configuration file"
    if info["maxmemory"]:
        found = f"maxmemory-policy {policy}: a full Redis throws jobs away; no worker starts on it"
        return problem(found, do)
    return warning(f"maxmemory-policy {policy}: with a maxmemory it would throw jobs away", do)


@KEEPING.check("memory", by_hand="INFO memory: used_memory, maxmemory")
async def memory(server: Server) -> Answer:
    info = await server.info()
    used, most = info["used_memory"], info["maxmemory"]
    machine = info.get("total_system_memory", 0)
    if not most:
        if server.settings.redis_url is None:
            return ok(f"{megabytes(used)} used of {megabytes(machine)} that the machine has")
        found = f"{megabytes(used)} used, and no maxmemory: the kernel kills what takes too much"
        do = "CONFIG SET maxmemory to some two thirds of its machine's memory, with noeviction"
        return warning(found, do)
    found = f"{megabytes(used)} of {megabytes(most)} used, {used / most:.0%}"
    do = (
        "Raise maxmemory; or keep less: DARKQ_RESULT_TTL_S, DARKQ_FAILED_TTL_S, "
        "DARKQ_QUEUE_MAX_JOBS"
    )
    answers = []
    if used >= _FULL_PART * most:
        answers.append(problem(f"{found}: it refuses new jobs at its bound", do))
    elif used >= _FILLING_PART * most:
        answers.append(warning(found, do))
    if machine and most > machine:
        machines = f"maxmemory is above the {megabytes(machine)} that its machine has"
        answers.append(warning(machines, "CONFIG SET maxmemory to less"))
    return worst_of(answers, otherwise=found)


def megabytes(number: int) -> str:
    """Write a number of bytes for people."""
    return f"{number / (1 << 20):,.0f} MB"
