"""The commands about jobs: every way to read an answer gives the same bytes."""

from __future__ import annotations

import asyncio
import json
import re
import signal
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import pytest

from darkq import Client, Message, Options, Settings
from darkq.protocol.keys import JobKeys
from darkq.protocol.record import decode_job
from darkq_local.faults import Fault
from darkq_local.local_darkai import LocalDarkAI
from support.command import Darkq, Done, Running
from support.waiting import wait_until

PROMPT = "Почему весной 🌱 растут очереди?"

Serve: TypeAlias = Callable[..., Awaitable[LocalDarkAI]]


@pytest.fixture
def serve(
    start_darkai: Serve, start_worker: Callable[[Settings], Any], make_settings: Any
) -> Serve:
    """Start a local DarkAI and a worker that asks it, both in this process."""

    async def start(*plan: Fault | None, **options: Any) -> LocalDarkAI:
        darkai = await start_darkai(*plan, **options)
        start_worker(make_settings(darkai_url=darkai.url, retry_base_s=0.01))
        return darkai

    return start


async def call(darkq: Darkq, *arguments: str, **options: Any) -> Done:
    return await asyncio.to_thread(darkq, *arguments, **options)


async def end(running: Running) -> Done:
    return await asyncio.to_thread(running.done)


async def test_enqueue_prints_the_id_and_nothing_else(darkq: Darkq, client: Client) -> None:
    done = await call(darkq, "enqueue", "hi", "--metadata", "a=b", "--metadata", "c=d=e")
    assert (done.code, done.err) == (0, "")
    assert re.fullmatch(rb"0-[0-9a-f]{32}\n", done.out)
    status = await client.job(done.line).status()
    assert (status.state, status.metadata) == ("queued", {"a": "b", "c": "d=e"})


async def test_options_and_a_system_message_reach_the_job(darkq: Darkq, redis: Any) -> None:
    words = ("--temperature", "0.5", "--max-tokens", "9", "--system", "Be brief.")
    more = ("--option", "seed=7", "--option", "stop=.", "--option", "stop=!")
    done = await call(darkq, "enqueue", "hi", *words, *more)
    assert (done.code, done.err) == (0, "")
    job = decode_job(await redis.get(JobKeys.parse(done.line).job)).job
    assert job.options == Options(temperature=0.5, max_tokens=9, seed=7, stop=(".", "!"))
    assert job.prompt == (Message("system", "Be brief."), Message("user", "hi"))
    for wrong, said in (
        (("--temperature", "9"), "options.temperature: must be a number, at most 2"),
        (("--option", "api_key=1"), "parameters.api_key: cannot be honoured: leave it out"),
        (("--option", "seed"), "'seed' is not KEY=VALUE"),
    ):
        for command in ("enqueue", "run"):
            refused = await call(darkq, command, "hi", *wrong)
            assert refused.code == 2
            assert said in refused.err


async def test_run_says_which_options_were_ignored(darkq: Darkq, serve: Serve) -> None:
    await serve()
    words = ("run", "hi", "--temperature", "0", "--option", "seed=1")
    refused = await call(darkq, *words)
    assert refused.code == 1
    assert "cannot honour the option temperature" in refused.err
    assert refused.err.endswith("send the prompt again with --ignore-unsupported.\n")
    failed = await call(darkq, "result", refused.err.split()[1])
    assert "--ignore-unsupported" in failed.err
    done = await call(darkq, *words, "--ignore-unsupported")
    assert done.code == 0, done.err
    assert done.err.endswith("ignored, as darkai does not support it: seed, temperature\n")


async def test_the_same_idempotency_key_gives_the_same_job(darkq: Darkq) -> None:
    first, second = [
        (await call(darkq, "enqueue", "hi", "--idempotency-key", "k", "--json")).objects
        for _ in range(2)
    ]
    assert first == [{"id": first[0]["id"], "duplicate": False}]
    assert second == [{"id": first[0]["id"], "duplicate": True}]


async def test_tail_and_result_give_the_bytes_of_the_answer(darkq: Darkq, serve: Serve) -> None:
    await serve()
    job_id = (await call(darkq, "enqueue", "-", stdin=PROMPT.encode())).line
    tailed = await call(darkq, "tail", job_id)
    fetched = await call(darkq, "result", job_id, "--wait")
    told = await call(darkq, "result", job_id, "--json")
    assert [tailed.code, fetched.code, told.code] == [0, 0, 0]
    assert tailed.out == fetched.out == told.objects[0]["text"].encode()
    assert len(tailed.out.split()) == 20
    assert tailed.err == fetched.err == ""


async def test_a_prompt_comes_from_standard_input_to_the_last_byte(
    darkq: Darkq, serve: Serve
) -> None:
    await serve()
    by_stdin, by_argument, other = await asyncio.gather(
        call(darkq, "run", "-", stdin=f"{PROMPT}\n".encode()),
        call(darkq, "run", f"{PROMPT}\n"),
        call(darkq, "run", PROMPT),
    )
    assert by_stdin.out == by_argument.out != other.out  # the chain's answer is its prompt's own


async def test_run_prints_the_answer_and_says_the_id(darkq: Darkq, serve: Serve) -> None:
    await serve()
    done = await call(darkq, "run", PROMPT)
    assert done.code == 0
    (job_id,) = re.findall(r"^job (0-\w+)$", done.err, re.MULTILINE)
    assert (await call(darkq, "result", job_id)).out == done.out


async def test_json_is_the_events_one_per_line(darkq: Darkq, serve: Serve) -> None:
    await serve()
    done = await call(darkq, "run", PROMPT, "--json")
    job_id = json.loads(done.err)["id"]
    events = done.objects
    assert [event["type"] for event in events[:2]] == ["queued", "started"]
    assert events[-1]["type"] == "completed"
    chunks = [event for event in events if event["type"] == "chunk"]
    result = (await call(darkq, "result", job_id)).out
    assert "".join(event["text"] for event in chunks).encode() == result
    rest = await call(darkq, "tail", job_id, "--json", "--after", events[3]["id"])
    assert rest.objects == events[4:]


async def test_interrupted_it_prints_the_command_that_reads_on(darkq: Darkq, serve: Serve) -> None:
    await serve(chunks=150, chunks_per_s=20)
    running = darkq.start("run", PROMPT)
    await wait_until("some text", lambda: len(running.out) > 50)
    running.send(signal.SIGINT)
    first = await end(running)
    assert first.code == 130
    resume, cancel = re.findall(r"^  (.+)$", first.err, re.MULTILINE)
    again = darkq.start(command=("/bin/sh", "-c", f"exec {resume}"))
    await wait_until("more text", lambda: len(again.out) > 50)
    again.send(signal.SIGINT)
    second = await end(again)
    assert second.code == 130
    resume, _ = re.findall(r"^  (.+)$", second.err, re.MULTILINE)
    third = await asyncio.to_thread(darkq.typed, resume)
    assert third.code == 0
    job_id = cancel.split()[-1]
    whole = await call(darkq, "result", job_id)
    assert first.out + second.out + third.out == whole.out


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
async def test_other_signals_are_as_ctrl_c(darkq: Darkq, number: signal.Signals, code: int) -> None:
    running = darkq.start("run", PROMPT, "--json")
    await wait_until("the job", lambda: running.says('"id"'))
    running.send(number)
    done = await end(running)
    assert done.code == code
    job, left = map(json.loads, done.err.splitlines())
    assert f"tail {job['id']}" in left["resume"]


async def test_interrupted_before_the_first_word_it_can_be_resumed_too(darkq: Darkq) -> None:
    job_id = (await call(darkq, "enqueue", "hi")).line
    running = darkq.start("tail", job_id)
    await wait_until("patience to end", lambda: running.says("no worker is running"))
    running.send(signal.SIGINT)
    done = await end(running)
    assert (done.code, done.out) == (130, b"")
    assert f"tail {job_id} --after 0-1\n" in done.err


async def test_a_failure_is_told_with_its_reason(darkq: Darkq, serve: Serve) -> None:
    await serve()
    done = await call(darkq, "run", "hi", "--model", "gpt-9")
    assert (done.code, done.out) == (1, b"")
    assert "failed: unknown_model: unknown model 'gpt-9'; known: llama-3-70b" in done.err
    job_id = re.findall(r"^job (0-\w+)$", done.err, re.MULTILINE)[0]
    for name in ("tail", "result"):
        assert (await call(darkq, name, job_id)).code == 1
    assert re.search(rb"^state +failed$", (await call(darkq, "status", job_id)).out, re.MULTILINE)


async def test_in_a_pipe_void_text_ends_the_reading(darkq: Darkq, serve: Serve) -> None:
    await serve(Fault.parse("error=5;slow=0.1"))
    done = await call(darkq, "run", PROMPT)
    assert done.code == 1
    assert "attempt 1 ended: upstream_overloaded" in done.err
    assert "attempt 2 has started, so the text printed so far is void" in done.err
    (command,) = re.findall(r"when it is complete: (.+)$", done.err, re.MULTILINE)
    result = await asyncio.to_thread(darkq.typed, command)
    job_id = re.findall(r"^job (0-\w+)$", done.err, re.MULTILINE)[0]
    late = await call(darkq, "tail", job_id)
    assert (late.code, late.err) == (0, "")
    assert late.out == result.out  # a late reader never sees the void text
    assert result.out.startswith(done.out)  # the chain says the same again: void, and yet equal
    events = (await call(darkq, "tail", job_id, "--json")).objects
    assert [event["type"] for event in events if event["type"] != "chunk"] == [
        *("queued", "started", "retrying", "started", "completed")
    ]


async def test_a_result_that_is_not_there_yet(darkq: Darkq) -> None:
    job_id = (await call(darkq, "enqueue", "hi")).line
    at_once, later = await asyncio.gather(
        call(darkq, "result", job_id), call(darkq, "result", job_id, "--timeout-s", "0.2")
    )
    assert (at_once.code, at_once.out) == (1, b"")
    assert f"job {job_id} is queued and has no result yet" in at_once.err
    assert f"result {job_id} --wait\n" in at_once.err
    assert (later.code, later.out) == (1, b"")
    assert "was not finished within 0.2 s; it continues" in later.err


async def test_status_tells_what_is_known(darkq: Darkq, serve: Serve) -> None:
    job_id = (await call(darkq, "enqueue", "hi", "--priority", "bulk", "--metadata", "a=b")).line
    before = (await call(darkq, "status", job_id)).out.decode()
    assert re.search(r"^state +queued$", before, re.MULTILINE)
    assert re.search(r"^metadata a +b$", before, re.MULTILINE)
    await serve()
    await call(darkq, "result", job_id, "--wait")
    (after,) = (await call(darkq, "status", job_id, "--json")).objects
    assert (after["state"], after["model"], after["attempt"]) == ("completed", "llama-3-70b", 1)


async def test_cancel_prints_how_the_job_ended(darkq: Darkq, serve: Serve) -> None:
    waiting = (await call(darkq, "enqueue", "hi")).line
    assert (await call(darkq, "cancel", waiting)).line == "cancelled"
    darkai = await serve(Fault.parse("hang=3"))
    running = darkq.start("run", "hi")
    await wait_until("some text", lambda: running.out)
    job_id = re.findall(r"^job (0-\w+)$", running.err, re.MULTILINE)[0]
    (told,) = (await call(darkq, "cancel", job_id, "--json")).objects
    assert told["state"] == "cancelled"
    assert darkai.exchanges[0].outcome == "client left"
    done = await end(running)
    assert done.code == 1
    assert f"darkq: job {job_id} was cancelled\n" in done.err
    finished = (await call(darkq, "enqueue", "hi")).line
    await call(darkq, "result", finished, "--wait")
    done = await call(darkq, "cancel", finished)
    assert (done.code, done.line) == (0, "completed")
