"""The board's files: what they are, what they may do, and how long a browser keeps them."""

from __future__ import annotations

import re
from importlib.resources import files
from typing import Any

import pytest

from darkq_gateway.board.page import POLICY
from support.http_api import Api

STATIC = files("darkq_gateway.board").joinpath("static")
NAMES = sorted(file.name for file in STATIC.iterdir())
TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}


@pytest.mark.parametrize("name", NAMES)
async def test_each_file_is_served_under_the_policy_and_asked_for_again(
    api: Api, make_key: Any, name: str
) -> None:
    await make_key()  # the page itself needs none
    path = "/" if name == "index.html" else f"/board/{name}"
    answer = await api("GET", path)
    assert answer.status == 200
    assert answer.json == STATIC.joinpath(name).read_bytes()
    assert answer.headers["Content-Type"] == f"{TYPES[name.rpartition('.')[2]]}; charset=utf-8"
    assert answer.headers["Content-Security-Policy"] == POLICY
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Cache-Control"] == "no-cache"
    again = await api("GET", path, headers={"If-None-Match": answer.headers["ETag"]})
    assert (again.status, again.json) == (304, b"")
    other = await api("GET", path, headers={"If-None-Match": '"another"'})
    assert other.status == 200


async def test_nothing_else_is_served(api: Api) -> None:
    for path in ("/board/", "/board/../app.py", "/board/%2e%2e/app.py", "/board/page.py"):
        assert (await api("GET", path)).status == 404


def test_the_policy_allows_nothing_from_elsewhere() -> None:
    assert "default-src 'none'" in POLICY
    assert not re.search(r"unsafe|https?:|\*", POLICY)


@pytest.mark.parametrize("name", NAMES)
def test_a_file_is_small_and_keeps_to_itself(name: str) -> None:
    text = STATIC.joinpath(name).read_text()
    if name.endswith(".js"):
        assert len(text.splitlines()) <= 250
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text)
        assert "console." not in text
        assert "localStorage" not in text
    foreign = re.findall(r"https?://[^\"' ]+", text)
    assert set(foreign) <= {"http://www.w3.org/2000/svg"}
