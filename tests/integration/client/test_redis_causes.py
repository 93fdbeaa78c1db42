"""Why Redis cannot be reached: the cause, the host, no password, no wait that cannot help."""

from __future__ import annotations

import asyncio
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
import trustme
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from darkq import Client, RedisUnavailable, Settings
from darkq.redis.connect_errors import CannotConnect
from darkq.redis.connections import PatientRetry
from darkq.redis.pool import speaking_darkq
from support.servers import Server, binaries, running
from support.tls_proxy import in_front_of
from support.waiting import wait_until

MakeSettings = Callable[..., Settings]
PATIENCE_S = 30.0
"""Longer than any test may take: a cause that is waited for makes it red."""


@pytest.fixture(scope="module")
def server_port() -> Iterator[int]:
    """A server with a port, a password, and one user."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = int(found.getsockname()[1])
    with running(binaries()["valkey"], "--port", str(port)) as server:
        with redis.Redis(unix_socket_path=str(server.socket)) as admin:
            admin.config_set("requirepass", "hunter2")
        yield port


async def fail(url: str, *, patience_s: float = PATIENCE_S) -> RedisUnavailable:
    settings = Settings.model_validate({"redis_url": url, "redis_patience_s": patience_s})
    began_s = time.monotonic()
    async with Client(settings=settings) as client:
        with pytest.raises(RedisUnavailable) as caught:
            await client.enqueue("a prompt")
    assert time.monotonic() - began_s < PATIENCE_S / 2
    assert "hunter2" not in str(caught.value)
    assert "wrong-one" not in str(caught.value)
    return caught.value


async def test_a_refused_connection_names_the_host() -> None:
    error = await fail("redis://user:hunter2@127.0.0.1:1/0", patience_s=0.05)
    assert error.code == "connection_refused"
    assert str(error) == (
        "Redis does not answer at 127.0.0.1:1: connection refused; check DARKQ_REDIS_URL"
    )


async def test_a_refused_connection_of_a_name_with_two_addresses_is_refused() -> None:
    """Red when only `errno` is read: asyncio joins several errors into one without a number."""
    error = await fail("redis://localhost:1/0", patience_s=0.05)
    assert error.code == "connection_refused"


async def test_an_unknown_name_is_reported_without_a_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(
        socket, "getaddrinfo", unknown
    )  # whatever the resolver of this machine does
    error = await fail("redis://:hunter2@redis.nowhere:6379")
    assert error.code == "unknown_host"
    assert "the host name of redis.nowhere:6379 is unknown" in str(error)


async def test_a_wrong_password_is_reported_without_a_wait(server_port: int) -> None:
    error = await fail(f"redis://:wrong-one@127.0.0.1:{server_port}")
    assert error.code == "wrong_password"
    assert str(error).startswith(f"Redis at 127.0.0.1:{server_port} rejects the user or the ")


async def test_a_missing_password_is_reported_without_a_wait(server_port: int) -> None:
    error = await fail(f"redis://127.0.0.1:{server_port}")
    assert error.code == "password_required"


async def test_a_database_that_does_not_exist_is_named(server_port: int) -> None:
    error = await fail(f"redis://:hunter2@127.0.0.1:{server_port}/99")
    assert error.code == "no_such_database"


async def test_tls_to_a_plain_port_says_to_use_redis(server_port: int) -> None:
    """Red without the probe: the server waits, and the handshake ends by its timeout."""
    error = await fail(f"rediss://:hunter2@127.0.0.1:{server_port}")
    assert error.code == "tls_unsupported"
    assert "use redis:// instead of rediss://" in str(error)


async def test_a_plain_connection_to_a_tls_port_says_to_use_rediss(redis_server: Server) -> None:
    async with in_front_of(redis_server, trustme.CA(), "localhost") as port:
        error = await fail(f"redis://localhost:{port}")
    assert error.code == "tls_required"
    assert f"Redis at localhost:{port} requires TLS" in str(error)


async def test_a_certificate_that_is_not_trusted_is_reported_without_a_wait(
    redis_server: Server,
) -> None:
    async with in_front_of(redis_server, trustme.CA(), "localhost") as port:
        error = await fail(f"rediss://localhost:{port}")
    assert error.code == "certificate_rejected"


async def test_a_missing_socket_is_named(tmp_path: Path) -> None:
    error = await fail(f"unix://{tmp_path}/redis.sock", patience_s=0.05)
    assert error.code == "no_socket"
    assert f"{tmp_path}/redis.sock" in str(error)


async def test_a_server_that_is_silent_has_no_reply() -> None:
    """A host that drops packets, or a stopped process."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        port = silent.getsockname()[1]
        settings = Settings.model_validate(
            {
                "redis_url": f"redis://127.0.0.1:{port}",
                "redis_patience_s": 0.05,
                "redis_timeout_s": 0.2,
            }
        )
        async with Client(settings=settings) as client:
            with pytest.raises(RedisUnavailable) as caught:
                await client.ping()
    assert caught.value.code == "no_reply"


async def test_a_redis_that_cannot_save_says_so(tmp_path: Path) -> None:
    """MISCONF: a full disk, or a folder that is gone."""
    folder = tmp_path / "gone"
    folder.mkdir()
    with running(binaries()["valkey"], "--dir", str(folder)) as server:
        async with Redis.from_url(server.url) as admin, Client(server.url) as client:
            await admin.config_set("save", "3600 1")
            shutil.rmtree(folder)
            await admin.bgsave()

            async def has_failed() -> bool:
                return bool((await admin.info())["rdb_last_bgsave_status"] == "err")

            await wait_until("the save to fail", has_failed)
            with pytest.raises(RedisUnavailable) as caught:
                await client.enqueue("a prompt")
            await admin.config_set("save", "")  # or the server refuses to end
    assert caught.value.code == "misconf"
    assert "it cannot save its data (MISCONF); check the free disk space" in str(caught.value)


async def test_a_full_disk_is_named() -> None:
    full = ResponseError("MISCONF Errors writing to the AOF file: No space left on device")
    with pytest.raises(RedisUnavailable) as caught:
        async with speaking_darkq():
            raise full
    assert ": no space left on device; check the free disk space" in str(caught.value)


async def test_after_a_first_connection_every_cause_is_waited_for() -> None:
    """The name of a container is unknown while it restarts. Red when it is final then, too."""
    retry = PatientRetry(PATIENCE_S)
    tries = []

    async def fail_once() -> str:
        tries.append(1)
        if len(tries) == 1:
            raise CannotConnect("unknown_host", "redis:6379")
        return "connected"

    async def ignore(_: object) -> None:
        await asyncio.sleep(0)

    with pytest.raises(CannotConnect):
        await retry.call_with_retry(fail_once, ignore)
    tries.clear()
    retry.has_connected = True
    assert await retry.call_with_retry(fail_once, ignore) == "connected"
