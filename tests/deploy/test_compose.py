"""The Compose files: their graces, their settings, and a Redis that really starts as they say."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import redis

from darkq import Settings
from support.deployment import COMPOSE, ROOT, seconds, services
from support.servers import binaries

DEFAULTS = Settings.model_fields
OURS = [
    (file, name, service)
    for file in COMPOSE
    for name, service in services(file).items()
    if name != "redis"
]


@pytest.mark.parametrize(("file", "name", "service"), OURS)
def test_a_service_may_end_in_order(file: Path, name: str, service: dict[str, Any]) -> None:
    setting = {"worker": "worker_shutdown_grace_s", "gateway": "gateway_drain_s"}[name]
    assert seconds(service["stop_grace_period"]) >= DEFAULTS[setting].default + 10


@pytest.mark.parametrize(("file", "name", "service"), OURS)
def test_a_service_may_do_no_more_than_it_needs(
    file: Path, name: str, service: dict[str, Any]
) -> None:
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["tmpfs"] == ["/tmp"]
    assert service["deploy"]["resources"]["limits"]["memory"]
    assert service["logging"]["options"]["max-size"]
    for port in service.get("ports", ()):
        assert port.startswith("127.0.0.1:"), "TLS stands before it"


@pytest.mark.parametrize(("file", "name", "service"), OURS)
def test_the_image_is_the_projects_version(file: Path, name: str, service: dict[str, Any]) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    own = f"${{DARKQ_IMAGE:-darkq:{version}}}"
    assert service["image"] == own or service["image"].startswith("${DARKQ_IMAGE:?")


def test_the_gateways_port_is_the_one_it_listens_on() -> None:
    for file in COMPOSE:
        port = DEFAULTS["gateway_port"].default
        assert services(file)["gateway"]["ports"] == [f"127.0.0.1:{port}:{port}"]
        limit = services(file)["gateway"]["ulimits"]["nofile"]
        assert limit > DEFAULTS["gateway_max_connections"].default


def test_no_secret_has_a_default() -> None:
    for file in COMPOSE:
        for name, word in re.findall(
            r"\$\{(\w*PASSWORD\w*|\w*TOKEN\w*)(:\?|:-|)", file.read_text()
        ):
            assert word == ":?", name


def test_redis_starts_as_it_is_told_and_asks_for_the_password(tmp_path: Path) -> None:
    service = services(COMPOSE[0])["redis"]
    shell, flag, script = service["command"]
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "valkey-server").symlink_to(binaries()["valkey"])
    data, socket = tmp_path / "data", tmp_path / "s"
    data.mkdir()
    script = script.replace("$$", "$").replace(
        "dir /data", f"dir {data}\nport 0\nunixsocket {socket}"
    )
    environment = {"PATH": f"{programs}:/usr/bin:/bin", "REDISCLI_AUTH": "hunter2"}
    process = subprocess.Popen(
        [shell, flag, script], env=environment, cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:  # its end is the server's
            if "ready to accept connections" in line.lower():
                break
        else:
            pytest.fail("it has not started")
        # `exec`: the server itself is the process that gets the signals.
        assert "valkey-server" in Path(f"/proc/{process.pid}/cmdline").read_text()
        assert "hunter2" not in Path(f"/proc/{process.pid}/cmdline").read_text()
        with (
            redis.Redis(unix_socket_path=str(socket)) as stranger,
            pytest.raises(redis.AuthenticationError),
        ):
            stranger.ping()
        with redis.Redis(unix_socket_path=str(socket), password="hunter2") as client:
            told = client.config_get("maxmemory*", "append*", "save")
        assert told["maxmemory-policy"] == "noeviction"
        assert (told["appendonly"], told["appendfsync"]) == ("yes", "everysec")
        limit = service["deploy"]["resources"]["limits"]["memory"]
        assert limit == "2g"
        assert int(told["maxmemory"]) * 2 == 2 << 30
    finally:
        process.terminate()
        process.wait(10)
        process.stdout and process.stdout.close()
    assert os.listdir(data)
