"""Runs all checks in order, those of a server for each server, and yields their results.

When Redis does not answer, the checks that need it are skipped.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TypeAlias

from redis.asyncio import Redis
from redis.exceptions import RedisError

from darkq import Client, ConfigurationError, DarkqError, Settings
from darkq.redis.connect_errors import CannotConnect, Cause
from darkq.redis.pool import brief
from darkq.redis.servers import servers_of
from darkq_cli.doctor import probes
from darkq_cli.doctor.checks import CheckResult, Checks, ok, problem, skipped
from darkq_cli.doctor.connecting import CONNECTING
from darkq_cli.doctor.fleet import FLEET, FleetSubject
from darkq_cli.doctor.keeping import KEEPING
from darkq_cli.doctor.machine import MACHINE
from darkq_cli.doctor.permissions import PERMISSIONS
from darkq_cli.doctor.replicas import REPLICAS
from darkq_cli.doctor.servers import Server, open_servers
from darkq_cli.terminal import program
from darkq_cli.terminal.local_darkai import use_running_darkai
from darkq_cli.terminal.redis import shorten_timeouts
from darkq_local.server_binary import NoServer, find_server

REDIS = "redis"
TIMEOUT_S = 5.0
_NO_REDIS = "no answer from Redis"

SERVER: Checks[Server] = Checks(KEEPING, CONNECTING, REPLICAS, PERMISSIONS)

Results: TypeAlias = AsyncGenerator[CheckResult, None]


def list_names() -> list[str]:
    """Return the names of all checks."""
    return [*MACHINE.names, REDIS, *SERVER.names, *FLEET.names, probes.CHECK]


async def load_and_examine(*, call_upstreams: bool) -> Results:
    """Load the settings and run all checks. Invalid settings are a result too."""
    try:
        settings = Settings.load()
    except ConfigurationError as error:
        do = "Correct it in the environment or in .env; .env.example lists all settings"
        yield problem(str(error), do).label(MACHINE.names[0])
    else:
        async with aclosing(examine(settings, call_upstreams=call_upstreams)) as results:
            async for result in results:
                yield result


async def examine(settings: Settings, *, call_upstreams: bool) -> Results:
    """Run all checks, and yield their results."""
    async for result in MACHINE.run(settings):
        yield result
    settings = shorten_timeouts(settings, TIMEOUT_S)
    has_redis = True
    try:
        async with open_servers(settings) as servers:
            for name, redis in servers:
                async for result in _examine_server(name, redis, settings):
                    has_redis = has_redis and (result.check != REDIS or result.verdict == "ok")
                    yield result
    except ConfigurationError as error:
        has_redis = False
        yield _explain_absence(error, settings).label(REDIS)
        for result in SERVER.skip(_NO_REDIS):
            yield result
    async with aclosing(_examine_fleet(settings, has_redis=has_redis)) as results:
        async for result in results:
            yield result
    if not call_upstreams:
        yield skipped("--no-probe").label(probes.CHECK)
    elif has_redis or settings.redis_url is None:
        async for result in probes.check_upstreams(use_running_darkai(settings)):
            yield result
    else:
        reason = f"{_NO_REDIS}, so the limits of upstreams are unknown"
        yield skipped(reason).label(probes.CHECK)


async def _examine_server(name: str, redis: Redis, settings: Settings) -> Results:
    ping = (await _ping(redis)).label(REDIS, name)
    yield ping
    if ping.verdict != "ok":
        for result in SERVER.skip(_NO_REDIS, name):
            yield result
        return
    async for result in SERVER.run(Server(redis, settings), name):
        yield result


async def _ping(redis: Redis) -> CheckResult:
    try:
        await redis.ping()
    except CannotConnect as error:
        return problem(str(error), _REMEDIES.get(error.cause, _REACH))
    except (RedisError, OSError) as error:
        return problem(f"it does not answer: {brief(error)}", _REACH)
    return ok("answers")


_REACH = "Check that it runs, that DARKQ_REDIS_URL names it, and that no firewall is in between"
_REMEDIES: dict[Cause, str] = {
    "unknown_host": "Correct the host in DARKQ_REDIS_URL, or the DNS of this machine",
    "wrong_password": "Correct the user and the password in DARKQ_REDIS_URL",
    "password_required": "Add the password: DARKQ_REDIS_URL=redis://:PASSWORD@HOST:PORT",
    "password_unexpected": "Remove the password from DARKQ_REDIS_URL",
    "tls_required": "Set DARKQ_REDIS_URL to rediss://…",
    "tls_unsupported": "Set DARKQ_REDIS_URL to redis://…",
    "certificate_rejected": "Name the authority in DARKQ_REDIS_URL: ?ssl_ca_certs=/path/ca.pem",
    "no_such_database": "Correct the number at the end of DARKQ_REDIS_URL",
}


def _explain_absence(error: ConfigurationError, settings: Settings) -> CheckResult:
    if settings.redis_url is not None:
        return problem(str(error), "Correct DARKQ_REDIS_URL")
    try:
        server = find_server()
    except NoServer as no_server:
        return problem(str(no_server), "Do one of these")
    return skipped(
        "DARKQ_REDIS_URL is not set, and no embedded server is running",
        f"Set it; or run {program.command()} up, which starts {server.path.name} {server.dotted}",
    )


async def _examine_fleet(settings: Settings, *, has_redis: bool) -> Results:
    if not has_redis:
        for result in FLEET.skip(_NO_REDIS):
            yield result
        return
    redis = servers_of(settings).client()
    try:
        async with Client(settings=settings) as client:
            subject = FleetSubject(settings, redis, await client.fleet())
        async for result in FLEET.run(subject):
            yield result
    except DarkqError as error:
        for result in FLEET.skip(f"it cannot be read: {error}"):
            yield result
    finally:
        await redis.aclose()
