"""Checks of a server: whether it can be reached, quickly and by all."""

from __future__ import annotations

from statistics import median
from time import perf_counter, time
from typing import Any

from darkq.redis.servers import read_clock_ms
from darkq_cli.doctor.findings import Answer, Checks, ok, problem, warning, worst_of
from darkq_cli.doctor.keeping import megabytes
from darkq_cli.doctor.servers import Server
from darkq_cli.terminal import messages

_PINGS = 7
_SLOW_PING_MS = 20.0
_CLOCKS_DIFFER_S = 1.0
_SLOW_COMMAND_S = 0.1
_SLOW_LATELY_S = 600
_SLOW_ENTRIES = 64
_TIGHT_PART = 0.8
_PUBSUB_MIN_BYTES = 8 << 20
_BYTES_PER_CHAR = 4
_IDLE_MIN_S = 300
_KEEPALIVE_MAX_S = 600

CONNECTING: Checks[Server] = Checks()


@CONNECTING.check("latency", by_hand="redis-cli --latency")
async def latency(server: Server) -> Answer:
    took_ms = []
    for _ in range(_PINGS):
        began_s = perf_counter()
        await server.redis.ping()
        took_ms.append((perf_counter() - began_s) * 1000)
    found = f"a ping takes {median(took_ms):.1f} ms, {max(took_ms):.1f} ms at most"
    if median(took_ms) > _SLOW_PING_MS:
        return warning(found, "Run workers and gateways near Redis: chunks go by it, one by one")
    return ok(found)


@CONNECTING.check("slow commands", by_hand="SLOWLOG GET 10")
async def slow_commands(server: Server) -> Answer:
    now_s = await read_clock_ms(server.redis) / 1000
    entries: list[dict[str, Any]] = await server.redis.slowlog_get(_SLOW_ENTRIES)
    late = [entry for entry in entries if now_s - entry["start_time"] <= _SLOW_LATELY_S]
    slow = [entry for entry in late if entry["duration"] >= _SLOW_COMMAND_S * 1e6]
    if not slow:
        return ok("none above 0.1 s in the last ten minutes, as far as its slow log tells")
    # The words after the first may be anybody's data.
    commands = {bytes(entry["command"]).split(b" ")[0] for entry in slow}
    names = ", ".join(sorted(command.decode(errors="replace") for command in commands))
    worst_s = max(entry["duration"] for entry in slow) / 1e6
    return warning(
        f"{len(slow)} in the last ten minutes, up to {worst_s:.1f} s, in which everybody waits: "
        f"{messages.harmless(names)}",
        "SLOWLOG GET shows them whole. Keep KEYS and big scripts of others away from this Redis",
    )


@CONNECTING.check("clock", by_hand="redis-cli time; date +%s")
async def clock(server: Server) -> Answer:
    began_s = time()
    redis_s = await read_clock_ms(server.redis) / 1000
    ended_s = time()
    ahead_s = (began_s + ended_s) / 2 - redis_s
    unsure_s = (ended_s - began_s) / 2
    if abs(ahead_s) - unsure_s < _CLOCKS_DIFFER_S:
        return ok(f"this machine's differs from that of Redis by {abs(ahead_s):.3f} s")
    where = "ahead of" if ahead_s > 0 else "behind"
    return warning(
        f"this machine's is {abs(ahead_s):,.1f} s {where} that of Redis. Leases, turns and expiry "
        "go by that of Redis; times in events, results and lists, and when batches over files "
        "expire, do not",
        "Keep both by NTP: timedatectl set-ntp true",
    )


@CONNECTING.check("output buffers", by_hand="CONFIG GET client-output-buffer-limit")
async def output_buffers(server: Server) -> Answer:
    limits = _limits(await server.config("client-output-buffer-limit"))
    answers = []
    most = server.settings.max_result_chars * _BYTES_PER_CHAR
    if 0 < (normal := limits.get("normal", 0)) < most:
        answers.append(
            problem(
                f"normal clients are cut off at {megabytes(normal)}, and an answer may have "
                f"{megabytes(most)} (DARKQ_MAX_RESULT_CHARS)",
                'CONFIG SET client-output-buffer-limit "normal 0 0 0"',
            )
        )
    pubsub = limits.get("pubsub", 0)
    do = 'CONFIG SET client-output-buffer-limit "pubsub 33554432 8388608 60"'
    if not pubsub:
        found = "what waits for a subscriber has no bound: one that hangs fills the memory of Redis"
        answers.append(warning(found, do))
    elif pubsub < _PUBSUB_MIN_BYTES:
        found = (
            f"subscribers are cut off at {megabytes(pubsub)}: a busy gateway is, again and again, "
            "and reads its logs anew"
        )
        answers.append(warning(found, do))
    words = f"subscribers are cut off at {megabytes(pubsub)}, and go on from the logs"
    return worst_of(answers, otherwise=words)


def _limits(text: str) -> dict[str, int]:
    """Return the hard limit of each class, in bytes; 0 is none."""
    words = text.split()
    return {words[n]: int(words[n + 1]) for n in range(0, len(words) - 3, 4)}


@CONNECTING.check("connections", by_hand="INFO clients: connected_clients; CONFIG GET maxclients")
async def connections(server: Server) -> Answer:
    info = await server.info()
    most, now = info.get("maxclients"), info["connected_clients"]
    if most is None:
        most = int(await server.config("maxclients"))
    pool = server.settings.redis_connections
    worker, gateway = 2 * pool + 5, pool + 1
    found = f"{now:,} of {most:,}; a worker opens up to {worker}, a gateway {gateway}"
    do = "CONFIG SET maxclients to more (its ulimit -n must be above that), or fewer "
    do += "DARKQ_REDIS_CONNECTIONS"
    answers = []
    if most - now < worker:
        answers.append(problem(f"{found}: there is no room for one more worker", do))
    elif now > _TIGHT_PART * most:
        answers.append(warning(found, do))
    if refused := info["rejected_connections"]:
        answers.append(warning(f"{refused:,} were refused since Redis was started", do))
    return worst_of(answers, otherwise=found)


@CONNECTING.check("idle timeout", by_hand="CONFIG GET timeout")
async def idle_timeout(server: Server) -> Answer:
    after_s = int(await server.config("timeout"))
    if 0 < after_s < _IDLE_MIN_S:
        return warning(
            f"Redis closes connections that were idle for {after_s} s; darkq opens them again, and "
            "the call in between waits for that",
            "CONFIG SET timeout 0; tcp-keepalive finds dead connections",
        )
    return ok("idle connections are kept" + (f" for {after_s} s" if after_s else ""))


@CONNECTING.check("tcp keepalive", by_hand="CONFIG GET tcp-keepalive")
async def tcp_keepalive(server: Server) -> Answer:
    after_s = int(await server.config("tcp-keepalive"))
    if server.is_local:
        return ok("a unix socket needs none")
    if not 0 < after_s <= _KEEPALIVE_MAX_S:
        return warning(
            f"tcp-keepalive is {after_s}: Redis keeps the connections of machines that are gone",
            "CONFIG SET tcp-keepalive 300",
        )
    return ok(f"Redis looks for dead connections every {after_s} s")
