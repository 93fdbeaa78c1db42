"""A Redis that evicts keys when it is full would lose jobs in silence: no worker starts on one."""

from __future__ import annotations

import asyncio
import logging

from redis.asyncio import Redis
from redis.exceptions import RedisError

from darkq.connection import UNAVAILABLE, brief
from darkq.errors import ConfigurationError
from darkq.logs import LogLine

logger = logging.getLogger("darkq.worker")

_OUTAGE_PAUSE_S = 0.25


async def refuse_eviction(redis: Redis) -> None:
    """Return when Redis, once it is there, keeps what it has been given.

    Raises `ConfigurationError`. A server that does not tell is trusted, with a word in the log.
    """
    try:
        memory = await _ask(redis)
    except RedisError as error:
        facts = {"error": brief(error)}
        logger.warning(LogLine("cannot check the maxmemory-policy of Redis", **facts))
        return
    policy = memory.get("maxmemory_policy", "noeviction")
    if memory.get("maxmemory", 0) and policy != "noeviction":
        raise ConfigurationError(
            "DARKQ_REDIS_URL",
            f"that Redis evicts keys when it is full, and jobs with them: its maxmemory-policy "
            f"is {policy}; set it to noeviction",
        )


async def _ask(redis: Redis) -> dict[str, str | int]:
    absent = False
    while True:
        try:
            memory: dict[str, str | int] = await redis.info("memory")
        except UNAVAILABLE as error:
            if not absent:
                logger.warning(LogLine("no Redis yet, will keep trying", error=brief(error)))
            absent = True
            await asyncio.sleep(_OUTAGE_PAUSE_S)
        else:
            return memory
