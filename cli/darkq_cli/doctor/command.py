"""Runs the checks in order, those of each server, and prints what they find as they find it.

Where Redis does not answer, what needs it is skipped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import TypeAlias

from redis.asyncio import Redis
from redis.exceptions import RedisError

from darkq import Client, ConfigurationError, DarkqError, Settings
from darkq.redis.pool import brief
from darkq.redis.servers import servers_of
from darkq_cli.doctor import probes
from darkq_cli.doctor.connecting import CONNECTING
from darkq_cli.doctor.findings import Answer, Checks, Finding, finding, ok, problem, skipped
from darkq_cli.doctor.fleet import FLEET, Whole
from darkq_cli.doctor.keeping import KEEPING
from darkq_cli.doctor.machine import MACHINE
from darkq_cli.doctor.permissions import PERMISSIONS
from darkq_cli.doctor.report import Report
from darkq_cli.doctor.servers import Server, servers
from darkq_cli.doctor.together import TOGETHER
from darkq_cli.terminal import interrupts, messages, output, program
from darkq_cli.terminal.problems import Problem
from darkq_local.server_binary import NoServer, find_server

REDIS = "redis"
TIMEOUT_S = 5.0

SERVER: Checks[Server] = Checks(KEEPING, CONNECTING, TOGETHER, PERMISSIONS)

Examination: TypeAlias = AsyncGenerator[Finding, None]


def names() -> list[str]:
    """Return the names of all checks."""
    return [*MACHINE.names, REDIS, *SERVER.names, *FLEET.names, probes.NAME]


def doctor(*, ask_upstreams: bool, as_json: bool) -> None:
    """Look for what is wrong, and print it. Raises `Problem` when something is."""
    verdicts = interrupts.run(_print(ask_upstreams, as_json=as_json))
    counts = ", ".join(
        f"{verdicts[verdict]} {verdict}{'s' if verdicts[verdict] != 1 else ''}"
        for verdict in ("problem", "warning")
    )
    if verdicts["problem"]:
        raise Problem(counts)
    messages.say(counts, verdicts=dict(verdicts))


async def _print(ask_upstreams: bool, *, as_json: bool) -> Counter[str]:
    verdicts: Counter[str] = Counter()
    report = Report()
    show: Callable[[Finding], None] = output.write_json if as_json else report.show
    async with aclosing(_load_and_examine(ask_upstreams)) as findings:
        async for found in findings:
            verdicts[found.verdict] += 1
            show(found)
    report.end()
    return verdicts


async def _load_and_examine(ask_upstreams: bool) -> Examination:
    try:
        settings = Settings.load()
    except ConfigurationError as error:
        do = "Correct it in the environment or in .env; .env.example lists every setting"
        yield finding(MACHINE.names[0], problem(str(error), do))
    else:
        async with aclosing(examine(settings, ask_upstreams=ask_upstreams)) as findings:
            async for found in findings:
                yield found


async def examine(settings: Settings, *, ask_upstreams: bool) -> Examination:
    """Yield what each check finds."""
    async for found in MACHINE.run(settings):
        yield found
    timeout_s = min(TIMEOUT_S, settings.redis_timeout_s)
    settings = settings.model_copy(update={"redis_timeout_s": timeout_s, "redis_patience_s": 0.0})
    has_redis = True
    async with aclosing(_examine_servers(settings)) as findings:
        async for found in findings:
            has_redis = has_redis and (found.check != REDIS or found.verdict == "ok")
            yield found
    async with aclosing(_examine_fleet(settings, has_redis=has_redis)) as findings:
        async for found in findings:
            yield found
    if not ask_upstreams:
        yield finding(probes.NAME, skipped("--no-probe"))
    elif has_redis or settings.redis_url is None:
        async for found in probes.probe(settings):
            yield found
    else:
        reason = "Redis does not answer, and it knows whether their limits leave room"
        yield finding(probes.NAME, skipped(reason))


async def _examine_servers(settings: Settings) -> Examination:
    try:
        async with aclosing(servers(settings)) as found:
            async for name, redis in found:
                async with aclosing(_examine_server(name, redis, settings)) as findings:
                    async for each in findings:
                        yield each
    except ConfigurationError as error:
        answer = _absent(error, settings)
        yield finding(REDIS, answer)
        for each in SERVER.skip("Redis does not answer"):
            yield each


async def _examine_server(name: str, redis: Redis, settings: Settings) -> Examination:
    answer = await _reach(redis)
    yield finding(REDIS, answer, name)
    if answer.verdict != "ok":
        for found in SERVER.skip("Redis does not answer", name):
            yield found
        return
    async for found in SERVER.run(Server(redis, settings), name):
        yield found


async def _reach(redis: Redis) -> Answer:
    try:
        await redis.ping()
    except (RedisError, OSError) as error:
        return problem(
            f"it does not answer: {brief(error)}",
            "See that it runs, that DARKQ_REDIS_URL has its address, user and password, and that "
            "no firewall is in between",
        )
    return ok("answers")


def _absent(error: ConfigurationError, settings: Settings) -> Answer:
    if settings.redis_url is not None:
        return problem(str(error), "Correct DARKQ_REDIS_URL")
    try:
        server = find_server()
    except NoServer as none:
        return problem(str(none), "One of these")
    return skipped(
        "DARKQ_REDIS_URL is not set, and no embedded server runs here",
        f"Set it; or {program.command()} up, which starts {server.path.name} {server.dotted}",
    )


async def _examine_fleet(settings: Settings, *, has_redis: bool) -> Examination:
    if not has_redis:
        for found in FLEET.skip("Redis does not answer"):
            yield found
        return
    redis = servers_of(settings).client()
    try:
        async with Client(settings=settings) as client:
            whole = Whole(settings, redis, await client.fleet())
        async for found in FLEET.run(whole):
            yield found
    except DarkqError as error:
        for found in FLEET.skip(f"it cannot be read: {error}"):
            yield found
    finally:
        await redis.aclose()
