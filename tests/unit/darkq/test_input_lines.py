"""Files as people have them, cut into lines."""

from __future__ import annotations

import bz2
import gzip
import lzma

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from darkq.batches.lines import MAX_LINE_BYTES, InputLines, Text
from darkq.errors import InvalidLine

BOM = b"\xef\xbb\xbf"


def cut(data: bytes, *sizes: int) -> list[tuple[int, bytes | str]]:
    """Cut a file that comes in pieces of such sizes; an error is what it says."""
    lines = InputLines()
    found: list[Text | InvalidLine] = []
    for size in sizes:
        found += lines.feed(data[:size])
        data = data[size:]
    found += [*lines.feed(data), *lines.end()]
    return [
        (each.line, each.reason) if isinstance(each, InvalidLine) else (each.number, each.text)
        for each in found
    ]


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"", []),
        (b"\n\r\n \t\n", []),
        (b"a\nb", [(1, b"a"), (2, b"b")]),
        (b"a\r\n\r\nb\r\n", [(1, b"a"), (3, b"b")]),
        (b"  indented\t\n", [(1, b"  indented\t")]),
        (BOM + b"a\nb\n", [(1, b"a"), (2, b"b")]),
        (BOM + b"a\n" + BOM + b"b\n" + BOM, [(1, b"a"), (2, b"b")]),
        (BOM + BOM + b"a", [(1, b"a")]),
        (b"a" + BOM + b"b", [(1, b"a" + BOM + b"b")]),
    ],
)
def test_what_editors_leave_is_put_right(data: bytes, lines: list[tuple[int, bytes]]) -> None:
    """Red when a byte order mark counts as text, or blanks at the beginning of a line do not."""
    assert cut(data) == lines
    assert cut(data, *[1] * len(data)) == lines


@given(st.binary(max_size=60), st.lists(st.integers(0, 20), max_size=8))
def test_pieces_of_any_size_give_the_same_lines(data: bytes, sizes: list[int]) -> None:
    assert cut(data, *sizes) == cut(data)


@given(
    st.lists(st.text(st.characters(exclude_characters="\0\r\n\ufeff", exclude_categories=["Cs"]))),
    st.sampled_from(["\n", "\r\n"]),
)
def test_every_line_of_text_comes_as_it_stands(texts: list[str], line_end: str) -> None:
    expected = [(n, t.encode()) for n, t in enumerate(texts, 1) if t.strip(" \t")]
    assert cut(line_end.join(texts).encode()) == expected


TEXT = '{"prompt": "Why do people queue?"}\n{"prompt": "Почему?"}\n'


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (TEXT.encode("utf-16"), "the file is UTF-16: save it as UTF-8"),
        (b"\xfe\xff" + TEXT.encode("utf-16-be"), "the file is UTF-16: save it as UTF-8"),
        (TEXT.encode("utf-16-le"), "the file is UTF-16: save it as UTF-8"),
        (TEXT.encode("utf-16-be"), "the file is UTF-16: save it as UTF-8"),
        ("hi".encode("utf-16-le"), "the file is UTF-16: save it as UTF-8"),
        (TEXT.encode("utf-32"), "the file is UTF-32: save it as UTF-8"),
        (gzip.compress(TEXT.encode(), mtime=0), "the file is packed with gzip: unpack it first"),
        (zstandard.compress(TEXT.encode()), "the file is packed with zstd: unpack it first"),
        (lzma.compress(TEXT.encode()), "the file is packed with xz: unpack it first"),
        (bz2.compress(TEXT.encode()), "the file is packed with bzip2: unpack it first"),
        (b"PK\x03\x04...", "a zip archive or a spreadsheet: export it as JSON lines"),
    ],
)
def test_a_file_that_is_no_utf8_is_named_once(data: bytes, said: str) -> None:
    ((number, reason),) = cut(data)
    assert number == 1
    assert isinstance(reason, str)
    assert reason.endswith(said)


def test_utf16_of_another_script_is_refused_by_its_nuls() -> None:
    """Such text has no zero bytes but those of blanks and line ends."""
    found = cut("Почему люди стоят\nв очередях\n".encode("utf-16-le"))
    assert found
    assert {reason for _, reason in found if isinstance(reason, str)} == {
        "holds NUL bytes: the file is damaged or no UTF-8; save it as UTF-8"
    }


def test_a_hole_of_a_crash_is_refused_where_it_is() -> None:
    found = cut(b"one\n" + bytes(4096) + b"\nthree\n")
    assert found[0] == (1, b"one")
    assert "NUL bytes" in str(found[1][1])
    assert found[2] == (3, b"three")


def test_a_line_that_is_too_long_is_refused_and_the_next_read() -> None:
    long = b"x" * (MAX_LINE_BYTES + 1)
    most = b"y" * MAX_LINE_BYTES
    lines = InputLines()
    found = [
        *lines.feed(b"a\n" + long + b"\n"),
        *lines.feed(most),
        *lines.feed(b"\n"),
        *lines.end(),
    ]
    assert [getattr(each, "reason", "") for each in found] == [
        "",
        f"is longer than {MAX_LINE_BYTES:,} bytes",
        "",
    ]


def test_of_an_endless_line_no_more_is_kept_than_a_line_may_have() -> None:
    lines = InputLines()
    for _ in range(20):
        assert list(lines.feed(b"x" * (1 << 20))) == []
    assert sum(map(len, lines._parts)) <= MAX_LINE_BYTES
    (error,) = lines.end()
    assert isinstance(error, InvalidLine)
