"""A Redis that would lose jobs, or is not what its URL says: no worker starts on one."""

from __future__ import annotations

import asyncio
import logging

from redis.asyncio import Redis
from redis.exceptions import RedisError

from darkq.errors import ConfigurationError
from darkq.redis.cluster_client import ClusterRedis
from darkq.redis.connections import UNAVAILABLE
from darkq.redis.pool import ONE_OF_A_CLUSTER, brief
from darkq.redis.servers import each_server
from darkq.telemetry.logging import LogEvent

logger = logging.getLogger("darkq.worker")

_OUTAGE_PAUSE_S = 0.25


async def refuse_unfit(redis: Redis) -> None:
    """Return when Redis, once it is there, keeps what it has been given.

    Raises `ConfigurationError`. A server that does not tell is trusted, with a word in the log.
    """
    absent = False
    while True:
        try:
            for address, server in await each_server(redis):
                await _refuse_eviction(server, address)
                await _refuse_half_a_cluster(server, redis)
        except UNAVAILABLE as error:
            if not absent:
                logger.warning(LogEvent("no Redis yet, will keep trying", error=brief(error)))
            absent = True
            await asyncio.sleep(_OUTAGE_PAUSE_S)
        except RedisError as error:
            facts = {"error": brief(error)}
            logger.warning(LogEvent("cannot check the maxmemory-policy of Redis", **facts))
            return
        else:
            return


async def _refuse_eviction(server: Redis, address: str) -> None:
    """A Redis that evicts keys when it is full loses jobs in silence."""
    memory = await server.info("memory")
    policy = memory.get("maxmemory_policy", "noeviction")
    if memory.get("maxmemory", 0) and policy != "noeviction":
        raise ConfigurationError(
            "DARKQ_REDIS_URL",
            f"that Redis evicts keys when it is full, and jobs with them: the maxmemory-policy "
            f"{f'of {address} ' if address else ''}is {policy}; set it to noeviction",
        )


async def _refuse_half_a_cluster(server: Redis, redis: Redis) -> None:
    """One server of a cluster has some of the keys only."""
    if isinstance(redis, ClusterRedis):
        return
    if (await server.info("cluster")).get("cluster_enabled"):
        raise ConfigurationError("DARKQ_REDIS_URL", ONE_OF_A_CLUSTER)
