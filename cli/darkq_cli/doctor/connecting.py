"""Server checks: can clients connect, and do they get fast responses."""

from __future__ import annotations

from statistics import median
from time import perf_counter, time
from typing import Any

from darkq.redis.servers import read_clock_ms
from darkq_cli.doctor.checks import CheckResult, Checks, Findings, ok, warning
from darkq_cli.doctor.servers import Server
from darkq_cli.terminal import messages
from darkq_cli.terminal.units import format_megabytes

_PINGS = 7
_SLOW_PING_MS = 20.0
_CLOCKS_DIFFER_S = 1.0
_SLOW_COMMAND_S = 0.1
_SLOW_WINDOW_S = 600
_SLOW_ENTRIES = 64
_FULL_FRACTION = 0.8
_PUBSUB_MIN_BYTES = 8 << 20
_BYTES_PER_CHAR = 4
_IDLE_MIN_S = 300
_KEEPALIVE_MAX_S = 600

CONNECTING: Checks[Server] = Checks()


@CONNECTING.check("latency", by_hand="redis-cli --latency")
async def latency(server: Server) -> CheckResult:
    took_ms = []
    for _ in range(_PINGS):
        began_s = perf_counter()
        await server.redis.ping()
        took_ms.append((perf_counter() - began_s) * 1000)
    found = f"a ping takes {median(took_ms):.1f} ms, {max(took_ms):.1f} ms at most"
    if median(took_ms) > _SLOW_PING_MS:
        return warning(found, "Run workers and gateways near Redis: every chunk passes through it")
    return ok(found)


@CONNECTING.check("slow commands", by_hand="SLOWLOG GET 10")
async def slow_commands(server: Server) -> CheckResult:
    now_s = await read_clock_ms(server.redis) / 1000
    entries: list[dict[str, Any]] = await server.redis.slowlog_get(_SLOW_ENTRIES)
    recent = [entry for entry in entries if now_s - entry["start_time"] <= _SLOW_WINDOW_S]
    slow = [entry for entry in recent if entry["duration"] >= _SLOW_COMMAND_S * 1e6]
    if not slow:
        return ok("none above 0.1 s in the last ten minutes, according to its slow log")
    # Only the first word: the arguments may hold prompts, or data of other applications.
    commands = {bytes(entry["command"]).split(b" ")[0] for entry in slow}
    names = ", ".join(sorted(command.decode(errors="replace") for command in commands))
    worst_s = max(entry["duration"] for entry in slow) / 1e6
    return warning(
        f"{len(slow)} in the last ten minutes, up to {worst_s:.1f} s, which block all clients: "
        f"{messages.replace_controls(names)}",
        "SLOWLOG GET shows them in full. Keep KEYS and long scripts of other applications off "
        "this Redis",
    )


@CONNECTING.check("clock", by_hand="redis-cli time; date +%s")
async def clock(server: Server) -> CheckResult:
    began_s = time()
    redis_s = await read_clock_ms(server.redis) / 1000
    ended_s = time()
    # Redis read its clock between the two readings of ours, so half their distance is unsure.
    ahead_s = (began_s + ended_s) / 2 - redis_s
    unsure_s = (ended_s - began_s) / 2
    if abs(ahead_s) - unsure_s < _CLOCKS_DIFFER_S:
        return ok(f"the clock of this machine differs from that of Redis by {abs(ahead_s):.3f} s")
    where = "ahead of" if ahead_s > 0 else "behind"
    return warning(
        f"the clock of this machine is {abs(ahead_s):,.1f} s {where} that of Redis. Leases, the "
        "order of jobs and expiry use the clock of Redis. Times in events, results and lists, and "
        "the expiry of batches over files, do not",
        "Synchronise both with NTP: timedatectl set-ntp true",
    )


@CONNECTING.check("output buffers", by_hand="CONFIG GET client-output-buffer-limit")
async def output_buffers(server: Server) -> CheckResult:
    words = (await server.config("client-output-buffer-limit")).split()
    # The hard limit of each class in bytes; 0 means none.
    limits = {words[n]: int(words[n + 1]) for n in range(0, len(words) - 3, 4)}
    findings = Findings()
    most = server.settings.max_result_chars * _BYTES_PER_CHAR
    if 0 < (normal := limits.get("normal", 0)) < most:
        findings.problem(
            f"normal clients are disconnected at {format_megabytes(normal)}, and an answer can "
            f"have {format_megabytes(most)} (DARKQ_MAX_RESULT_CHARS)",
            'CONFIG SET client-output-buffer-limit "normal 0 0 0"',
        )
    pubsub = limits.get("pubsub", 0)
    do = 'CONFIG SET client-output-buffer-limit "pubsub 33554432 8388608 60"'
    found = f"subscribers are disconnected at {format_megabytes(pubsub)}"
    if not pubsub:
        found = "the buffer of a subscriber has no limit: a slow one can fill the memory of Redis"
        findings.warning(found, do)
    elif pubsub < _PUBSUB_MIN_BYTES:
        why = "a busy gateway often is, and then reads the event logs again"
        findings.warning(f"{found}: {why}", do)
    return findings.combine(otherwise=f"{found}, and continue from the logs")


@CONNECTING.check("connections", by_hand="INFO clients: connected_clients; CONFIG GET maxclients")
async def connections(server: Server) -> CheckResult:
    info = await server.info()
    most, now = info.get("maxclients"), info["connected_clients"]
    if most is None:
        most = int(await server.config("maxclients"))
    pool = server.settings.redis_connections
    worker, gateway = 2 * pool + 5, pool + 1
    found = f"{now:,} of {most:,}; a worker opens up to {worker}, a gateway {gateway}"
    do = "Raise maxclients with CONFIG SET (ulimit -n of the server must be higher), or lower "
    do += "DARKQ_REDIS_CONNECTIONS"
    findings = Findings()
    if most - now < worker:
        findings.problem(f"{found}: too few are left for another worker", do)
    elif now > _FULL_FRACTION * most:
        findings.warning(found, do)
    if refused := info["rejected_connections"]:
        findings.warning(f"{refused:,} were refused since Redis started", do)
    return findings.combine(otherwise=found)


@CONNECTING.check("idle timeout", by_hand="CONFIG GET timeout")
async def idle_timeout(server: Server) -> CheckResult:
    after_s = int(await server.config("timeout"))
    if 0 < after_s < _IDLE_MIN_S:
        return warning(
            f"Redis closes connections that are idle for {after_s} s; the next call has to connect "
            "again",
            "CONFIG SET timeout 0; tcp-keepalive detects dead connections",
        )
    return ok("idle connections stay open" + (f" for {after_s} s" if after_s else ""))


@CONNECTING.check("tcp keepalive", by_hand="CONFIG GET tcp-keepalive")
async def tcp_keepalive(server: Server) -> CheckResult:
    after_s = int(await server.config("tcp-keepalive"))
    if server.is_local:
        return ok("a unix socket needs no keepalive")
    if not 0 < after_s <= _KEEPALIVE_MAX_S:
        return warning(
            f"tcp-keepalive is {after_s}: Redis keeps connections of machines that have failed",
            "CONFIG SET tcp-keepalive 300",
        )
    return ok(f"Redis checks for dead connections every {after_s} s")
