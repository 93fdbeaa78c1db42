"""`darkq up`: everything starts, works from another terminal, and is gone afterwards."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from darkq import Settings
from darkq_cli.stack.up import _say_low_space
from darkq_cli.terminal import messages
from darkq_cli.terminal.local_darkai import find_darkai
from darkq_local.local_darkai import LocalDarkAI
from support.command import Darkq, Running, processes_of
from support.waiting import wait_until

START_TIMEOUT_S = 60.0


@pytest.fixture
async def stack(alone: Darkq) -> Running:
    """`darkq up`, ready."""
    return await started(alone.start("up", "--model", "markov"))


async def started(up: Running) -> Running:
    await wait_until("darkq up", lambda: up.says("Ctrl-C stops everything"), START_TIMEOUT_S)
    return up


async def nothing_left(state: Path) -> None:
    await wait_until("no process to be left", lambda: not processes_of(state))


def pid_of(up: Running, what: str) -> int:
    """Find a child of `up` by a word of its command line."""
    for pid in processes_of(Path(up_state(up))):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if pid != up.pid and what.encode() in words:
            return pid
    raise AssertionError(f"no process {what}")


def up_state(up: Running) -> str:
    environment = Path(f"/proc/{up.pid}/environ").read_bytes().decode()
    found = re.search(r"DARKQ_STATE_DIR=([^\0]+)", environment)
    assert found
    return found[1]


@pytest.mark.slow
async def test_tails_from_before_during_and_after_give_the_same_text(alone: Darkq) -> None:
    job_id = alone("enqueue", "Write about queues in spring.").line
    before = alone.start("tail", job_id)
    up = await started(alone.start("up", "--model", "markov"))
    await wait_until("some text", lambda: len(before.out) > 100)
    during = alone.start("tail", job_id)
    await wait_until("the answer's end", lambda: before.has_ended and during.has_ended, 40)
    after = alone("tail", job_id)
    result = alone("result", job_id)
    assert result.code == 0
    assert len(result.out.split()) == 256
    assert before.out == during.out == after.out == result.out
    assert f"job ended job={job_id} attempt=1 outcome=completed" in up.err
    up.send(signal.SIGINT)
    assert up.done().code == 0
    assert alone("result", job_id).out == result.out  # it outlives everything
    await nothing_left(alone.state)


async def test_the_banner_is_ready_to_be_copied(stack: Running, alone: Darkq) -> None:
    said = stack.err
    assert stack.out == b""
    assert "Markov chain" in said
    (command,) = re.findall(r"^  (.+ upstreams)$", said, re.MULTILINE)
    checked = alone.typed(command)
    assert checked.code == 0
    assert re.search(rb"darkai +yes ", checked.out)
    (command,) = re.findall(r'^  id=\$\((.+ enqueue ".+")\)$', said, re.MULTILINE)
    assert alone.typed(command).line.startswith("0-")
    assert alone("worker", "--check").code == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_a_signal_stops_everything(
    stack: Running, alone: Darkq, number: signal.Signals
) -> None:
    running = alone.start("run", "hi")
    await wait_until("some text", lambda: running.out)
    running.send(signal.SIGINT)
    running.done()
    assert len(processes_of(alone.state)) == 4  # up, Redis, local DarkAI, worker
    stack.send(number)
    await wait_until("the grace", lambda: stack.says("shutdown requested"))
    stack.send(number)  # enough of waiting
    done = stack.done()
    assert done.code == 0
    assert "shutdown forced" in done.err
    assert done.err.endswith("darkq is down; jobs and results are kept\n")
    assert not processes_of(alone.state)


@pytest.mark.slow
async def test_killed_it_leaves_no_orphans(stack: Running, alone: Darkq) -> None:
    assert len(processes_of(alone.state)) == 4
    stack.send(signal.SIGKILL)
    await nothing_left(alone.state)
    assert alone("enqueue", "hi").code == 0  # and nothing is in the way of the next


@pytest.mark.slow
async def test_killed_in_the_middle_of_a_job_the_worker_still_finishes_it(
    alone: Darkq, stack: Running
) -> None:
    running = alone.start("run", "hi")
    await wait_until("some text", lambda: running.out)
    stack.send(signal.SIGKILL)
    done = running.done()
    assert (done.code, len(done.out.split())) == (0, 256)
    assert "attempt" not in done.err
    await nothing_left(alone.state)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("victim", "words"),
    [
        ("worker", "darkq: the worker was ended by SIGKILL"),
        ("local-darkai", "darkq: the local DarkAI was ended by SIGKILL"),
    ],
)
async def test_a_death_stops_the_rest(
    stack: Running, alone: Darkq, victim: str, words: str
) -> None:
    os.kill(pid_of(stack, victim), 9)
    done = stack.done()
    assert done.code == 1
    assert words in done.err
    assert "Traceback" not in done.err
    await nothing_left(alone.state)


def redis_pid(alone: Darkq) -> int:
    return int((alone.state / "redis" / "redis.pid").read_text())


async def test_a_redis_that_died_is_started_again_and_its_jobs_run(
    stack: Running, alone: Darkq
) -> None:
    """Red when `up` ends with its Redis."""
    os.kill(redis_pid(alone), signal.SIGKILL)
    await wait_until("another one", lambda: stack.says("the embedded Redis runs again"))
    running = alone.start("run", "hi")
    await wait_until("some text", lambda: running.out)
    assert not stack.has_ended


async def test_upstreams_and_doctor_beside_it_are_green(stack: Running, alone: Darkq) -> None:
    """Red when they call the DarkAI of their own settings, which is not the one that runs."""
    upstreams = alone("upstreams", "--json")
    assert upstreams.code == 0, upstreams.err
    (probe,) = upstreams.objects
    assert (probe["name"], probe["works"], probe["workers"]) == ("darkai", True, 1)
    doctor = alone("doctor")
    assert doctor.code == 0, doctor.out
    assert re.search(rb"^ok +upstream +darkai: answers", doctor.out, re.MULTILINE)
    stack.send(signal.SIGKILL)
    await nothing_left(alone.state)
    assert list(alone.state.glob("darkai-*.json"))  # it could not remove its note
    gone = alone("doctor", "--no-probe")
    assert gone.code == 0
    assert find_darkai(Settings.model_validate({"state_dir": str(alone.state)})) is None


async def test_a_second_one_says_what_it_joins(stack: Running, alone: Darkq) -> None:
    """Red when two models answer the same jobs without a word."""
    second = await started(alone.start("up", "--model", "markov"))
    assert re.search(r"  joins     1 running: \S+:\d+:\w+, upstreams darkai \(.+\)\n", second.err)
    assert "  joins " not in stack.err
    second.send(signal.SIGINT)
    second.done()
    assert alone("upstreams").code == 0  # those of the first one


@pytest.mark.slow
async def test_a_reader_of_its_log_that_leaves_ends_it(alone: Darkq) -> None:
    command = f"{sys.executable} -m darkq_cli up --model markov 2>&1 | sed '/Ctrl-C stops/q'"
    pipeline = alone.start(command=("/bin/sh", "-c", command))
    await wait_until("darkq up", lambda: b"Ctrl-C stops" in pipeline.out, START_TIMEOUT_S)
    assert not pipeline.has_ended
    # The worker has something to say to it. It may then wait for the Redis that has ended too.
    alone.start("run", "hi", "--model", "gpt-9")
    pipeline.done()
    await nothing_left(alone.state)


async def test_settings_come_from_a_file_too_but_no_proxy_stands_before_the_local_darkai(
    alone: Darkq,
) -> None:
    lines = ["DARKQ_WORKER_LOG_LEVEL=WARNING", "DARKQ_DARKAI_PROXY=http://127.0.0.1:1"]
    (alone.home / ".env").write_text("\n".join(lines))
    up = await started(alone.start("up", "--model", "markov"))
    assert "worker ready" not in up.err
    running = alone.start("run", "hi")
    await wait_until("some text", lambda: running.out)


@pytest.mark.slow
async def test_what_is_configured_is_used_and_not_started(
    alone: Darkq, start_darkai: Callable[..., object]
) -> None:
    darkai = await start_darkai()  # type: ignore[misc]
    assert isinstance(darkai, LocalDarkAI)
    alone.environment["DARKQ_DARKAI_URL"] = darkai.url
    up = await started(alone.start("up", "--workers", "2"))
    assert len(processes_of(alone.state)) == 4  # up, Redis, two workers
    assert "upstream  127.0.0.1\n" in up.err
    running = alone.start("run", "hi")
    await wait_until("the answer", lambda: running.has_ended)
    assert len(running.out.split()) == 20
    up.send(signal.SIGTERM)
    await wait_until("the end", lambda: up.has_ended)
    assert up.done().code == 0


def test_a_model_for_a_darkai_elsewhere_is_wrong_usage(alone: Darkq) -> None:
    done = alone(
        "up", "--model", "markov", environment={"DARKQ_DARKAI_URL": "http://127.0.0.1:1/chat"}
    )
    assert done.code == 2
    assert "DARKQ_DARKAI_URL names a DarkAI" in done.err


def test_a_child_that_cannot_start_is_told_with_its_words(alone: Darkq) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = alone("up", "--model", "markov", "--port", str(taken.getsockname()[1]))
    assert done.code == 1
    assert "darkq: the local DarkAI ended unexpectedly, with exit code 1" in done.err
    assert "address already in use" in done.err
    assert not processes_of(alone.state)


def test_little_free_space_is_said_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Red when it starts in silence on a disk that is nearly full."""
    settings = Settings.model_validate({"state_dir": str(tmp_path)})
    _say_low_space(settings)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=3 << 20))
    messages.console.cache_clear()
    _say_low_space(settings)
    messages.console.cache_clear()
    assert "only 3 MB are free" in capsys.readouterr().err
