"""Every `DARKQ_…` that a file for people or machines names is a setting."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from darkq import Settings
from darkq.settings.upstreams import UpstreamSettings
from support.deployment import ROOT
from support.repository import files_of

SETTINGS = {f"DARKQ_{field.upper()}" for field in Settings.model_fields}
FIELDS = {field.upper() for field in UpstreamSettings.model_fields}
OTHERS = {
    "DARKQ_SECRETS_DIR",  # where settings are looked for
    "DARKQ_MOVE_TO_URL",  # of `darkq queues move` alone
    # Compose's own variables, explained at the top of each file
    *("DARKQ_IMAGE", "DARKQ_SECRETS", "DARKQ_WORKERS"),
}
FILES = [
    ROOT / "Dockerfile",
    ROOT / "docker-compose.yml",
    ROOT / "README.md",
    ROOT / "ARCHITECTURE.md",
    *files_of(ROOT / "docs", "*.md"),
    *files_of(ROOT / "deploy"),
]


def is_known(name: str, follows: str) -> bool:
    """Tell whether a name is one, or with `…` behind it the beginning of one."""
    if follows.startswith("…"):
        return any(each.startswith(name) for each in SETTINGS)
    name, *path = name.split("__")
    if path:
        return name == "DARKQ_UPSTREAMS" and len(path) == 2 and path[1] in FIELDS
    return name in SETTINGS | OTHERS


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_a_file_names_settings_that_there_are(file: Path) -> None:
    text = file.read_text()
    found = re.finditer(r"DARKQ_[A-Z][A-Z0-9_]*", text)
    unknown = {
        match[0] for match in found if not is_known(match[0], text[match.end() : match.end() + 1])
    }
    # `DARKQ_UPSTREAMS__<NAME>__…` and `…__API_KEY` stand for many.
    assert not {name for name in unknown if not name.startswith("DARKQ_UPSTREAMS__")}
    for name in unknown:
        assert re.search(rf"{name}(…|<)", text), name


def test_composes_own_variables_are_explained() -> None:
    for file in (ROOT / "docker-compose.yml", ROOT / "deploy/compose/external-redis.yml"):
        head, body = file.read_text().split("\nname: ", 1)
        used = set(re.findall(r"\$\{(DARKQ_\w+|REDIS_\w+|PYTHON_\w+)", body)) - SETTINGS
        assert used
        assert used == {name for name in used if re.search(rf"^#   {name} ", head, re.M)}


def test_the_test_can_tell() -> None:
    assert not is_known("DARKQ_WORKER_JOB", " ")
    assert not is_known("DARKQ_UPSTREAMS__X__KEY", " ")
    assert not is_known("DARKQ_NOTHING_", "…")
    assert is_known("DARKQ_BREAKER_", "…")
    assert is_known("DARKQ_UPSTREAMS__X__API_KEY", "=")
