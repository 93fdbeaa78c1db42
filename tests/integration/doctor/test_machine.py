"""The settings and this machine: each check red and green."""

from __future__ import annotations

import re
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from darkq import Settings
from darkq_cli.doctor.checks import CheckResult
from darkq_cli.doctor.machine import MACHINE
from support.repository import ROOT


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Settings]:
    def make(**changes: Any) -> Settings:
        return Settings(_env_file=None, **{"state_dir": tmp_path / "state", **changes})

    return make


async def look(settings: Settings) -> dict[str, CheckResult]:
    return {found.check: found async for found in MACHINE.run(settings)}


@pytest.mark.parametrize(
    ("verdict", "changes", "named"),
    [
        ("problem", {"worker_jobs": 10}, "DARKQ_WORKER_RESERVED_INTERACTIVE"),
        ("problem", {"darkai_url": "none"}, "DARKQ_UPSTREAMS__"),
        ("problem", {"default_upstream": "x"}, "Use one of: darkai"),
        ("problem", {"worker_lease_s": 10}, "DARKQ_REDIS_TIMEOUT_S=6.66667"),
        ("warning", {"retry_base_s": 61}, "DARKQ_RETRY_MAX_S"),
        ("warning", {"breaker_cooldown_s": 301}, "DARKQ_BREAKER_COOLDOWN_MAX_S"),
    ],
)
async def test_settings_that_contradict_each_other(
    make: Callable[..., Settings], verdict: str, changes: dict[str, Any], named: str
) -> None:
    assert (await look(make()))["configuration"].verdict == "ok"
    found = (await look(make(**changes)))["configuration"]
    assert found.verdict == verdict
    assert named in found.do


async def test_the_worst_verdict_counts_and_all_are_told(make: Callable[..., Settings]) -> None:
    found = (await look(make(retry_base_s=61, worker_jobs=10)))["configuration"]
    assert found.verdict == "problem"
    assert "reserved" in found.found.split("; ")[0]
    assert "DARKQ_RETRY_BASE_S" in found.found.split("; ")[1]


def list_documented_variables() -> set[str]:
    """The variables that documents and deployments name, other than parts of names (DARKQ_X_…)."""
    folders = ("docs", "deploy", "examples")
    files = [*ROOT.glob("README*.md"), ROOT / ".env.example", ROOT / "docker-compose.yml"]
    files += [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    texts = [path.read_text() for path in files if path.suffix not in (".png", ".svg", ".pyc")]
    return {name for text in texts for name in re.findall(r"\bDARKQ_[A-Z0-9_]*[A-Z0-9]\b", text)}


async def test_every_variable_of_our_documents_is_known(
    make: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Red when a document tells people to set what doctor tells them to remove."""
    monkeypatch.chdir(tmp_path)
    named = list_documented_variables()
    assert {"DARKQ_MOVE_TO_URL", "DARKQ_SECRETS_DIR", "DARKQ_WORKERS", "DARKQ_REDIS_URL"} <= named
    settings = make()
    for name in named:
        monkeypatch.setenv(name, "1")
    found = (await look(settings))["unknown settings"]
    assert found.verdict == "ok", found.found


@pytest.mark.parametrize(
    ("name", "suggested"),
    [
        ("DARKQ_REDS_URL", "Use DARKQ_REDIS_URL"),
        ("DARKQ_WORKER_JOB", "Use DARKQ_WORKER_JOBS"),
        ("DARKQ_MOVE_URL", "Remove DARKQ_MOVE_URL"),
        ("DARKQ_FOLDER", "Remove DARKQ_FOLDER"),
        ("DARKQ_SLOTS", "Remove DARKQ_SLOTS"),
    ],
)
async def test_only_near_names_are_suggested(
    make: Callable[..., Settings],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    name: str,
    suggested: str,
) -> None:
    """Red when any setting that has a few of its letters is suggested, such as DARKQ_REDIS_URL."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(name, "1")
    found = (await look(make()))["unknown settings"]
    assert found.do.startswith(suggested)


async def test_variables_that_nothing_reads(
    make: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DARKQ_WORKER_JOBS", "5")
    monkeypatch.setenv("DARKQ_UPSTREAMS__X__URL", "http://x")
    (tmp_path / ".env").write_text("DARKQ_REDIS_PASSWORD=hunter2\nDARKQ_PARTITIONS=1\n")
    assert (await look(make()))["unknown settings"].verdict == "ok"
    monkeypatch.setenv("DARKQ_WORKER_JOBZ", "hunter2")
    (tmp_path / ".env").write_text("DARKQ_NONSENSE_AT_ALL=hunter2\n")
    found = (await look(make()))["unknown settings"]
    assert found.verdict == "warning"
    assert found.found.endswith(": DARKQ_NONSENSE_AT_ALL, DARKQ_WORKER_JOBZ")
    assert "Use DARKQ_WORKER_JOBS" in found.do
    assert "hunter2" not in repr(found)


@pytest.mark.parametrize(("most", "verdict"), [(100, "problem"), (1024, "warning"), (20_000, "ok")])
async def test_open_files(
    make: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch, most: int, verdict: str
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (most, most))
    found = (await look(make()))["open files"]
    assert found.verdict == verdict
    if verdict == "warning":
        assert (await look(make(gateway_max_connections=500)))["open files"].verdict == "ok"


class _Usage(NamedTuple):
    total: int
    used: int
    free: int


@pytest.mark.parametrize(
    ("free", "state", "files"),
    [
        (50 << 20, "problem", "problem"),
        (300 << 20, "warning", "problem"),
        (600 << 20, "warning", "warning"),
        (5 << 30, "ok", "ok"),
    ],
)
async def test_room_on_the_disk(
    make: Callable[..., Settings],
    monkeypatch: pytest.MonkeyPatch,
    free: int,
    state: str,
    files: str,
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: _Usage(free, 0, free))
    found = await look(make())
    assert (found["state folder"].verdict, found["files"].verdict) == (state, files)


async def test_a_folder_that_cannot_be_written_to(
    make: Callable[..., Settings], tmp_path: Path
) -> None:
    (tmp_path / "taken").write_text("")
    found = await look(make(state_dir=tmp_path / "taken" / "state"))
    assert found["state folder"].verdict == found["files"].verdict == "problem"
    assert not (tmp_path / "state").exists(), "nothing is made"


async def test_the_state_folder_is_of_the_embedded_server(make: Callable[..., Settings]) -> None:
    found = await look(make(redis_url="redis://elsewhere"))
    assert found["state folder"].verdict == "skipped"
    assert found["files"].verdict == "ok"


@pytest.mark.parametrize(
    ("url", "verdict"),
    [("memory:///", "ok"), ("nonsense://x", "problem"), ("http://127.0.0.1:1/x", "problem")],
)
async def test_a_store_of_files(make: Callable[..., Settings], url: str, verdict: str) -> None:
    found = (await look(make(files_url=url)))["files"]
    assert found.verdict == verdict, found


async def test_folders_that_other_users_can_open(
    make: Callable[..., Settings], tmp_path: Path
) -> None:
    """Red if only room and the right to write are looked at."""
    settings = make()
    for folder in (settings.state_dir, settings.state_dir / "files", tmp_path / "files"):
        folder.mkdir(mode=0o700)
    found = await look(settings)
    assert found["state folder"].verdict == found["files"].verdict == "ok"
    settings.state_dir.chmod(0o750)
    (settings.state_dir / "files").chmod(0o705)
    found = await look(settings)
    for check, folder in (
        ("state folder", settings.state_dir),
        ("files", settings.state_dir / "files"),
    ):
        assert found[check].verdict == "warning"
        assert "other users" in found[check].found
        assert f"chmod 700 {folder}" in found[check].do
    (tmp_path / "files").chmod(0o755)
    found = await look(make(files_url=(tmp_path / "files").as_uri()))
    assert "other users" in found["files"].found
