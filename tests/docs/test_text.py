"""What documents say beside their blocks: links lead somewhere, names exist, pairs agree."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from darkq import Settings
from darkq.settings.upstreams import UpstreamSettings
from support.markdown import ROOT, anchor, blocks_of, documents, headings_of, prose_of
from support.reference import command
from support.reference.translations import translations

OTHERS = ("ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
PAGES = [*documents(), *(ROOT / name for name in OTHERS)]
LINK = re.compile(r"\[[^]]*\]\(([^)\s]+)\)|<img src=\"([^\"]+)\"")
PAIRS = list(translations())


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_links_lead_somewhere(path: Path) -> None:
    targets = [a or b for a, b in LINK.findall(prose_of(path))]
    lost = [target for target in targets if not _leads_somewhere(path, target)]
    assert not lost


def _leads_somewhere(path: Path, target: str) -> bool:
    if re.match(r"\w+:", target):  # another site's
        return True
    file, _, fragment = target.partition("#")
    there = (path.parent / file).resolve() if file else path
    if not there.exists() or not there.is_relative_to(ROOT):
        return False
    return not fragment or fragment in map(anchor, headings_of(there))


def test_the_index_leads_to_every_page() -> None:
    index = ROOT / "docs" / "README.md"
    linked = {(index.parent / target).resolve() for target, _ in LINK.findall(prose_of(index))}
    assert {path for path in documents() if path.parent != ROOT} - {index} <= linked


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_files_that_it_names_exist(path: Path) -> None:
    """Red if a test or a module that a page names was moved, and the page was not changed."""
    folders = "tests|producer|worker|gateway|local|cli|benchmarks|faults|deploy|examples"
    named = set(re.findall(rf"`((?:{folders})/[\w./-]+)`", path.read_text()))
    assert not {name for name in named if not (ROOT / name).exists()}


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_settings_and_commands_that_it_names_exist(path: Path) -> None:
    text = path.read_text()
    known = {f"DARKQ_{name.upper()}" for name in Settings.model_fields}
    known |= {"DARKQ_SECRETS_DIR", "DARKQ_MOVE_TO_URL"}  # of no process that serves
    for compose in [*ROOT.glob("docker-compose*.yml"), *ROOT.glob("deploy/**/*.yml")]:
        known |= set(re.findall(r"\$\{(DARKQ_[A-Z_]+)", compose.read_text()))
    named = set(re.findall(r"\bDARKQ_[A-Z0-9_]*[A-Z0-9]\b(?!_?…|_?<)", text))
    assert not {name for name in named if name.split("__")[0] not in known}
    parts = {name.split("__")[2] for name in named if name.count("__") == 2}
    assert parts <= {name.upper() for name in UpstreamSettings.model_fields}
    groups = {" ".join(name.split()[:2]) for name in command.names()}
    asked = set(re.findall(r"`(?:\$ )?(darkq [a-z][a-z-]*)", prose_of(path)))
    assert asked <= groups


@pytest.mark.parametrize(("original", "russian"), PAIRS, ids=lambda path: path.name)
def test_a_translation_has_the_same_blocks_and_headings(original: Path, russian: Path) -> None:
    ours = [(block.language, block.text) for block in blocks_of(russian)]
    assert ours == [(block.language, block.text) for block in blocks_of(original)]
    assert len(headings_of(russian)) == len(headings_of(original))
    for page in (original, russian):  # each names the other
        other = russian if page is original else original
        assert f"({other.name})" in page.read_text()
