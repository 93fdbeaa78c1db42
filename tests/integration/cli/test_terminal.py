"""The command in a terminal: line ends, colours, Ctrl-C, and text that means harm."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Callable
from typing import Any

import pytest

from darkq import Client, Settings
from darkq_cli.terminal.messages import replace_controls
from darkq_cli.terminal.output import TextOutput
from darkq_local.faults import Fault
from support.command import Darkq
from support.terminal import Terminal
from support.waiting import wait_until


@pytest.fixture
def serve(start_darkai: Any, start_worker: Callable[[Settings], Any], make_settings: Any) -> Any:
    """Start a local DarkAI and a worker that asks it, both in this process."""

    async def start(*plan: Fault, **options: Any) -> None:
        darkai = await start_darkai(*plan, **options)
        start_worker(make_settings(darkai_url=darkai.url, retry_base_s=0.01))

    return start


async def test_the_text_ends_with_a_line_end(
    darkq: Darkq, client: Client, serve: Any, open_terminal: Callable[..., Terminal]
) -> None:
    await serve()
    job = await client.enqueue("hi")
    text = (await job.result(10)).text
    for arguments in (("tail", job.id), ("result", job.id)):
        assert await open_terminal(darkq, *arguments).end() == (0, f"{text}\n")


async def test_a_new_attempt_is_set_apart(
    darkq: Darkq, serve: Any, open_terminal: Callable[..., Terminal]
) -> None:
    await serve(Fault.parse("error=3;slow=0.1"))
    code, screen = await open_terminal(darkq, "run", "hi", NO_COLOR="1").end()
    assert code == 0
    job, void, *ended, line, text = screen.splitlines()
    assert job.startswith("job 0-")
    assert ended[0].startswith("attempt 1 ended: upstream_overloaded: ")
    assert max(map(len, ended)) <= 80
    assert "; the next starts in " in " ".join(ended)
    assert line == "— attempt 2, from the beginning —"
    assert text.startswith(void)
    assert len(text.split()) == 20


async def test_ctrl_c_shows_how_to_read_on(
    darkq: Darkq, serve: Any, open_terminal: Callable[..., Terminal]
) -> None:
    await serve(chunks=100, chunks_per_s=50)
    terminal = open_terminal(darkq, "run", "hi")

    def has_words() -> bool:
        terminal.shows("")
        return len(terminal.screen.split()) > 10

    await wait_until("some words", has_words)
    terminal.type("\x03")
    code, screen = await terminal.end()
    assert code == 130
    assert re.search(r"\w\^C\n+The job continues\. .*:\n  \S+ tail 0-\w+ --after 1-", screen)


@pytest.mark.parametrize("plain", [True, False])
async def test_ctrl_c_while_the_job_waits(
    darkq: Darkq, open_terminal: Callable[..., Terminal], plain: bool
) -> None:
    terminal = open_terminal(darkq, "run", "hi", **({"NO_COLOR": "1"} if plain else {}))
    await wait_until("the job", lambda: terminal.shows("job 0-"))
    terminal.type("\x03")
    code, screen = await terminal.end()
    assert code == 130
    assert "^C\nThe job continues." in screen
    assert ("\x1b[2m" in screen) is not plain  # dim is no colour, but is left out as well


@pytest.mark.parametrize(("setting", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
async def test_colours_only_where_they_are_wanted(
    darkq: Darkq,
    open_terminal: Callable[..., Terminal],
    setting: dict[str, str],
    coloured: bool,
) -> None:
    code, screen = await open_terminal(darkq, "status", "nonsense", **setting).end()
    assert code == 1
    assert ("\x1b[" in screen) is coloured
    in_a_file = await asyncio.to_thread(darkq, "status", "nonsense", environment=setting)
    assert "\x1b" not in in_a_file.err


def test_text_cannot_command_the_terminal() -> None:
    assert (
        replace_controls("\x1b]52;c;aGk=\x07 \x9b2J\x7f") == "\ufffd]52;c;aGk=\ufffd \ufffd2J\ufffd"
    )
    assert replace_controls("два\tслова\r\n🌱") == "два\tслова\r\n🌱"


@pytest.mark.parametrize("is_terminal", [True, False])
def test_an_answer_is_made_harmless_on_a_terminal_only(
    is_terminal: bool, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal)
    answer = TextOutput()
    answer.write("\x1b[2J words")
    answer.end_line()
    written = "\ufffd[2J words\n".encode() if is_terminal else b"\x1b[2J words"
    assert capfdbinary.readouterr().out == written
