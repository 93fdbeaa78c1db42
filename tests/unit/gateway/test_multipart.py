"""The parts of an upload, however the body is cut, and whatever is in it."""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from darkq_gateway.http.errors import ApiError
from darkq_gateway.http.multipart import Field, Upload, _Parts

BODY = (
    b'--B\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    b'--B\r\nContent-Disposition: form-data; name="file"; filename="a b.jsonl"\r\n'
    b"Content-Type: application/jsonl\r\n\r\n%b\r\n--B--\r\n"
)
CONTENT = st.lists(
    st.sampled_from([b"\r\n", b"\r\n-", b"\r\n--", b"\r", b"\n", b"--B", b"x", b"-"])
    | st.binary(max_size=9)
).map(b"".join)
CUTS = st.lists(st.integers(0, 400), max_size=30)


def read(body: bytes, cuts: list[int]) -> tuple[list[Field | Upload], bytes, bool]:
    """Feed a body in pieces; return its parts, the file's content, and whether it is complete."""
    parts = _Parts(b"B", "file")
    for start, end in pairwise(sorted({0, len(body), *cuts})):
        parts.feed(body[start:end])
    found = [event for event in parts.events if isinstance(event, Field | Upload)]
    content = b"".join(event for event in parts.events if isinstance(event, bytes))
    assert parts.file_bytes == len(content)
    return found, content, parts.complete


@given(content=CONTENT, cuts=CUTS)
def test_a_file_comes_whole_however_it_is_cut(content: bytes, cuts: list[int]) -> None:
    """Red if a line end at a cut is lost, or the boundary is missed across one."""
    if b"\r\n--B" in b"\r\n" + content + b"\r\n":
        return
    found, read_content, complete = read(BODY % content, cuts)
    assert found == [Field("purpose", "batch"), Upload("a b.jsonl")]
    assert read_content == content
    assert complete


@given(body=st.binary() | CONTENT.map(lambda content: BODY % content), cuts=CUTS, data=st.data())
def test_a_broken_body_is_refused_in_our_words_or_incomplete(
    body: bytes, cuts: list[int], data: st.DataObject
) -> None:
    """Red if an exception of the parser, or any other, comes out."""
    changed = bytearray(body)
    for at in data.draw(st.lists(st.integers(0, max(0, len(body) - 1)), max_size=5)):
        changed[at : at + 1] = data.draw(st.binary(max_size=3))
    with suppress(ApiError):
        read(bytes(changed), cuts)
