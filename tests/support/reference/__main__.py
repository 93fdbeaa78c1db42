"""`make docs`: write the pages of docs/reference that are made from the code."""

from __future__ import annotations

from support.reference import FOLDER, PAGES, made

for name in PAGES:
    (FOLDER / name).write_text(made(name))
