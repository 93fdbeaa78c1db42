"""Tables fit 80 columns, with one line for each row; pipes get everything, and nothing else."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any, Literal

import msgspec
import pytest
from redis.asyncio import Redis
from rich.console import Console

from darkq import Client
from darkq import event as ev
from darkq.operate.upstreams import UpstreamStatus
from darkq.protocol.record import Failure, encode
from darkq.redis import scripts
from darkq_cli.commands.observe import _list_models
from darkq_cli.terminal import messages, output
from darkq_cli.terminal.output import _format_row, _narrow
from darkq_cli.terminal.problems import Problem
from darkq_cli.terminal.short_ids import pick, shorten
from support.by_hand import Hand, entries, result_record, started
from support.command import Darkq
from support.terminal import Terminal

MESSAGE = "503 Service Unavailable: the model is loading; " + "please try again later. " * 5
MODEL = "meta-llama/Llama-3.3-70B-Instruct-Turbo-Free"


async def fail_jobs(client: Client, redis: Redis, count: int) -> list[str]:
    """Let jobs fail, each with a long message and a long model."""
    hand = Hand(redis)
    jobs = []
    for _ in range(count):
        jobs.append((await client.enqueue("hi", model=MODEL)).id)
        claim = await hand.claim_one()
        await hand.append(claim, started(1))
        failure = Failure(type="JobFailed", code="upstream_unreachable", message=MESSAGE)
        record = result_record(claim.keys, failure)
        details = msgspec.structs.replace(record.d, model=MODEL)
        event = ev.Failed(id="1-1", code=failure.code, message=MESSAGE, at_ms=1)
        await scripts.finish(
            redis,
            claim,
            entries([event]),
            result=encode(msgspec.structs.replace(record, d=details)),
            result_ttl_s=60,
            failed=True,
        )
    return jobs


async def test_failed_has_one_line_for_each_job_and_the_message_below(
    darkq: Darkq,
    client: Client,
    redis: Redis,
    open_terminal: Callable[..., Terminal],
) -> None:
    """Red when cells are wrapped: a job then took 17 lines."""
    jobs = await fail_jobs(client, redis, 3)
    code, screen = await open_terminal(darkq, "failed", NO_COLOR="1").end()
    lines = screen.splitlines()
    assert code == 0
    assert max(map(len, lines)) <= 80
    rows = [line for line in lines if line.startswith("0-")]
    assert [row.split()[0] for row in rows] == [job[:10] for job in reversed(jobs)]
    assert all("upstream_unreachable" in row and row.endswith("yes") for row in rows)
    assert lines[0].split() == ["job", "failed", "code", "model", "retry"]
    assert lines[2].startswith("    503 Service Unavailable: the model is loading")
    assert len(lines) <= 1 + 3 * 4


async def test_a_pipe_gets_whole_ids_no_blank_line_and_no_padding(
    darkq: Darkq, client: Client, redis: Redis
) -> None:
    (job,) = await fail_jobs(client, redis, 1)
    done = await asyncio.to_thread(darkq, "failed")
    lines = done.out.decode().split("\n")
    assert lines[0].startswith("job ")
    assert lines[1].startswith(f"{job}  ")
    assert MODEL in lines[1]
    assert lines[2] == "    " + MESSAGE.strip()
    assert lines[3:] == [""]
    assert all(line == line.rstrip() for line in lines)


@pytest.mark.parametrize("columns", [60, 80, 140])
async def test_a_pipe_obeys_columns(
    darkq: Darkq, client: Client, redis: Redis, columns: int
) -> None:
    await fail_jobs(client, redis, 1)
    done = await asyncio.to_thread(darkq, "failed", environment={"COLUMNS": str(columns)})
    assert max(map(len, done.out.decode().splitlines())) <= columns


async def test_commands_accept_the_beginning_of_an_id(
    darkq: Darkq, client: Client, redis: Redis
) -> None:
    """Ids that tables print must be of use."""
    (failed,) = await fail_jobs(client, redis, 1)
    waiting = (await client.enqueue("hi")).id
    done = await asyncio.to_thread(darkq, "status", failed[:10])
    assert f"job      {failed}" in done.out.decode()
    done = await asyncio.to_thread(darkq, "tail", failed[:10])
    assert "upstream_unreachable" in done.err
    done = await asyncio.to_thread(darkq, "result", failed[:10])
    assert done.code == 1
    done = await asyncio.to_thread(darkq, "cancel", waiting[:10])
    assert done.line == "cancelled"
    done = await asyncio.to_thread(darkq, "retry", failed[:10])
    assert done.code == 0
    assert (await client.job(failed).status()).state == "queued"


async def test_an_ambiguous_beginning_is_wrong_usage_and_does_nothing(
    darkq: Darkq, client: Client
) -> None:
    jobs = [(await client.enqueue("hi")).id for _ in range(2)]
    done = await asyncio.to_thread(darkq, "cancel", "0-")
    assert done.code == 2
    assert "0- is the beginning of 2 job ids" in done.err
    assert [(await client.job(job).status()).state for job in jobs] == ["queued", "queued"]


async def test_an_unknown_beginning_is_no_job(darkq: Darkq, client: Client) -> None:
    await client.enqueue("hi")
    done = await asyncio.to_thread(darkq, "status", "0-zz")
    assert (done.code, "no job 0-zz" in done.err) == (1, True)


async def test_batches_are_found_by_the_beginning_of_an_id(darkq: Darkq, client: Client) -> None:
    async with client.batch(name="reviews.csv") as batch:
        pass
    listed = await asyncio.to_thread(darkq, "batch", "list", environment={"COLUMNS": "80"})
    short = listed.out.decode().splitlines()[1].split()[0]
    assert len(short) == len("batch-0-") + 8
    shown = await asyncio.to_thread(darkq, "batch", "show", short)
    assert batch.id in shown.out.decode()
    cancelled = await asyncio.to_thread(darkq, "batch", "cancel", short, "--json")
    assert cancelled.objects[0]["batch_id"] == batch.id


def test_ids_are_as_long_as_they_must_be() -> None:
    alike = ["0-" + "a" * 12 + digit + "0" * 19 for digit in "bc"]
    other = "0-" + "d" * 32
    short = shorten([*alike, other], ["1-" + "d" * 32])
    assert [len(short[id_]) for id_ in (*alike, other)] == [15, 15, 10]
    known = [*alike, other]
    assert [pick(short[id_], known, "job") for id_ in known] == known
    with pytest.raises(Problem):
        pick("0-a", known, "job")
    assert pick("", known, "job") is None


@pytest.mark.parametrize(
    ("widths", "limit", "narrowed"),
    [
        ([10, 20, 30], 100, [10, 20, 30]),
        ([10, 20, 30], 54, [10, 20, 20]),
        ([10, 20, 30], 44, [10, 15, 15]),
        ([38, 20, 30], 40, [38, 5, 5]),
    ],
)
def test_the_first_column_is_never_cut(widths: list[int], limit: int, narrowed: list[int]) -> None:
    _narrow(widths, limit)
    assert widths == narrowed
    line = _format_row(["x" * 50, "y", "z"], [50, 1, 1], [False] * 3)
    assert line.plain == "x" * 50 + "  y  z"


def test_a_terminal_shows_a_cell_in_its_colour_and_a_pipe_does_not(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red when the colour leaks over its cell, or into a pipe."""
    rows = [("a", output.Cell("3", "red"), "end"), ("b", "0", "end")]
    for is_terminal, number in ((True, "\x1b[31m     3\x1b[0m"), (False, "     3")):
        colours: Literal["standard"] | None = "standard" if is_terminal else None
        console = Console(force_terminal=is_terminal, color_system=colours, width=80)
        monkeypatch.setattr(messages, "stdout_console", lambda console=console: console)
        output.write_table(("id", "failed", "name"), rows)
        assert capsys.readouterr().out.splitlines()[1:] == [
            f"a   {number}  end",
            "b        0  end",
        ]


def test_an_upstream_whose_models_are_not_known_yet_has_none() -> None:
    """Red when it says " (default)" of a model without a name."""

    def models(default: str, models: Sequence[str]) -> str:
        status: Any = UpstreamStatus(
            name="own",
            kind="openai",
            default_model=default,
            models=tuple(models),
            options=(),
            workers=1,
        )
        return _list_models(status)

    assert models("", ()) == ""
    assert models("m", ("n", "m")) == "m (default), n"


async def test_a_reader_of_a_pipe_that_has_enough_is_no_failure(
    darkq: Darkq, client: Client, redis: Redis
) -> None:
    """`darkq tail ID | head -3`, under `set -o pipefail`."""
    job = await client.enqueue("hi")
    hand = Hand(redis)
    claim = await hand.claim_one()
    await hand.append(claim, ev.Started(id="1-0", attempt=1, model="m", upstream="u", at_ms=1))
    for number in range(1, 200):
        await hand.append(claim, ev.Chunk(id=f"1-{number}", text="a line\n" * 200))
    await hand.complete(claim, "", ev.Cursor(1, 200))
    tail = f"{sys.executable} -m darkq_cli tail {job.id}"
    script = f"set -o pipefail; {tail} | head -3"
    piped = darkq.start(command=("/bin/bash", "-c", script))
    done = await asyncio.to_thread(piped.done)
    assert (done.code, done.out, done.err) == (0, b"a line\n" * 3, "")


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
def test_a_closed_stream_is_no_traceback(darkq: Darkq, closed: str) -> None:
    """Red when Python's None for a closed stream is used."""
    command = f"{sys.executable} -m darkq_cli doctor --no-probe {closed}"
    done = subprocess.run(
        ["/bin/bash", "-c", command],
        env=darkq.environment,
        cwd=darkq.home,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == darkq("doctor", "--no-probe").code
    assert b"Traceback" not in done.stderr


def test_help_fits_the_first_screen(alone: Darkq) -> None:
    """24 lines of 80 characters, with a prompt in the last one."""
    lines = alone("--help").out.decode().splitlines()
    assert len(lines) <= 23
    assert max(map(len, lines)) <= 80
    assert lines[0].endswith(" [OPTIONS] COMMAND [ARGS]...")


@pytest.mark.parametrize("arguments", [(), ("run",), ("batch", "run"), ("queues", "pause")])
def test_usage_names_arguments_without_braces(alone: Darkq, arguments: Sequence[str]) -> None:
    usage = alone(*arguments, "--help").out.decode().splitlines()[0]
    assert "{" not in usage
