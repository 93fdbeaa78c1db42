"""`make docs`: write what is made from the code, and the blocks of translated pages."""

from __future__ import annotations

from support.clients import PAGE, with_table
from support.reference import FOLDER, PAGES, made
from support.reference.translations import translations, with_blocks_of

for name in PAGES:
    (FOLDER / name).write_text(made(name))
for original, translation in translations():
    translation.write_text(with_blocks_of(original, translation))
PAGE.write_text(with_table(PAGE.read_text()))
