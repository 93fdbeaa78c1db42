"""Plain technical English: no idioms and no long sentences in what people read.

The documents have none. The packages still have some in docstrings, comments and messages:
`AT_MOST` counts them per package and may only be lowered. To see them, with the place of each:

    python tests/repository/test_prose.py producer
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
WORDS_OF_A_SENTENCE = 30

# What is wrong, as a pattern, and what to write instead.
IDIOMS = {
    r"who(m|so)?ever": "a client that, any process that",
    r"nobody|anybody|somebody|everybody": "no worker, any client, another process, all",
    r"told": "notified, requested, asked",
    r"tells? of": "reports",
    r"hears?|heard": "receives, is notified",
    r"of late": "recently",
    r"for ever": "indefinitely, without a limit",
    r"as ever": "as before",
    r"be it": "whether",
    r"hangs? (itself|themselves) into": "registers",
    r"lets? (it |them |one )?go( of)?": "releases, closes",
    r"signs? of life": "heartbeat, health check",
    r"stands?|stood": "is, is stored; represents (stands for)",
    r"mend(s|ed|ing)?": "fix, repair",
    r"(its|the) doors?": "listening socket; admission",
    r"the business of": "the task of",
    r"none of (its|their|the|darkq's)( business)?(?=[.,;:])": "not its task",
    r"say(s|ing)? so": "reports it",
    r"for good": "permanently",
    r"goodbye|in vain|come what may": "(leave it out)",
    r"the house": "the repository",
    r"knows? (nothing )?of(?! (fewer|more)\b)": "does not support, has no record of",
    r"know of no": "do not support",
    r"but for": "except",
    r"lost touch|loses? patience|makes? no secret": "is disconnected, times out",
    r"takes? (its|their) leave": "disconnects",
    r"once and for all|by and by|now and then|time and again": "(name the condition)",
}
# A sentence that begins with a relative clause and asks nothing; an inversion.
OPENINGS = {
    r"Who (?![^.!?]*\?)": "a user who, a process that",
    r"Nor ": "and … not",
}
PATTERN = re.compile(
    rf"\b(?:{'|'.join(IDIOMS)})\b|(?:(?<=[.;:] )|^)(?:{'|'.join(OPENINGS)})", re.IGNORECASE
)

# How many idioms each package may still have. Lower it, to 0.
AT_MOST = {
    "producer": 0,
    "worker": 0,
    "gateway": 0,
    "local": 4,  # in the sample text of the Markov chain
    "cli": 0,
    "faults": 1,  # in the name of a row
    "benchmarks": 0,
    "examples": 0,
    "deploy": 0,
}

DOCUMENTS = [
    ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")
] + [path for path in sorted((ROOT / "docs").rglob("*.md")) if ".ru." not in path.name]
# The rest of these pages comes from docstrings, which are counted with their packages.
MADE = "<!-- What follows is made from the code"


class Text(NamedTuple):
    """A piece of prose, and the line on which it begins."""

    line: int
    text: str


def prose_of(path: Path) -> str:
    """The prose of a document on the lines of the document: no code, no comments."""
    text = path.read_text().partition(MADE)[0]

    def blank(match: re.Match[str]) -> str:
        return re.sub(r"[^\n]", "", match[0])

    for code in (r"^( *)(```+).*?^\1\2 *$", r"<!--.*?-->", r"^    \S.*?$"):
        text = re.sub(code, blank, text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"`[^`\n]*`", "`code`", text)
    return re.sub(r"\]\([^)\s]*\)", "]", text)


def sentences_of(path: Path) -> Iterator[str]:
    """The sentences of a document. An item, a heading and a cell of a table end one, too."""
    for block in re.split(r"\n\s*\n|\n(?=\s*(?:[-*|#]|\d+\.) )|\|", prose_of(path)):
        text = " ".join(block.split())
        yield from re.split(r"(?<=[.!?:;])\s+", text)


def words_in(sentence: str) -> int:
    return sum("`code`" not in word for word in sentence.split())


def texts_of(path: Path) -> Iterator[Text]:
    """The prose of a source file: docstrings, comments and messages."""
    source = path.read_text()
    if path.suffix == ".py":
        yield from _texts_of_python(source)
        return
    comment = {".lua": "--", ".js": "// "}.get(path.suffix, "#")
    for number, line in enumerate(source.splitlines(), 1):
        yield Text(number, line.partition(comment)[2])


def _texts_of_python(source: str) -> Iterator[Text]:
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield Text(token.start[0], token.string)
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Constant(value=str(text)) if " " in text.strip():  # words, no name
                yield Text(node.lineno, text)


def idioms_in(texts: Iterator[Text], path: Path) -> Iterator[str]:
    """Each idiom, as `file:line: idiom`."""
    for line, text in texts:
        plain = re.sub(r"`[^`]*`", "`code`", text)
        for match in PATTERN.finditer(plain):
            number = line + plain[: match.start()].count("\n")
            yield f"{path.relative_to(ROOT)}:{number}: {match[0]}"


def idioms_of_package(package: str) -> list[str]:
    kinds = {".py", ".lua", ".js", ".yaml", ".yml", ".service", ".sh"}
    files = [path for path in sorted((ROOT / package).rglob("*")) if path.suffix in kinds]
    return [hit for path in files for hit in idioms_in(texts_of(path), path)]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_documents_have_no_idioms(path: Path) -> None:
    """Red for each expression of `IDIOMS` in prose; code and output are not prose."""
    assert not list(idioms_in(iter([Text(1, prose_of(path))]), path))


@pytest.mark.parametrize("package", AT_MOST)
def test_packages_have_no_more_idioms_than_before(package: str) -> None:
    """Red if a docstring, comment or message brings another idiom. `AT_MOST` only shrinks."""
    found = idioms_of_package(package)
    assert len(found) <= AT_MOST[package], "\n".join(found)


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_sentences_are_short(path: Path) -> None:
    """Red for a sentence of more than thirty words in a document; inline code is no word."""
    long = [text for text in sentences_of(path) if words_in(text) > WORDS_OF_A_SENTENCE]
    assert not long


def test_readme_is_short() -> None:
    """Red if README grows past 700 words, code included."""
    for name in ("README.md", "README.ru.md"):
        assert len((ROOT / name).read_text().split()) < 700, name


def test_the_test_can_tell(tmp_path: Path) -> None:
    """Red if a pattern matches no longer, or matches what is right."""
    wrong = (
        "Whoever asks is told.",
        "It hears nothing of it.",
        "It hangs itself into it.",
        "Who wants it, asks.",
        "The slot is let go.",
    )
    right = (
        "Who runs it?",
        "It understands the format.",
        "They go on.",
        "`nobody` is a user.",
        "Redis knows of fewer than n lines.",
    )
    page = ROOT / "page.md"
    for text in wrong:
        assert list(idioms_in(iter([Text(1, text)]), page)), text
    for text in right:
        assert not list(idioms_in(iter([Text(1, text)]), page)), text
    source = tmp_path / "module.py"
    source.write_text('"""Say it of late."""\nx = "nobody"  # for ever\ny = "as ever, x"\n')
    assert {each.text for each in texts_of(source)} == {
        "# for ever",
        "Say it of late.",
        "as ever, x",
    }


if __name__ == "__main__":
    for name in sys.argv[1:] or AT_MOST:
        hits = idioms_of_package(name)
        print(*hits, f"{name}: {len(hits)}", sep="\n")
