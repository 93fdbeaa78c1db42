"""Many commands in few round trips to a cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.exceptions import ResponseError

from darkq.redirection import ANYWHERE, key_of, read_redirection, slot_of
from darkq.redis_url import Address
from darkq.transport import UNAVAILABLE

if TYPE_CHECKING:
    from darkq.cluster_redis import ClusterRedis


class ClusterPipeline(Pipeline):
    """Commands for several servers, one round trip to each; or a transaction on one."""

    def __init__(self, redis: ClusterRedis, transaction: bool) -> None:
        super().__init__(redis.never_connected, redis.response_callbacks, transaction, None)
        self._redis = redis

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        """Run what has been collected. Raises what its first failed command raises."""
        commands = list(self.command_stack)
        await self.aclose()
        if not commands:
            return []
        if not self.is_transaction:
            replies = await self._spread(commands)
        else:
            keys = [key for args, _ in commands if (key := key_of(args))]
            if len({slot_of(key) for key in keys}) > 1:
                raise ValueError("the keys of a transaction must share a slot")
            key = keys[0] if keys else ANYWHERE
            replies = await self._redis.at(key, lambda node: _run(node, commands, True))
        if raise_on_error:
            self.raise_first_error(commands, replies)
        return replies

    async def _spread(self, commands: Sequence[Any]) -> list[Any]:
        """Send each server its share; what does not come back so goes alone, with patience."""
        keys: list[str | bytes] = []
        for args, _ in commands:  # what has no key goes with the command before it
            keys.append(key_of(args) or (keys[-1] if keys else ANYWHERE))
        shares: dict[Address, list[int]] = {}
        for number, owner in enumerate(await self._redis.owners(keys)):
            shares.setdefault(owner, []).append(number)
        replies: list[Any] = [None] * len(commands)

        async def send(owner: Address, share: Sequence[int]) -> None:
            mine = [commands[number] for number in share]
            try:
                found = await _run(self._redis.node(owner), mine, False)
            except UNAVAILABLE as error:
                found = [error] * len(share)
            for number, reply in zip(share, found, strict=True):
                replies[number] = reply

        async with asyncio.TaskGroup() as tasks:
            for owner, share in shares.items():
                tasks.create_task(send(owner, share))
        for number, (args, options) in enumerate(commands):
            reply = replies[number]
            if isinstance(reply, Exception) and read_redirection(reply, Address("", 0)):
                try:
                    replies[number] = await self._redis.execute_command(*args, **options)
                except ResponseError as error:
                    replies[number] = error
        return replies


async def _run(node: Redis, commands: Sequence[Any], transaction: bool) -> list[Any]:
    async with node.pipeline(transaction=transaction) as pipe:
        for args, options in commands:
            pipe.execute_command(*args, **options)
        return await pipe.execute(raise_on_error=False)
