"""A Redis that is not there, or refuses: one error, which says where to look and no secret."""

from __future__ import annotations

import traceback
from collections.abc import Callable

import pytest
from redis.asyncio import Redis

from darkq import Client, RedisUnavailable, Settings
from support.servers import binaries, running

MakeSettings = Callable[..., Settings]


class TestNoRedis:
    async def test_the_error_names_the_setting_and_not_the_password(self) -> None:
        settings = Settings.model_validate(
            {"redis_url": "redis://user:hunter2@127.0.0.1:1/0", "redis_patience_s": 0.05}
        )
        async with Client(settings=settings) as client:
            with pytest.raises(RedisUnavailable, match="DARKQ_REDIS_URL") as caught:
                await client.enqueue("hi")
        assert isinstance(caught.value, ConnectionError)
        assert "hunter2" not in "".join(traceback.format_exception(caught.value))

    @pytest.mark.parametrize("server_name", ["valkey", "redis62"])
    async def test_a_redis_that_refuses_is_unavailable_too(self, server_name: str) -> None:
        """Out of memory, a replica, no permission, a wrong password."""
        if server_name not in binaries():
            pytest.skip(f"{server_name} is not installed")
        with running(binaries()[server_name]) as server:
            limits = {"redis_url": server.url, "redis_patience_s": 0.05}
            async with (
                Redis.from_url(server.url) as redis,
                Client(settings=Settings.model_validate(limits)) as client,
            ):
                job = await client.enqueue("hi")
                await redis.config_set("maxmemory", "1")
                await self.refused(client, "OutOfMemory|OOM")
                await redis.config_set("maxmemory", "0")
                await redis.execute_command("REPLICAOF", "127.0.0.1", "1")
                await self.refused(client, "READONLY|ReadOnly")
                await redis.execute_command("REPLICAOF", "NO", "ONE")
                await redis.execute_command("ACL SETUSER", "default", "resetkeys", "~other:*")
                await self.refused(client, "NOPERM|NoPermission")
                await redis.acl_setuser("default", keys=["*"])
                assert (await job.status()).state == "queued"
                await redis.config_set("requirepass", "hunter2")
            async with Client(settings=Settings.model_validate(limits)) as client:
                await self.refused(client, "requires a password")

    @staticmethod
    async def refused(client: Client, reason: str) -> None:
        with pytest.raises(RedisUnavailable, match=reason):
            await client.enqueue("a prompt that nobody may see")
