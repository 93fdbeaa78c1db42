"""Where modules lie, how long they are, and that none repeats another."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

from support.repository import ROOT, files_of

PACKAGES = (
    "producer/darkq",
    "worker/darkq_worker",
    "gateway/darkq_gateway",
    "cli/darkq_cli",
    "local/darkq_local",
)
MOST_MODULES = 13
MOST_LINES = 500
EQUAL_LINES = 8
"""A run of more equal lines belongs in one place."""


def modules() -> list[Path]:
    return [path for package in PACKAGES for path in files_of(ROOT / package, "*.py")]


def test_a_folder_has_at_most_13_modules() -> None:
    folders: dict[Path, int] = defaultdict(int)
    for path in modules():
        folders[path.parent] += path.name != "__init__.py"
    assert {str(f.relative_to(ROOT)): n for f, n in folders.items() if n > MOST_MODULES} == {}


def test_a_module_has_at_most_500_lines() -> None:
    lengths = {str(p.relative_to(ROOT)): len(p.read_text().splitlines()) for p in modules()}
    assert {name: n for name, n in lengths.items() if n > MOST_LINES} == {}


def test_no_two_modules_share_a_run_of_lines() -> None:
    """Import lines and blank lines do not count."""
    runs: dict[tuple[str, ...], tuple[Path, int]] = {}
    repeated = []
    for path in modules():
        lines = [
            (number, text)
            for number, line in enumerate(path.read_text().splitlines(), 1)
            if (text := line.strip()) and not text.startswith(("import ", "from "))
        ]
        for start in range(len(lines) - EQUAL_LINES):
            run = tuple(text for _, text in lines[start : start + EQUAL_LINES + 1])
            if not any(any(c.isalnum() for c in text) for text in run):
                continue
            other, at = runs.setdefault(run, (path, lines[start][0]))
            if other != path:
                here = f"{path.relative_to(ROOT)}:{lines[start][0]}"
                repeated.append(f"{here} ~ {other.relative_to(ROOT)}:{at}")
    assert repeated == []


def test_scripts_that_texts_name_exist() -> None:
    """Red when a script is renamed and a docstring, comment or document keeps the old name."""
    scripts = {path.name for path in files_of(ROOT / "producer", "*.lua")}
    folders = ("producer", "worker", "gateway", "cli", "faults", "support", "benchmarks", "docs")
    texts = [ROOT / "ARCHITECTURE.md", *(p for f in folders for p in files_of(ROOT / f, "*.*"))]
    unknown = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in texts
        if path.suffix in (".py", ".lua", ".md")
        for name in re.findall(r"\b\w+\.lua\b", path.read_text())
        if name not in scripts
    }
    assert unknown == set()
