"""The pages of docs/reference that are made from the code: `make docs` writes them anew.

The introduction of each, above `MADE`, is written by hand and stays. A test compares the rest with
what would be written, so that it cannot fall behind.
"""

from __future__ import annotations

from collections.abc import Callable

from support.markdown import ROOT
from support.reference import command, events, http, python, settings

FOLDER = ROOT / "docs" / "reference"
MADE = "<!-- What follows is made from the code: make docs -->\n"
PAGES: dict[str, Callable[[], str]] = {
    "settings.md": settings.page,
    "command.md": command.page,
    "http.md": http.page,
    "events.md": events.page,
    "python.md": python.page,
}


def made(name: str) -> str:
    """A page as it would be written."""
    introduction = (FOLDER / name).read_text().partition(MADE)[0]
    return f"{introduction}{MADE}\n{PAGES[name]()}"
