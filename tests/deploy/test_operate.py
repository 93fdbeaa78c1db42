"""docs/operate.md: every alert has its entry, and what the page refers to is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]

from support.command import Darkq
from support.deployment import KUBERNETES, OPERATE, ROOT
from support.repository import files_of

TEXT = OPERATE.read_text()
PROSE = re.sub(r"```.*?```", "", TEXT, flags=re.DOTALL)
HEADINGS = re.findall(r"^#+ (.*)$", PROSE, re.M)


def anchor(heading: str) -> str:
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def test_every_alert_says_what_it_means_and_what_to_do() -> None:
    groups = yaml.safe_load((ROOT / "docs/alerts.yaml").read_text())["groups"]
    alerts = [rule["alert"] for group in groups for rule in group["rules"]]
    told = re.findall(r"^### (Darkq\w+)\n\n(.+?)(?=\n#)", PROSE, re.M | re.DOTALL)
    assert [name for name, _ in told] == alerts, "all of them, in their order"
    for name, entry in told:
        assert len(entry) > 150, name


def test_what_it_refers_to_on_this_page_and_in_the_repository_is_there() -> None:
    anchors = {anchor(heading) for heading in HEADINGS}
    here = re.findall(r"\]\(#([^)]*)\)", PROSE)
    assert set(here) <= anchors
    for target in re.findall(r"\]\((\.\./[^)]*)\)", PROSE):
        assert (OPERATE.parent / target).exists(), target
    for path in re.findall(r"\b(deploy/[\w./-]+|tests/[\w./-]+\.py)", TEXT):
        assert any(ROOT.glob(f"{path}*")), path
    for name in re.findall(r"`(test_\w+\.py)`", TEXT):
        assert (ROOT / "tests/deploy" / name).exists(), name


def test_every_folder_of_manifests_is_explained() -> None:
    told = set(re.findall(r"^\| `([\w-]+)` \|", PROSE, re.M))
    folders = {file.parent.name for file in files_of(KUBERNETES, "kustomization.yaml")}
    assert folders - {"example"} <= told


def test_its_numbers_are_those_of_the_manifests_and_units() -> None:
    worker = (KUBERNETES / "base/worker.yaml").read_text()
    config = (KUBERNETES / "base/config.yaml").read_text()
    grace = re.findall(r"terminationGracePeriodSeconds: (\d+)", worker)[0]
    setting = re.findall(r'DARKQ_WORKER_SHUTDOWN_GRACE_S: "(\d+)"', config)[0]
    assert f"{grace} and {setting} s" in re.sub(r"\s+", " ", TEXT)
    gateway = (KUBERNETES / "base/gateway.yaml").read_text()
    (pause,) = re.findall(r'command: \[sleep, "(\d+)"\]', gateway)
    assert f"it sleeps for {pause} s" in re.sub(r"\s+", " ", TEXT)


COMMANDS = sorted(set(re.findall(r"`darkq ([a-z]+(?: [a-z]+)?)\b", PROSE)))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_that_it_names_is_one(command: str, tmp_path: Path) -> None:
    word, *rest = command.split()
    darkq = Darkq(tmp_path)
    done = darkq(word, *rest, "--help")
    assert done.code == 0, done.err
