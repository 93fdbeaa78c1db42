"""Every fenced block of every document is run, or says why it is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from docs.conftest import Read
from support.markdown import REMARKS, ROOT, beside, blocks_of, documents
from support.reading_docs import commands_of, lacks

ORIGINALS = [path for path in documents() if ".ru." not in path.name and blocks_of(path)]
NOT_RUN_AT_MOST = 25
REASON_CHARS = 15
SKIPPED_AT_MOST = 1 / 3


@pytest.mark.slow
@pytest.mark.timeout(300)  # a page is long, and a busy machine slow
@pytest.mark.parametrize("path", ORIGINALS, ids=lambda path: str(path.relative_to(ROOT)))
async def test_what_it_says_can_be_done(path: Path, reading: Read) -> None:
    async with reading(beside(path)) as reader:
        for block in blocks_of(path):
            await reader.read(block)


def test_most_commands_are_run() -> None:
    blocks = [block for path in ORIGINALS for block in blocks_of(path)]
    commands = [c for b in blocks if b.language == "console" for c in commands_of(b)]
    skipped = [command.text for command in commands if lacks(command.text)]
    assert len(skipped) <= len(commands) * SKIPPED_AT_MOST, skipped


def test_a_block_that_is_not_run_says_why_and_there_are_few() -> None:
    blocks = [block for path in ORIGINALS for block in blocks_of(path)]
    assert all(set(block.remarks) <= set(REMARKS) for block in blocks)
    reasons = {b.place: b.remarks["not run"] for b in blocks if "not run" in b.remarks}
    assert not {place for place, why in reasons.items() if len(why) < REASON_CHARS}
    assert len(reasons) <= NOT_RUN_AT_MOST, reasons
    for why in reasons.values():  # a test that it names is there
        assert all((ROOT / word).exists() for word in why.split() if word.startswith("tests/"))
