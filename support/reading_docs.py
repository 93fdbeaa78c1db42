"""A reader who does what a document says, block by block, and looks at what comes.

`console`  commands after `$`, what they print below them; after `#` they need root, and are not run
`bash`     a script
`python`   a program when it says `asyncio.run`, else more of the same session
(nothing)  what the block before it prints
`json` `yaml` `env` `js` `html`   must be what they say they are
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple

import yaml  # type: ignore[import-untyped]

from darkq import Settings
from support.doc_shell import Shell, serves
from support.markdown import ROOT, Block
from support.shown import matches

# What the beginning of a command needs that is not here. It is not run.
ELSEWHERE = {
    "pip install": "the package index",
    "pip wheel": "the package index",
    "apt-get": "root, and the package index",
    "sudo": "root",
    "docker": "Docker",
    "kubectl": "a Kubernetes",
    "helm": "a Kubernetes",
    "systemctl": "systemd",
    "journalctl": "systemd",
    "git clone": "a network",
    "darkq top": "a terminal",
    r"\. .venv/bin/activate": "a fresh clone",
}

_ADDRESS = re.compile(r"((?:127\.0\.0\.1|localhost|0\.0\.0\.0):|--port[ =])(\d{4,5})\b")
_ID = re.compile(r"\b\d+-[0-9a-f]{32}\b")
_CUT_ID = re.compile(r"\b\d+-[0-9a-f]{4,31}…")


class Command(NamedTuple):
    text: str
    shown: str
    line: int


class Reader:
    """Reads one document in a folder of its own."""

    def __init__(
        self,
        shell: Shell,
        folder: Path,
        *,
        ports: dict[int, int],
        named: Mapping[str, str],
        free_port: Callable[[], int],
    ) -> None:
        self.shell = shell
        self._folder = folder
        self._ports = ports
        self._named = named
        self._free_port = free_port
        self._printed: str | None = None
        self._last_id = ""

    async def read(self, block: Block) -> None:
        """Do what a block says. Fails with its place."""
        try:
            await self._read(block._replace(text=self.here(block.text)))
        except AssertionError as error:
            raise AssertionError(f"{block.place}: {error}") from None

    def here(self, text: str) -> str:
        """Return a text with its addresses as they are here."""
        for there, here in self._named.items():
            text = text.replace(there, here)

        def port(match: re.Match[str]) -> str:
            number = int(match[2])
            if number not in self._ports:
                self._ports[number] = self._free_port()
            return f"{match[1]}{self._ports[number]}"

        # An id that is cut short is the last one that was seen.
        return _ADDRESS.sub(port, _CUT_ID.sub(self._last_id or r"\g<0>", text))

    def _came(self, output: str) -> None:
        self._printed = output
        self._last_id = ([self._last_id, *_ID.findall(output)])[-1]

    async def _read(self, block: Block) -> None:
        if "not run" in block.remarks:
            self._printed = None
            return
        if "save as" in block.remarks:
            (self._folder / block.remarks["save as"]).write_text(block.text)
        if (given := block.remarks.get("given")) is not None:
            await self._given(block, self.here(given))
        code = int(block.remarks.get("exit code", 0))
        match block.language:
            case "console":
                for command in commands_of(block):
                    await self._type(command, code, block)
            case "bash":
                await self._type(Command(f"(set -eu\n{block.text})", "", 0), code, block)
            case "python" if "save as" not in block.remarks:
                await self._python(block, code)
            case "":
                assert self._printed is not None, "nothing has printed this"
                assert matches(block.text, self._printed), _differ(block.text, self._printed)
            case language:
                assert language in CHECKS, f"nobody knows how to check {language!r}"
                try:
                    CHECKS[language](block.text)
                except (ValueError, SyntaxError, yaml.YAMLError) as error:
                    raise AssertionError(f"it is no {language}: {error}") from None

    async def _given(self, block: Block, given: str) -> None:
        if block.language == "python":
            done = await self.shell.python(given, f"{block.place} (given)")
        elif serves(given):
            await self.shell.serve(given)
            return
        else:
            done = await self.shell.run(given)
        assert done.code == 0, f"given: {done.output}"

    async def _type(self, command: Command, code: int, block: Block) -> None:
        text = re.sub(r"\s{2,}# .*$", "", command.text, flags=re.MULTILINE)
        if lacks(text):
            return
        if serves(text) and command.shown.startswith("^C\n"):
            output = await self.shell.interrupt(text)
            command = command._replace(shown=command.shown.removeprefix("^C\n"))
        elif serves(text):
            output = await self.shell.serve(text)
        else:
            text = re.sub(r"^make (?=\w)", f"make -n -C {ROOT} ", text)
            done = await self.shell.run(text)
            assert done.code == code, f"`{text}` ends with {done.code}:\n{done.output}"
            output = done.output
        self._came(output)
        if command.shown.strip():
            output = _KILLED.sub("", output)
            assert matches(command.shown, output), _differ(command.shown, output)

    async def _python(self, block: Block, code: int) -> None:
        if "asyncio.run(" in block.text or "__main__" in block.text:
            (self._folder / "snippet.py").write_text(block.text)
            done = await self.shell.run("python snippet.py")
        else:
            done = await self.shell.python(block.text, block.place)
        assert done.code == code, done.output
        self._came(done.output)


def lacks(command: str) -> str | None:
    """What a command needs that is not here."""
    lacking = (
        need for start, need in ELSEWHERE.items() if re.match(rf"(sudo +)?{start}\b", command)
    )
    return next(lacking, None)


def commands_of(block: Block) -> list[Command]:
    """The commands of a `console` block: after `$`, continued after `>`; the rest is shown."""
    commands: list[Command] = []
    for number, line in enumerate(block.text.splitlines(), block.line + 1):
        if line.startswith(("$ ", "# ")):
            commands.append(Command(line[2:] if line[0] == "$" else f"sudo {line[2:]}", "", number))
            continue
        assert commands, "a console block begins with `$ `"
        last = commands[-1]
        if not last.shown and (line.startswith("> ") or last.text.endswith("\\")):
            commands[-1] = last._replace(text=f"{last.text}\n{line.removeprefix('> ')}")
        else:
            commands[-1] = last._replace(shown=f"{last.shown}{line}\n")
    return commands


# Bash reports a killed process of the background whenever it happens to notice it.
_KILLED = re.compile(r"^bash: line \d+: +\d+ Killed .*\n", re.MULTILINE)


def _differ(shown: str, came: str) -> str:
    return f"shown:\n{shown}\ncame:\n{came}"


def _check_json(text: str) -> None:
    text = re.sub(r",\s*…\s*(?=[}\]])", "", text).replace("{…}", "{}")
    try:
        json.loads(text)
    except ValueError:  # an object per line, then
        for line in text.splitlines():
            json.loads(line)


def _check_yaml(text: str) -> None:
    assert all(document is not None for document in yaml.safe_load_all(text))


def _check_env(text: str) -> None:
    known = {f"DARKQ_{name.upper()}" for name in Settings.model_fields}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.removeprefix("export ").partition("=")
            assert name.split("__")[0] in known or not name.startswith("DARKQ_"), name
            assert value, f"{name} has no value"


def _check_js(text: str) -> None:
    node = shutil.which("node")
    if node is not None:
        module = ["--input-type=module"] if re.search(r"^import ", text, re.MULTILINE) else []
        command = [node, *module, "--check", "-"]
        done = subprocess.run(command, input=text.encode(), capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()


def _check_python(text: str) -> None:
    compile(text, "a file", "exec")


def _check_html(text: str) -> None:
    HTMLParser().feed(text)


CHECKS: dict[str, Callable[[str], None]] = {
    "json": _check_json,
    "yaml": _check_yaml,
    "env": _check_env,
    "js": _check_js,
    "html": _check_html,
    "python": _check_python,
}
