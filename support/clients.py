"""The clients that the gateway's tests run, and their rows in docs/compatibility.md.

A row's versions come from the pins, its text from the names of the cases. `test_clients.py` runs
each program and requires that exactly these cases held. The rows of readers of event streams come
from `READERS`, and `test_readers.py` requires what they say.
"""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

from support.repository import ROOT

HERE = ROOT / "tests/integration/gateway/clients"
PROGRAMS = HERE / "programs"
NPM = HERE / "npm"
ENVIRONMENTS = ("sdks", "instructor")
"""Of Python; `npm` is the third one."""


class Program(NamedTuple):
    """A program, its environment, and the packages whose versions its row has."""

    file: str
    environment: str
    packages: tuple[str, ...]
    about: str = ""
    shared: tuple[str, ...] = ()
    """Other files that register its cases."""

    @property
    def cases(self) -> list[str]:
        """The names of its cases."""
        sources = [(PROGRAMS / name).read_text() for name in (*self.shared, self.file)]
        literal = r'^ *(?:@case|testCase)\(\s*"((?:[^"\\]|\\.)*)"'
        return [name for text in sources for name in re.findall(literal, text, re.MULTILINE)]

    @property
    def client(self) -> str:
        """The packages with the versions that run."""
        name = name_versions(self.environment, self.packages)
        return f"{name}: {self.about}" if self.about else name


AI_CASES = ("ai_cases.mjs",)
PROGRAMS_RUN = (
    Program("openai_chat.py", "sdks", ("openai",), "chat"),
    Program("openai_responses.py", "sdks", ("openai",), "Responses"),
    Program("openai_batches.py", "sdks", ("openai",), "batches"),
    Program("langchain_chat.py", "sdks", ("langchain-openai",)),
    Program("pydantic_agents.py", "sdks", ("pydantic-ai-slim",)),
    Program("openai_agents.py", "sdks", ("openai-agents",)),
    Program("litellm_client.py", "sdks", ("litellm",)),
    Program("llm_command.py", "sdks", ("llm",)),
    Program("instructor_modes.py", "instructor", ("instructor", "openai")),
    Program("openai_npm.mjs", "npm", ("openai",)),
    Program("ai_sdk.mjs", "npm", ("ai", "@ai-sdk/openai"), shared=AI_CASES),
    Program("ai_compatible.mjs", "npm", ("ai", "@ai-sdk/openai-compatible"), shared=AI_CASES),
)


class Reader(NamedTuple):
    """A client of event streams: a program that prints the events behind a URL."""

    file: str
    environment: str
    packages: tuple[str, ...]
    how: str
    """Who reconnects."""
    at_end: tuple[int, ...]
    """The statuses that it gets for a job that has ended."""
    told: str = "it stops"
    """What it does after a 401 or 404."""


LOOP = "a loop of the program, with `Last-Event-ID`"
READERS = (
    Reader(
        *("reader_eventsource.mjs", "npm", ("eventsource",)),
        "the package; meanwhile something else must keep Node alive",
        (200, 204),
        "it closes, and its `error` event has the status as `code`",
    ),
    Reader("reader_eventsource_parser.mjs", "npm", ("eventsource-parser",), LOOP, (200,)),
    Reader(
        *("reader_fetch_event_source.mjs", "npm", ("@microsoft/fetch-event-source",)),
        "the package; after the clean end of a gateway that stops, only if `onclose` throws",
        (200,),
        "it stops if `onopen` and `onerror` throw; without them it asks again forever",
    ),
    Reader("reader_httpx_sse.py", "sdks", ("httpx-sse",), LOOP, (200,)),
)


def pin_file(environment: str) -> Path:
    return HERE / f"requirements-{environment}.txt"


@cache
def pinned_versions(environment: str) -> dict[str, str]:
    if environment == "npm":
        packages = json.loads((NPM / "package-lock.json").read_text())["packages"]
        prefix = "node_modules/"
        return {
            name.removeprefix(prefix): package["version"]
            for name, package in packages.items()
            if name.startswith(prefix)
        }
    pins = re.findall(r"^([a-z0-9-]+)==([^\s;]+)", pin_file(environment).read_text(), re.MULTILINE)
    return dict(pins)


def name_versions(environment: str, packages: tuple[str, ...]) -> str:
    """Return the packages with the versions that run."""
    versions = pinned_versions(environment)
    where = " (npm)" if environment == "npm" else ""
    first, *others = [f"{name} {versions[name]}" for name in packages]
    return " with ".join([first.replace(" ", f"{where} ", 1), *others])


PAGE = ROOT / "docs/compatibility.md"
HEAD = ["| client | what it does | what is refused |", "|---|---|---|"]
READERS_HEAD = [
    "| client | what reconnects | after the end of the job | after a 401 or 404 |",
    "|---|---|---|---|",
]


def table() -> list[str]:
    """Return the rows of the clients."""
    rows = []
    for program in PROGRAMS_RUN:
        refused = [name for name in program.cases if name.startswith("refused by name: ")]
        held = "; ".join(name for name in program.cases if name not in refused)
        names = "; ".join(name.removeprefix("refused by name: ") for name in refused)
        rows.append(f"| {program.client} | {held} | {names} |")
    return rows


def readers_table() -> list[str]:
    """Return the rows of the readers of event streams."""
    rows = []
    for reader in READERS:
        client = name_versions(reader.environment, reader.packages)
        end = "asks once more: 204" if 204 in reader.at_end else "asks no more"
        rows.append(f"| {client} | {reader.how} | {end} | {reader.told} |")
    return rows


def with_table(page: str) -> str:
    """Return the page with the present rows in its tables."""
    lines = page.split("\n")
    for head, rows in ((HEAD, table()), (READERS_HEAD, readers_table())):
        start = lines.index(head[0])
        end = lines.index("", start)
        lines[start:end] = [*head, *rows]
    return "\n".join(lines)
