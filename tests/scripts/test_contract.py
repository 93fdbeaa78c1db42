"""One contract per script: a Lua file, the function that calls it, and a file of tests."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import pytest

from darkq.redis import scripts
from support.repository import ROOT, files_of

PACKAGES = ("producer", "worker", "gateway", "local", "cli")
LUA = ROOT / "producer/darkq/redis/lua"
SCRIPTS = sorted(path.stem for path in LUA.glob("*.lua"))
INCLUDES = sorted(path.stem for path in (LUA / "includes").glob("*.lua"))
CALLS = Path(scripts.__file__).parent


def head(path: Path) -> str:
    return "\n".join(re.match(r"(?:--.*\n)*", path.read_text())[0].splitlines())  # type: ignore[index]


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_has_a_function_of_its_name_and_a_head(name: str) -> None:
    assert inspect.iscoroutinefunction(getattr(scripts, name))
    assert scripts.ALL[name].name == name
    lines = head(LUA / f"{name}.lua").splitlines()
    for word in ("KEYS", "ARGV", "Returns"):
        assert sum(line.startswith(f"-- {word} ") for line in lines) == 1, word


def test_no_script_is_left_out() -> None:
    assert sorted(scripts.ALL) == SCRIPTS
    sources = b"".join(script.source() for script in scripts.ALL.values())
    for name in INCLUDES:
        assert (LUA / "includes" / f"{name}.lua").read_bytes() in sources, name


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_has_a_file_of_tests(name: str) -> None:
    """Named like it, so the tests of a script are found at once; they run on three servers."""
    assert (Path(__file__).parent / f"test_{name}.py").exists()


@pytest.mark.parametrize("package", PACKAGES)
def test_only_the_typed_functions_call_scripts(package: str) -> None:
    """Red when a module makes a `Script`, takes one to call it, or uses redis-py's own ways.

    What may be done elsewhere: all scripts are loaded, over `ALL.values()`.
    """
    for path in files_of(ROOT / package, "*.py"):
        if CALLS in path.parents:
            continue
        text = path.read_text()
        assert not re.search(r"\.(evalsha|eval|register_script)\(", text), path
        assert not re.search(r"scripts\.script\b|scripts\.ALL\b(?!\.values\(\))", text), path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
                "darkq.redis.scripts"
            ):
                names = {alias.name for alias in node.names}
                assert not names & {"Script", "ALL", "Argument"}, path
