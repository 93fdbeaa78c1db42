"""Whether what a document shows is what came.

What is shown must come, word for word. But these only have to be of the same kind: ids of jobs,
batches and keys, what was measured, and an answer of the small model, which `ANSWERS` knows. `…`
stands for anything within a line, alone on a line for any lines.
"""

from __future__ import annotations

import re

# What the small model says in the documents; the tests ask a Markov chain, which says other things.
ANSWERS = ("People queue to avoid waiting and make their lives easier.",)

_UNITS = r"(?=\ (?:s|ms|MB|kB|tokens|chunks|chunks/s|lines/s)\b)"
_DATE = r"\d{4}-\d\d-\d\d \d\d:\d\d(?::\d\d)?"
_KINDS = (  # what is shown, and what may come instead
    (r"\d+-[0-9a-f]{32}", r"\d+-[0-9a-f]{32}"),  # a job, a batch
    (r"darkq_[\w-]{20,}", r"darkq_[\w-]{20,}"),  # an API key
    (r"\b[0-9a-f]{16}\b", r"[0-9a-f]{16}"),  # a key's id, a request's
    (r"\b[0-9a-f]{32}\b", r"[0-9a-f]{32}"),  # a trace's
    (r"\b[\w.-]+:\d+:[0-9a-f]{8}\b", r"[\w.-]+:\d+:[0-9a-f]{8}"),  # a worker's
    (r"\d{4}-\d\d-\d\dT[\d:.]+Z", r"\d{4}-\d\d-\d\dT[\d:.]+Z"),
    (_DATE, _DATE),
    (r"local DarkAI, SmolLM2.*", r"[^\n]*"),  # another one answers the tests
    (r"/home/you/\S*", r"\S+"),
    (r"\b\d\d:\d\d:\d\d\b", r"\d\d:\d\d:\d\d"),
    (rf"\b\d[\d.,]*{_UNITS}", r"\d[\d.,]*"),  # what was measured
    (r"(?<=chunks    )[\d,]+\b", r"[\d,]+\d"),
    (r"\b\d{1,3}(?:,\d{3})+\b", r"\d[\d,]*"),
    (r"\b\d+(?:\.\d+)+", r"[\d.]+"),  # or a version
    (r"(?<=pid )\d+|\b\d{5,}\b", r"\d+"),  # a process, a port, epoch milliseconds
    ("…", r"[^\n]*"),
)
_KIND = re.compile("|".join(f"(?P<kind{n}>{shown})" for n, (shown, _) in enumerate(_KINDS)))


def matches(shown: str, came: str) -> bool:
    """Tell whether this is what came."""
    lines = [_line(line.rstrip()) for line in _unruled(shown).strip("\n").split("\n")]
    return (
        re.fullmatch(r"\s*" + "".join(lines) + r"\s*", _unruled(came).rstrip() + "\n") is not None
    )


def _unruled(text: str) -> str:
    """A text without the rules of its tables."""
    return re.sub(r"(?m)^ *─+ *\n", "", text)


def _line(line: str) -> str:
    if line == "…":
        return r"(?:[^\n]*\n)*?"
    for answer in ANSWERS:
        if answer in line:
            before, after = line.split(answer)
            return rf"{_words(before)}[^\n]+{_words(after)} *\n"
    return _words(line) + r" *\n"


def _words(text: str) -> str:
    """A pattern of a line, or of a part of one."""
    parts, end = [], 0
    for match in _KIND.finditer(text):
        instead = _KINDS[int(str(match.lastgroup).removeprefix("kind"))][1]
        parts += [_spaced(text[end : match.start()]), instead]
        end = match.end()
    return "".join([*parts, _spaced(text[end:])])


def _spaced(text: str) -> str:
    """Columns may be wider or narrower than shown."""
    return re.sub(r"(?:\\ ){2,}", " +", re.escape(text))
