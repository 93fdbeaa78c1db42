"""What deploys darkq, as its files say it: manifests, units, services, the image, documents."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from support.repository import files_of

ROOT = Path(__file__).parents[1]

KUBERNETES = ROOT / "deploy/kubernetes"
SYSTEMD = ROOT / "deploy/systemd"
COMPOSE = [ROOT / "docker-compose.yml", ROOT / "deploy/compose/external-redis.yml"]
DOCKERFILE = ROOT / "Dockerfile"
OPERATE = ROOT / "docs/operate.md"


def need(program: str, package: str) -> str:
    """Return where a program is; without it, skip, but never where the tests count."""
    if (path := shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin")) is not None:
        return path
    reason = f"no {program} is installed: apt-get install {package}"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def documents(file: Path) -> list[dict[str, Any]]:
    """The documents of a YAML file."""
    return [each for each in yaml.safe_load_all(file.read_text()) if each]


def manifests() -> list[Path]:
    """The files that hold Kubernetes' objects."""
    return [file for file in files_of(KUBERNETES, "*.yaml") if file.stem != "kustomization"]


def objects(kind: str) -> dict[str, dict[str, Any]]:
    """Kubernetes' objects of a kind, by name."""
    found = [each for file in manifests() for each in documents(file) if each["kind"] == kind]
    return {each["metadata"]["name"]: each for each in found}


def pod(kind: str, name: str) -> dict[str, Any]:
    """What a workload says of its Pods."""
    spec: dict[str, Any] = objects(kind)[name]["spec"]["template"]["spec"]
    return spec


def container(kind: str, name: str) -> dict[str, Any]:
    """The only container of a workload."""
    (only,) = pod(kind, name)["containers"]
    return dict(only)


def services(file: Path) -> dict[str, Any]:
    """The services of a Compose file."""
    found: dict[str, Any] = yaml.safe_load(file.read_text())["services"]
    return found


def seconds(text: str) -> float:
    """A time as Compose and systemd write it."""
    match = re.fullmatch(r"([\d.]+)s", text)
    assert match, text
    return float(match[1])


def unit(file: Path) -> dict[str, list[str]]:
    """What a unit says, by `Section.Key`; a key may stand there several times."""
    found: dict[str, list[str]] = {}
    section = ""
    for line in file.read_text().splitlines():
        if match := re.fullmatch(r"\[(\w+)\]", line):
            section = match[1]
        elif line and not line.startswith("#"):
            key, value = line.split("=", 1)
            found.setdefault(f"{section}.{key}", []).append(value)
    return found
