"""Each check of a server goes red on one that has the fault, and is green on one that has not."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError, ResponseError

from darkq import Settings
from darkq_cli.doctor import connecting, keeping, replicas
from support.servers import Server, binaries, running
from support.waiting import wait_until

from .conftest import examine_all, look


class Fault(NamedTuple):
    """What `CONFIG SET` makes of a healthy server, and which verdict that is."""

    check: str
    verdict: str
    config: dict[str, str]
    found: str = ""


HEALTHY = {
    "appendonly": "yes",
    "appendfsync": "everysec",
    "maxmemory": "1gb",
    "maxmemory-policy": "noeviction",
    "timeout": "0",
}
NO_LIMIT = {"client-output-buffer-limit": "pubsub 0 0 0"}
FAULTS = [
    Fault("persistence", "problem", {"appendonly": "no"}, "nothing is on disk: a restart"),
    Fault("persistence", "warning", {"appendonly": "no", "save": "60 1"}, "snapshots only"),
    Fault("persistence", "warning", {"appendfsync": "no"}, "appendfsync no"),
    Fault("eviction", "problem", {"maxmemory-policy": "allkeys-lru"}, "policy allkeys-lru"),
    Fault("eviction", "warning", {"maxmemory-policy": "volatile-ttl", "maxmemory": "0"}),
    Fault("memory", "warning", {"maxmemory": "0"}, "no maxmemory"),
    Fault("memory", "problem", {"maxmemory": "100kb"}, "at the limit it refuses new jobs"),
    Fault("memory", "warning", {"maxmemory": str(100 << 40)}, "above the"),
    Fault("output buffers", "warning", NO_LIMIT, "has no limit"),
    Fault(
        "output buffers",
        "warning",
        {"client-output-buffer-limit": "pubsub 1mb 1mb 10"},
        "subscribers are disconnected at 1 MB",
    ),
    Fault(
        "output buffers",
        "problem",
        {"client-output-buffer-limit": "normal 8mb 0 0"},
        "normal clients are disconnected at 8 MB, and an answer can have 16 MB",
    ),
    Fault("connections", "problem", {"maxclients": "30"}, "too few are left for another worker"),
    Fault("idle timeout", "warning", {"timeout": "10"}, "idle for 10 s"),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.check}-{fault.verdict}")
async def test_a_fault_is_found_and_its_absence_too(
    fault: Fault, admin: Redis, make: Callable[..., Settings]
) -> None:
    settings = make()
    for name, value in HEALTHY.items():
        await admin.config_set(name, value)
    healthy = (await look(admin, settings))[fault.check]
    assert (healthy.verdict, healthy.do) == ("ok", ""), healthy
    for name, value in fault.config.items():
        await admin.config_set(name, value)
    found = (await look(admin, settings))[fault.check]
    assert found.verdict == fault.verdict, found
    assert fault.found in found.found
    assert found.do


async def test_nothing_but_its_own_check_minds_a_fault(
    admin: Redis, make: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connecting, "_SLOW_PING_MS", 1e9)  # this machine may be busy
    monkeypatch.setattr(connecting, "_SLOW_COMMAND_S", 1e9)
    for name, value in {**HEALTHY, "maxmemory-policy": "allkeys-lru"}.items():
        await admin.config_set(name, value)
    verdicts = {name: each.verdict for name, each in (await look(admin, make())).items()}
    assert verdicts.pop("eviction") == "problem"
    assert verdicts.pop("cluster") == "skipped"
    assert set(verdicts.values()) == {"ok"}, verdicts


async def test_memory_that_fills(admin: Redis, make: Callable[..., Settings]) -> None:
    await admin.set("much", bytes(16 << 20))  # beside it, the doctor's connections take little
    used = (await admin.info("memory"))["used_memory"]
    await admin.config_set("maxmemory", int(used / 0.87))
    found = (await look(admin, make()))["memory"]
    await admin.delete("much")
    assert found.verdict == "warning", found
    assert "8" in found.found.split(", ")[1]


async def test_the_embedded_server_has_the_memory_of_its_machine(
    admin: Redis, make: Callable[..., Settings]
) -> None:
    found = (await look(admin, make(redis_url=None)))["memory"]
    assert found.verdict == "ok"
    assert "of the machine's" in found.found


async def test_connections_that_run_out(
    admin: Redis, server: Server, make: Callable[..., Settings]
) -> None:
    settings = make(redis_connections=1)
    async with AsyncExitStack() as stack:
        for _ in range(50):
            one = await stack.enter_async_context(Redis.from_url(server.url))
            await one.ping()
        await admin.config_set("maxclients", 60)
        found = (await look(admin, settings))["connections"]
    assert found.verdict == "warning"
    assert "of 60; a worker opens up to 7, a gateway 2" in found.found


async def test_connections_that_were_refused(server: Server, make: Callable[..., Settings]) -> None:
    admin = Redis.from_url(server.url, single_connection_client=True)
    other = Redis.from_url(server.url)
    await admin.config_set("maxclients", 1)
    with pytest.raises(ConnectionError):
        await other.ping()
    await admin.config_set("maxclients", 10_000)
    found = (await look(admin, make()))["connections"]
    assert (found.verdict, found.found) == ("warning", "1 were refused since Redis started")
    await admin.config_resetstat()
    assert (await look(admin, make()))["connections"].verdict == "ok"
    await admin.aclose()
    await other.aclose()


@pytest.mark.parametrize("name", sorted(binaries()))
async def test_writes_to_disk_that_fail(
    name: str, make: Callable[..., Settings], tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    with running(binaries()[name], "--dir", str(folder)) as server:
        async with Redis.from_url(server.url) as redis:
            assert (await look(redis, make()))["disk writes"].verdict == "ok"
            folder.rmdir()
            await redis.bgsave()

            async def has_failed() -> bool:
                told = await redis.info("persistence")
                return (
                    not told["rdb_bgsave_in_progress"] and told["rdb_last_bgsave_status"] == "err"
                )

            await wait_until("the snapshot to fail", has_failed)
            found = (await look(redis, make()))["disk writes"]
    assert found.verdict == "problem"
    assert "the last snapshot" in found.found


async def test_slow_commands_are_named_without_their_arguments(
    admin: Redis, make: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    await admin.slowlog_reset()
    assert (await look(admin, make()))["slow commands"].verdict == "ok"
    monkeypatch.setattr(connecting, "_SLOW_COMMAND_S", 0)
    await admin.config_set("slowlog-log-slower-than", 0)
    await admin.echo("a secret prompt")
    await admin.config_set("slowlog-log-slower-than", 10_000)
    found = (await look(admin, make()))["slow commands"]
    assert found.verdict == "warning"
    assert "ECHO" in found.found
    assert "secret" not in found.found


async def test_a_distant_server(
    admin: Redis, make: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connecting, "_SLOW_PING_MS", 1e9)
    assert (await look(admin, make()))["latency"].verdict == "ok"
    monkeypatch.setattr(connecting, "_SLOW_PING_MS", 0)
    assert (await look(admin, make()))["latency"].verdict == "warning"


@pytest.mark.parametrize(("ahead_s", "words"), [(60, "60.0 s ahead of"), (-60, "60.0 s behind")])
async def test_clocks_that_differ(
    admin: Redis,
    make: Callable[..., Settings],
    monkeypatch: pytest.MonkeyPatch,
    ahead_s: float,
    words: str,
) -> None:
    assert (await look(admin, make()))["clock"].verdict == "ok"
    monkeypatch.setattr(connecting, "time", lambda: time.time() + ahead_s)
    found = (await look(admin, make()))["clock"]
    assert found.verdict == "warning"
    assert words in found.found


async def test_an_old_server(
    admin: Redis, make: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await look(admin, make()))["version"].verdict == "ok"
    monkeypatch.setattr(keeping, "_MIN_VERSION", (99,))
    assert (await look(admin, make()))["version"].verdict == "problem"


async def test_a_server_that_tells_less_than_others(
    server: Server, make: Callable[..., Settings]
) -> None:
    def little(_: Any, **__: Any) -> Any:
        return {"connected_clients": 1}

    async with Redis.from_url(server.url) as redis:
        redis.set_response_callback("INFO", little)
        redis.set_response_callback("CONFIG GET", little)
        found = await look(redis, make())
    assert found["version"].found == "the server does not tell: INFO has no redis_version"
    assert found["connections"].found == "the server does not tell: CONFIG GET has no maxclients"
    verdicts = {name for name, each in found.items() if each.verdict not in ("ok", "skipped")}
    assert verdicts <= {"latency", "slow commands"}


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


@pytest.fixture
def start_server() -> Iterator[Callable[..., tuple[Server, int]]]:
    """Start servers that listen on a port too."""
    with ExitStack() as stack:

        def start(*options: str) -> tuple[Server, int]:
            port = free_port()
            server = stack.enter_context(
                running(binaries()["valkey"], "--port", str(port), "--bind", "127.0.0.1", *options)
            )
            return server, port

        yield start


async def test_tcp_keepalive(start_server: Any, make: Callable[..., Settings]) -> None:
    _, port = start_server()
    async with Redis.from_url(f"redis://127.0.0.1:{port}") as redis:
        assert (await look(redis, make()))["tcp keepalive"].verdict == "ok"
        await redis.config_set("tcp-keepalive", 0)
        assert (await look(redis, make()))["tcp keepalive"].verdict == "warning"


async def test_replicas(
    start_server: Any, make: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, port = start_server("--repl-diskless-sync-delay", "0")
    copy, _ = start_server("--replicaof", f"127.0.0.1 {port}")
    async with Redis.from_url(server.url) as master, Redis.from_url(copy.url) as replica:

        async def is_online() -> bool:
            told = await master.info("replication")
            return bool(told["connected_slaves"]) and told["slave0"]["state"] == "online"

        await wait_until("the replica", is_online)
        found = (await look(master, make()))["replication"]
        assert (found.verdict, found.found.split(",")[0]) == ("ok", "1 replicas")
        assert (await look(master, make()))["persistence"].verdict == "warning", "a copy is there"
        found = (await look(replica, make()))["replication"]
        assert found.verdict == "problem"
        assert f"a replica of 127.0.0.1:{port}" in found.found
        await master.config_set("min-replicas-to-write", 2)
        found = (await look(master, make()))["replication"]
        assert found.verdict == "problem"
        assert "1 good replicas; with fewer than 2" in found.found
        await master.config_set("min-replicas-to-write", 0)
        monkeypatch.setattr(replicas, "_LAG_MAX_S", -1)
        assert (await look(master, make()))["replication"].verdict == "warning"


async def test_a_cluster(start_server: Any, make: Callable[..., Settings]) -> None:
    buses = [free_port(), free_port()]
    (one, port), (two, _) = (
        start_server("--cluster-enabled", "yes", "--cluster-port", str(bus)) for bus in buses
    )
    async with Redis.from_url(one.url) as master, Redis.from_url(two.url) as replica:

        async def state() -> str:
            return (await look(master, make()))["cluster"].verdict

        found = (await look(master, make()))["cluster"]
        assert found.verdict == "problem"
        assert "0 of 16,384 slots assigned" in found.found
        await master.execute_command("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
        await wait_until("the slots", lambda: _is(state, "warning"))
        assert "without a replica" in (await look(master, make()))["cluster"].found
        await replica.execute_command("CLUSTER", "MEET", "127.0.0.1", str(port), str(buses[0]))
        id_ = (await master.execute_command("CLUSTER", "MYID")).decode()

        async def follows() -> bool:
            try:
                await replica.execute_command("CLUSTER", "REPLICATE", id_)
            except ResponseError:  # it does not know the master yet
                await asyncio.sleep(0.05)
                return False
            return True

        await wait_until("the replica to follow", follows)
        await wait_until("both", lambda: _is(state, "ok"))

        async def copies() -> bool:
            found = (await look(replica, make()))["replication"]
            return found.verdict == "ok" and found.found.endswith(f"of 127.0.0.1:{port}")

        await wait_until("the replica's link, which is no fault of a node", copies)


async def _is(state: Callable[[], Any], verdict: str) -> bool:
    return bool(await state() == verdict)


async def test_no_redis_at_all(make: Callable[..., Settings]) -> None:
    found = await examine_all(make(redis_url="redis://user:hunter2@127.0.0.1:1"))
    assert found["redis"].verdict == "problem"
    assert found["redis"].of == "127.0.0.1:1"
    assert "hunter2" not in repr(found)
    for name in ("version", "permissions", "partitions", "breakers"):
        assert (found[name].verdict, found[name].found) == ("skipped", "no answer from Redis")


async def test_a_wrong_password(
    server: Server, admin: Redis, make: Callable[..., Settings]
) -> None:
    found = await examine_all(make(redis_url=f"unix://default:hunter2@{server.socket}"))
    if found["redis"].verdict == "ok":  # Redis 6.2 takes any for a user that needs none
        await admin.config_set("requirepass", "other")
        found = await examine_all(make(redis_url=f"unix://default:hunter2@{server.socket}"))
        await admin.config_set("requirepass", "")
    assert found["redis"].verdict == "problem"
    assert "hunter2" not in repr(found)


async def test_none_is_configured_and_none_runs(make: Callable[..., Settings]) -> None:
    found = (await examine_all(make(redis_url=None)))["redis"]
    assert found.verdict == "skipped"
    assert " up, which starts " in found.do


async def test_a_url_that_is_none(make: Callable[..., Settings]) -> None:
    found = await examine_all(make(redis_url="http://user:hunter2@example"))
    assert found["redis"].verdict == "problem"
    assert "DARKQ_REDIS_URL" in found["redis"].found
    assert "hunter2" not in repr(found)
