"""Checks of Redis before a worker starts: it must keep all keys, and match its URL."""

from __future__ import annotations

import asyncio

from redis.asyncio import Redis
from redis.exceptions import RedisError

from darkq.errors import ConfigurationError
from darkq.redis.cluster_client import ClusterRedis
from darkq.redis.connect_errors import CannotConnect
from darkq.redis.connections import UNAVAILABLE
from darkq.redis.pool import ONE_OF_A_CLUSTER, brief
from darkq.redis.servers import each_server
from darkq.telemetry.logging import LogEvent
from darkq_worker.outage_log import OUTAGE_PAUSE_S, OutageLog, logger

LASTING_PAUSE_S = 2.0
"""The pause while a person has to correct something, such as the password."""


async def check_redis(redis: Redis) -> None:
    """Wait until Redis is available; return if it never evicts keys.

    Raises `ConfigurationError`. A server that does not allow the check is accepted with a warning.
    """
    outage = OutageLog("Redis unavailable", "Redis available")
    while True:
        try:
            for address, server in await each_server(redis):
                await _check_server(server, address, is_cluster=isinstance(redis, ClusterRedis))
        except UNAVAILABLE as error:
            outage.record_failure(error)
            is_lasting = isinstance(error, CannotConnect) and error.is_lasting
            await asyncio.sleep(LASTING_PAUSE_S if is_lasting else OUTAGE_PAUSE_S)
        except RedisError as error:
            logger.warning(LogEvent("maxmemory-policy check failed", error=brief(error)))
            return
        else:
            outage.record_success()
            return


async def _check_server(server: Redis, address: str, *, is_cluster: bool) -> None:
    """A full Redis with an eviction policy deletes jobs without an error.

    One server of a cluster has only some of the keys.
    """
    memory = await server.info("memory")
    policy = memory.get("maxmemory_policy", "noeviction")
    if memory.get("maxmemory", 0) and policy != "noeviction":
        raise ConfigurationError(
            "DARKQ_REDIS_URL",
            f"that Redis evicts keys when it is full, and jobs with them: the maxmemory-policy "
            f"{f'of {address} ' if address else ''}is {policy}; set it to noeviction",
        )
    if not is_cluster and (await server.info("cluster")).get("cluster_enabled"):
        raise ConfigurationError("DARKQ_REDIS_URL", ONE_OF_A_CLUSTER)
