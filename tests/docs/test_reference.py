"""The reference says what the code says: `make docs` would change nothing."""

from __future__ import annotations

import re

import pytest

import darkq
from darkq import Settings
from darkq_gateway.native.openapi import make_document
from support.reference import FOLDER, PAGES, command, http, made


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_what_would_be_made(name: str) -> None:
    assert (FOLDER / name).read_text() == made(name), "run: make docs"


def headings(name: str, level: int) -> list[str]:
    return re.findall(rf"^{'#' * level} `([^`]*)`$", PAGES[name](), re.M)


def test_every_public_name_and_every_setting_stands_there_once() -> None:
    assert sorted(headings("python.md", 3)) == sorted(darkq.__all__)
    settings = [f"DARKQ_{name.upper()}" for name in Settings.model_fields]
    assert sorted(headings("settings.md", 3)) == sorted(settings)


def test_every_command_and_every_route_stands_there() -> None:
    shown = [re.sub(r" \[?[A-Z].*", "", heading) for heading in headings("command.md", 2)]
    assert set(shown) == command.names()
    documented = {
        (method.upper(), path)
        for path, methods in make_document()["paths"].items()
        for method in methods.keys() - {"parameters"}
    }
    assert documented <= http.routes().keys()
    page = PAGES["http.md"]()
    shown = [f"`{method} {path}`" for method, path in http.routes() if "/board/" not in path]
    assert all(words in page for words in shown)
