"""The Redis that Compose and Kubernetes bring, started by their very scripts."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from support.deployment import COMPOSE, container, objects, services
from support.servers import binaries

PASSWORD = "hunter2"
CONFIG = objects("ConfigMap")["darkq-valkey"]["data"]["valkey.conf"]


def of_compose(place: Path) -> list[str]:
    """Compose's command, in a folder of the test's."""
    *shell, script = services(COMPOSE[0])["redis"]["command"]
    here = f"dir {place}\nport 0\nunixsocket {place}/s"
    secret = place / "REDIS_PASSWORD"
    secret.write_text(f"{PASSWORD}\n")
    script = script.replace("/run/secrets/REDIS_PASSWORD", str(secret))
    return [*shell, script.replace("$$", "$").replace("dir /data", here)]


def of_kubernetes(place: Path) -> list[str]:
    """The StatefulSet's command, with its configuration in a folder of the test's."""
    *shell, script = container("StatefulSet", "darkq-valkey")["command"]
    file = place / "valkey.conf"
    file.write_text(CONFIG.replace("dir /data", f"dir {place}\nport 0\nunixsocket {place}/s"))
    return [*shell, script.replace("/etc/valkey/valkey.conf", str(file))]


@contextmanager
def started(command: list[str], place: Path) -> Iterator[subprocess.Popen[str]]:
    """Run it for the length of the block, from when it is ready."""
    (place / "bin").mkdir()
    (place / "bin/valkey-server").symlink_to(binaries()["valkey"])
    environment = {"PATH": f"{place}/bin:/usr/bin:/bin", "REDISCLI_AUTH": PASSWORD}
    with subprocess.Popen(
        command, env=environment, cwd=place, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            lines = iter(process.stdout.readline, "")  # its end is the server's
            if not any("ready to accept connections" in line.lower() for line in lines):
                pytest.fail("it has not started")
            yield process
        finally:
            process.terminate()
            process.wait(10)


@pytest.mark.parametrize("of", [of_compose, of_kubernetes])
def test_it_starts_as_it_is_told_and_asks_for_the_password(
    of: Callable[[Path], list[str]], tmp_path: Path
) -> None:
    with started(of(tmp_path), tmp_path) as process:
        # `exec`: the server itself is the process that gets the signals.
        shown = Path(f"/proc/{process.pid}/cmdline").read_text()
        assert "valkey-server" in shown
        assert PASSWORD not in shown
        with (
            redis.Redis(unix_socket_path=f"{tmp_path}/s") as stranger,
            pytest.raises(redis.AuthenticationError),
        ):
            stranger.ping()
        with redis.Redis(unix_socket_path=f"{tmp_path}/s", password=PASSWORD) as client:
            told = client.config_get("maxmemory*", "append*", "save")
    assert told["maxmemory-policy"] == "noeviction"
    assert (told["appendonly"], told["appendfsync"], told["save"]) == ("yes", "everysec", "")
    assert int(told["maxmemory"]) == 1 << 30
    assert (tmp_path / "appendonlydir").is_dir()


def test_it_may_take_twice_what_it_may_hold() -> None:
    """While the file is rewritten, pages that change meanwhile are held twice."""
    assert services(COMPOSE[0])["redis"]["deploy"]["resources"]["limits"]["memory"] == "2g"
    limits = container("StatefulSet", "darkq-valkey")["resources"]["limits"]
    assert limits["memory"] == "2Gi"


def test_both_are_set_up_alike() -> None:
    script = services(COMPOSE[0])["redis"]["command"][-1].splitlines()
    assert set(CONFIG.strip().splitlines()) <= set(script)
