"""The image, as far as it can be tried without Docker: what goes in and out, and who is first."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
import zipfile
from fnmatch import fnmatch
from pathlib import Path

import pytest

from darkq import Client
from support.command import Darkq
from support.deployment import DOCKERFILE, ROOT
from support.repository import repository_files
from support.waiting import wait_until

TEXT = DOCKERFILE.read_text()


def stages() -> list[str]:
    """The text of each stage."""
    return re.split(r"^FROM ", TEXT, flags=re.M)[1:]


def allowed() -> list[Path]:
    """What `.dockerignore` lets into the build, of the files that are in the repository."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*", "everything that is not named stays out"
    names = {rule[1:] for rule in rules if rule.startswith("!")}
    kept_out = [rule.removeprefix("**/") for rule in rules[1:] if not rule.startswith("!")]
    listed = (file.relative_to(ROOT) for file in repository_files())
    return [
        file
        for file in listed
        if file.parts[0] in names and not any(fnmatch(file.name, rule) for rule in kept_out)
    ]


def test_what_goes_in_is_enough_for_the_wheel_and_holds_nothing_else(tmp_path: Path) -> None:
    source, out = tmp_path / "src", tmp_path / "dist"
    for file in allowed():
        (source / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, source / file)
    assert not any((source / name).exists() for name in (".env", ".git", "tests", "docs", "deploy"))
    (build,) = re.findall(r"python (-m hatchling build --target wheel) --directory /dist", TEXT)
    subprocess.run(
        [sys.executable, *build.split(), "--directory", out],
        cwd=source, capture_output=True, timeout=100, check=True,
    )  # fmt: skip
    (wheel,) = out.glob("*.whl")
    packages = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    ours = {"darkq", "darkq_worker", "darkq_gateway", "darkq_cli", "darkq_local"}
    assert {name for name in packages if not name.endswith(".dist-info")} == ours


def test_every_install_is_bound_to_hashes_and_the_base_to_a_release() -> None:
    installs = re.findall(r"pip(?: --python \S+)? install (.*?)(?: \\)?$", TEXT, re.M)
    assert installs
    for options in installs:
        assert "--no-deps" in options
        assert re.search(r"--requirement requirements-\w+\.txt|--no-index /dist/", options)
    (base,) = re.findall(r"^ARG PYTHON_IMAGE=(.*)$", TEXT, re.M)
    assert re.fullmatch(r"python:3\.\d+-slim-[a-z]+@sha256:[0-9a-f]{64}", base)
    assert [stage.split()[0] for stage in stages()] == ["${PYTHON_IMAGE}"] * 2


def test_the_final_stage_brings_no_tool_and_no_root() -> None:
    final = stages()[-1]
    assert "pip uninstall" in final
    assert not re.search(r"\b(apt-get|apk|pip install|hatchling|curl)\b", final)
    assert re.findall(r"^COPY (.*)$", final, re.M) == ["--from=build /opt/darkq /opt/darkq"]
    assert re.findall(r"^USER (.*)$", final, re.M) == ["10001:10001"]


def test_its_label_is_the_version_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (version,) = re.findall(r"^ARG VERSION=(.*)$", TEXT, re.M)
    assert version == project["version"]
    (told,) = re.findall(r'image\.description="(.*)"', TEXT)
    assert told == project["description"]


def test_the_command_is_the_first_process_and_not_a_shells_child() -> None:
    (entry,) = re.findall(r"^ENTRYPOINT (.*)$", TEXT, re.M)
    (command,) = re.findall(r"^CMD (.*)$", TEXT, re.M)
    assert (json.loads(entry), json.loads(command)) == (["darkq"], ["worker"])


def alone() -> list[str]:
    """What makes a process the first of its namespace, as a container does."""
    command = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if os.getuid() != 0:
        command[1:1] = ["--user", "--map-root-user"]
    done = subprocess.run([*command, "true"], capture_output=True, timeout=10, check=False)
    if done.returncode != 0:
        pytest.skip("no namespace of processes may be made here")
    return command


@pytest.mark.parametrize("command", ["worker", "gateway"])
async def test_as_the_first_process_it_hears_sigterm(
    darkq: Darkq, client: Client, command: str
) -> None:
    """The kernel drops a signal for it that it does not handle: such a container is killed."""
    darkq.environment |= {"DARKQ_GATEWAY_PORT": "0", "DARKQ_DARKAI_URL": "http://127.0.0.1:1/chat"}
    process = darkq.start(command, command=[*alone(), sys.executable, "-m", "darkq_cli"])
    word = {"worker": "worker ready", "gateway": "listening on"}[command]
    await wait_until("its start", lambda: process.says(word))
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    (first,) = map(int, children)
    assert "NSpid:" in (status := Path(f"/proc/{first}/status").read_text())
    assert re.search(r"^NSpid:.*\s1$", status, re.M)
    os.kill(first, signal.SIGTERM)
    done = await asyncio.to_thread(process.done)
    assert done.code == 0, done.err
    assert await client.workers() == []
