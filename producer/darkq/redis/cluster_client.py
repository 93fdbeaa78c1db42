"""A `Redis` that sends each command to the server of a cluster that has its key.

redis-py has a cluster client too. It has no transactions and no sharded pub/sub, is no `Redis`,
and closes all its connections, those in use included, when one server is lost.

A call follows redirections until its patience ends; see `cluster` for the reactions. A pipeline
groups its commands by server, one round trip to each.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.exceptions import ConnectionError, RedisError, ResponseError

from darkq.redis.backoff import backoff_s
from darkq.redis.cluster import ANYWHERE, Cluster, Slots, key_of, read_redirection, slot_of
from darkq.redis.connect_errors import CannotConnect
from darkq.redis.connections import UNAVAILABLE
from darkq.redis.durability import Command, WaitingRedis, rule_of
from darkq.redis.pool import pool
from darkq.redis.url import Address
from darkq.settings.settings import Settings

T = TypeVar("T")
Call = Callable[[Redis], Awaitable[T]]

_MOST_MOVES = 5
"""Redirections followed without a pause. More than that means that two servers disagree."""
_PAUSE_S = 0.02
_PAUSE_MAX_S = 0.5


class ClusterRedis(WaitingRedis):
    """A client of a cluster. All keys of a command, script or transaction share a slot.

    A call is tried again for `patience_s` seconds. With 0 it still follows redirections.
    """

    def __init__(
        self, cluster: Cluster, settings: Settings, *, patience_s: float, connections: int | None
    ) -> None:
        self._cluster = cluster
        self._settings = settings
        self._patience_s = patience_s
        self._connections = connections
        self._nodes: dict[Address, Redis] = {}
        self.wait_rule = rule_of(settings)
        # redis-py's constructors need a pool. No command takes a connection from this one.
        self.never_connected = self._pool(Address("", 0))
        super().__init__(connection_pool=self.never_connected)

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Run a command on the server of its key."""
        return await self.at(
            key_of(args),
            lambda node: node.execute_command(*args, **options),
            ask=lambda node: _run_with_asking(node, args, options),
        )

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Pipeline:
        """Return a pipeline over any keys, or a transaction over keys of one slot."""
        return ClusterPipeline(self, transaction)

    async def _at_its_server(
        self, command: Command, call: Callable[[Redis, Command], Awaitable[Any]]
    ) -> Any:
        return await self.at(key_of(command), lambda server: call(server, command))

    async def at(self, key: str | bytes, call: Call[T], *, ask: Call[T] | None = None) -> T:
        """Run a call on the server of a key, or `ask` on the server that an ASK reply names.

        Raises what the call raises, and `ConnectionError` for a redirection after the patience.
        """
        loop = asyncio.get_running_loop()
        give_up_s = loop.time() + self._patience_s
        slots = await self._find(give_up_s)
        do, address = call, self._owner(slots, key)
        moves = pauses = 0
        while True:
            try:
                return await do(self.node(address))
            except (RedisError, OSError) as error:
                redirection = read_redirection(error, address)
                if redirection is None:  # the server has run the call, or never will
                    raise
                refusal = error
            word, target = redirection
            if word == "ASK" and ask is not None and target is not None and moves < _MOST_MOVES:
                # For this call only: until the migration ends, the slot's owner stays the same.
                do, address, moves = ask, target, moves + 1
                continue
            if word == "MOVED" and moves < _MOST_MOVES:
                moves += 1
            elif loop.time() < give_up_s:
                # An ASK lands here too if the call has no `ask`: a transaction or a script waits
                # until all keys of the slot have arrived.
                await asyncio.sleep(backoff_s(pauses, first_s=_PAUSE_S, most_s=_PAUSE_MAX_S))
                moves, pauses = 0, pauses + 1
            else:
                raise ConnectionError(f"{word} from the cluster") if word else refusal
            slots = await self._find(give_up_s, but=slots, hint=target)
            do, address = call, self._owner(slots, key)

    def node(self, address: Address) -> Redis:
        """Return the client of one server."""
        if address not in self._nodes:
            self._nodes[address] = Redis.from_pool(self._pool(address))
        return self._nodes[address]

    async def addresses(self, *, replicas: bool = False) -> list[Address]:
        """Return the addresses of the masters, or of all nodes. Raises `ConnectionError`."""
        slots = await self._cluster.slots()
        return sorted(slots.nodes) if replicas else slots.masters

    async def owners(self, keys: Sequence[str | bytes]) -> list[Address]:
        """Return the server of each key, by the current slot map."""
        slots = await self._find(asyncio.get_running_loop().time() + self._patience_s)
        return [self._owner(slots, key) for key in keys]

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        """Close all connections."""
        nodes, self._nodes = self._nodes, {}
        for node in nodes.values():
            await node.aclose()
        await super().aclose(close_connection_pool)

    async def _find(
        self, give_up_s: float, *, but: Slots | None = None, hint: Address | None = None
    ) -> Slots:
        """Return the slot map; repeat until a node answers or the patience ends."""
        pauses = 0
        while True:
            try:
                slots = await self._cluster.slots(but=but, hint=hint)
                break
            except ConnectionError as error:
                is_lasting = isinstance(error, CannotConnect) and error.is_lasting and but is None
                if is_lasting or asyncio.get_running_loop().time() >= give_up_s:
                    raise
                await asyncio.sleep(backoff_s(pauses, first_s=_PAUSE_S, most_s=_PAUSE_MAX_S))
                pauses += 1
        for address in self._nodes.keys() - slots.nodes:  # they have left the cluster
            # `aclose` yields to other calls, and one of them may have removed the next client.
            if (node := self._nodes.pop(address, None)) is not None:
                await node.aclose()
        return slots

    @staticmethod
    def _owner(slots: Slots, key: str | bytes) -> Address:
        return random.choice(slots.masters) if key == ANYWHERE else slots.owner(key)

    def _pool(self, address: Address) -> Any:
        return pool(
            self._settings,
            loop=self._cluster.loop,
            at=address,
            patience_s=0,  # `at` repeats calls: the key may be on another server by then
            connections=self._connections,
        )


async def _run_with_asking(node: Redis, args: Sequence[Any], options: dict[str, Any]) -> Any:
    async with node.pipeline(transaction=False) as pipe:  # ASKING counts for its connection only
        pipe.execute_command("ASKING")
        pipe.execute_command(*args, **options)
        _, reply = await pipe.execute(raise_on_error=False)
    if isinstance(reply, Exception):
        raise reply
    return reply


class ClusterPipeline(Pipeline):
    """Commands for several servers, one round trip to each; or a transaction on one server."""

    def __init__(self, redis: ClusterRedis, transaction: bool) -> None:
        super().__init__(redis.never_connected, redis.response_callbacks, transaction, None)
        self._redis = redis

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        """Run the collected commands. Raises the error of the first one that failed."""
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
        """Send each server its share. Commands that were redirected are then run one by one."""
        keys: list[str | bytes] = []
        for args, _ in commands:
            # A command without a key, as WAIT, belongs to the connection of the one before it.
            keys.append(key_of(args) or (keys[-1] if keys else ANYWHERE))
        shares: dict[Address, list[int]] = {}
        for number, owner in enumerate(await self._redis.owners(keys)):
            shares.setdefault(owner, []).append(number)
        replies: list[Any] = [None] * len(commands)

        async def send(owner: Address, share: Sequence[int]) -> None:
            mine = [commands[number] for number in share]
            try:
                found = await _run(self._redis.node(owner), mine, False)
            except UNAVAILABLE as error:  # the commands of the other servers must still count
                found = [error] * len(share)
            for number, reply in zip(share, found, strict=True):
                replies[number] = reply

        async with asyncio.TaskGroup() as tasks:
            for owner, share in shares.items():
                tasks.create_task(send(owner, share))
        for number, (args, options) in enumerate(commands):
            reply = replies[number]
            # Redirected, or the connection was lost: then this may run a command a second time,
            # as the retry of a single command may. darkq pipelines only what is harmless twice.
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
