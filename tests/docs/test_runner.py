"""The runner itself: what it lets pass as shown, and what it does not let pass at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from docs.conftest import Read
from support.markdown import ROOT, Block, blocks_of
from support.shown import matches

SAME = [
    ("state     completed", "state  completed\n"),
    ("0-08355ad966bb7f4f29896aca66399018", "3-ffffffffffffffffffffffffffffffff\n"),
    ("time      86.1 s, 2.3 lines/s", "time      3.0 s, 66.2 lines/s\n"),
    ("chunks    7,445, 86 chunks/s", "chunks    96, 317 chunks/s\n"),
    ("People queue to avoid waiting and make their lives easier.", "In the evening\n"),
    ("…\nb", "a\na\nb\n"),
    (
        " worker   stands\n vm:1:0123abcd   claims",
        "\n worker stands \n ────── \n a.b:22:89abcdef  claims\n",
    ),
    ('{"id":"0-1",…}', '{"id":"0-1","at_ms":17}\n'),
]
OTHER = [
    ("state     completed", "state     failed\n"),
    ("answered  8 of 8 lines", "answered  7 of 8 lines\n"),
    ("People queue to avoid waiting and make their lives easier.", "\n"),
    ("a\nb", "a\nc\nb\n"),
    ("…\nb", "a\n"),
    ('{"id":"0-1",…}', '{"id":"1-1","at_ms":17}\n'),
]


@pytest.mark.parametrize(("shown", "came"), SAME)
def test_what_was_measured_and_what_is_random_may_differ(shown: str, came: str) -> None:
    assert matches(shown, came)


@pytest.mark.parametrize(("shown", "came"), OTHER)
def test_nothing_else_may(shown: str, came: str) -> None:
    assert not matches(shown, came)


def block(language: str, text: str, remarks: Mapping[str, str] = {}) -> Block:
    return Block(ROOT / "README.md", 1, language, text, remarks)


@pytest.mark.parametrize(
    ("language", "text", "why"),
    [
        ("console", "$ false\n", "ends with 1"),
        ("console", "$ echo a\nb\n", "came:\na"),
        ("console", "echo a\n", "begins with"),
        ("bash", "false\ntrue\n", "ends with 1"),
        ("python", "await client.nothing()\n", "AttributeError"),
        ("", "shown\n", "nothing has printed this"),
        ("json", '{"a": }\n', "is no json"),
        ("yaml", "a: [\n", "is no yaml"),
        ("env", "DARKQ_NO_SUCH_THING=1\n", "DARKQ_NO_SUCH_THING"),
        ("ruby", "puts 1\n", "nobody knows"),
    ],
)
async def test_a_block_that_is_wrong_is_refused_with_its_place(
    language: str, text: str, why: str, reading: Read
) -> None:
    async with reading(set()) as reader:
        with pytest.raises(AssertionError, match=r"README\.md:1: ") as refusal:
            await reader.read(block(language, text))
    assert why in str(refusal.value)


def test_remarks_stand_right_before_their_fence(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "<!-- not run: of another block -->\nText.\n\n"
        "<!-- given:\na = 1\n-->\n<!-- exit code: 1 -->\n```python\nb\n```\n"
        "- in a list:\n\n  ```console\n  $ true\n  ```\n"
    )
    first, second = blocks_of(page)
    assert first.remarks == {"given": "a = 1", "exit code": "1"}
    assert (second.language, second.text, second.remarks) == ("console", "$ true\n", {})
    page.write_text("```python\nwithout an end\n")
    with pytest.raises(AssertionError, match="without an end"):
        blocks_of(page)
