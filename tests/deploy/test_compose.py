"""The Compose files: their graces, their settings, and a Redis that really starts as they say."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from darkq import Settings
from support.deployment import COMPOSE, DOCKERFILE, OPERATE, ROOT, seconds, services

SECRET = r"PASSWORD|TOKEN|_KEY|REDIS_URL|AUTH"
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


def test_docker_inspect_shows_no_secret() -> None:
    """Red when a secret is among the variables that a Compose file gives, or in a command."""
    for file in COMPOSE:
        for name, service in services(file).items():
            variables = service.get("environment", {})
            assert not [each for each in variables if re.search(SECRET, each)], (file, name)
            shown = str([service.get(key) for key in ("environment", "command", "healthcheck")])
            assert not re.search(r"\$\{[^}]*(PASSWORD|TOKEN|_KEY|REDIS_URL)", shown)
    for role in ("worker", "gateway"):
        service = services(COMPOSE[0])[role]
        (mount,) = (each for each in service["volumes"] if isinstance(each, dict))
        assert mount["target"] == service["environment"]["DARKQ_SECRETS_DIR"]
        assert (mount["read_only"], mount["bind"]) == (True, {"create_host_path": False})
        assert mount["source"].endswith(f"/{role}")
        assert f"secrets/{role}/DARKQ_REDIS_URL" in OPERATE.read_text().replace("$role", role)


def test_every_image_of_others_is_named_by_its_digest() -> None:
    """And each image is a variable, so that it can be renewed as the document says."""
    text = OPERATE.read_text()
    for file in COMPOSE:
        for service in services(file).values():
            (variable,) = re.findall(r"^\$\{(\w+)(?::[-?]|\})", service["image"])
            assert f"{variable}=" in text, variable
    stages = re.findall(r"^FROM (\S+)", DOCKERFILE.read_text(), re.M)
    assert set(stages) == {"${PYTHON_IMAGE}"}
    assert "PYTHON_IMAGE=" in text
    (base,) = re.findall(r"^ARG PYTHON_IMAGE=(\S+)", DOCKERFILE.read_text(), re.M)
    defaults = [
        default
        for file in COMPOSE
        for default in re.findall(r"image: \$\{\w+:-([^}]+)\}", file.read_text())
        if not default.startswith("darkq:")
    ]
    assert defaults
    for image in (base, *defaults):
        assert re.fullmatch(r"[\w/.:-]+@sha256:[0-9a-f]{64}", image), image
    assert "imagetools inspect" in text


def test_no_secret_has_a_default() -> None:
    for file in COMPOSE:
        for name, word in re.findall(
            r"\$\{(\w*PASSWORD\w*|\w*TOKEN\w*)(:\?|:-|)", file.read_text()
        ):
            assert word == ":?", name
