"""Settings: `.env.example` says what they are for, `Settings` knows the rest."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from darkq import Settings
from support.markdown import ROOT
from support.reference.words import joined


class Setting(NamedTuple):
    name: str
    default: str
    comment: list[str]


def page() -> str:
    """All below the introduction."""
    return joined(_sections())


def _sections() -> Iterator[str]:
    schema = Settings.model_json_schema()["properties"]
    for title, settings in sections():
        yield f"## {title}"
        for setting in settings:
            yield f"### `{setting.name}`"
            yield from _prose(setting.comment)
            yield _facts(setting, schema[setting.name.removeprefix("DARKQ_").lower()])


def sections() -> Iterator[tuple[str, list[Setting]]]:
    """The sections of `.env.example`, with their settings."""
    parts = re.split(r"(?m)^# --- (.*) ---$", (ROOT / ".env.example").read_text())
    for title, text in zip(parts[1::2], parts[2::2], strict=True):
        yield title, list(_settings(text))


def _settings(text: str) -> Iterator[Setting]:
    comment: list[str] = []
    for line in text.split("\n"):
        if match := re.fullmatch(r"#(DARKQ_[A-Z_]+)=(.*)", line):
            yield Setting(match[1], match[2], comment)
            comment = []
        elif line.startswith("#"):
            comment.append(line.removeprefix("# "))
        else:
            comment = []


def _prose(comment: list[str]) -> Iterator[str]:
    prose: list[str] = []
    code: list[str] = []
    for line in [*comment, ""]:
        if line.startswith(("  ", "#  ")):
            code.append(line.lstrip("# "))
            continue
        if code:
            yield " ".join(prose)
            yield "```env\n" + "\n".join(code) + "\n```"
            prose, code = [], []
        if line:
            prose.append(line)
    yield " ".join(prose)


def _facts(setting: Setting, schema: dict[str, Any]) -> str:
    kinds = [kind for kind in schema.get("anyOf", [schema]) if kind.get("type") != "null"]
    kind = {**schema, **kinds[0]}
    default = f"default `{setting.default}`" if setting.default else "not set by default"
    return "*" + "; ".join(filter(None, [_type(kind), _bounds(kind), default])) + "*"


def _type(kind: dict[str, Any]) -> str:
    if "enum" in kind:
        return "one of " + ", ".join(f"`{word}`" for word in kind["enum"])
    secret = "a secret" if kind.get("format") == "password" else "text"
    words = {"integer": "a whole number", "number": "a number", "object": "JSON"}
    return words.get(kind.get("type", ""), secret)


def _bounds(kind: dict[str, Any]) -> str:
    words = {
        "minimum": "at least",
        "exclusiveMinimum": "above",
        "maximum": "at most",
        "minLength": "characters, at least",
    }
    return ", ".join(f"{word} {kind[name]:,.10g}" for name, word in words.items() if name in kind)
