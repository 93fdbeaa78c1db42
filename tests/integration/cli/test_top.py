"""`darkq top`: what it reads of a real Redis, through outages too; what it does to a terminal."""

from __future__ import annotations

import asyncio
import io
import json
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from rich.console import Console

from darkq import Client, UpstreamStatus, WorkerLeases
from darkq.operate.stats import Report, add
from darkq.operate.upstreams import Served, WindowUse, announcement
from darkq.operate.workers import sign_in
from darkq.protocol.keys import WorkerKeys
from darkq.settings.parsing import Window
from darkq.telemetry import metrics as m
from darkq_cli.top.reading import RATE_OVER_S, Counted, Outage, Rates, Reading, Trend
from darkq_cli.top.tables import draw_bars
from darkq_cli.top.watch import Panel
from support.by_hand import Hand
from support.command import Darkq, Running
from support.servers import Server, binaries, running
from support.terminal import Terminal
from support.waiting import wait_until

WORKER = "host:1:hand"


async def sign_in_hand(redis: Redis) -> None:
    serves = Served(
        name="x", kind="openai", default_model="m", models=("m",), windows=(Window(4, 60.0),)
    )
    await sign_in(redis, WORKER, announcement([serves]))
    await redis.set(WorkerKeys(WORKER).health, "well", ex=60)


async def report(redis: Redis, number: int, completed: int, failed: int = 0) -> None:
    tally = m.Tally()
    tally.count(m.JOBS_ENDED, "completed", "x", by=completed)
    if failed:
        tally.count(m.JOBS_ENDED, "failed", "x", by=failed)
        tally.count(m.JOB_FAILURES, "truncated", "x", by=failed)
    tally.count(m.CHUNKS, "x", by=10 * completed)
    await add(redis, WORKER, Report(number, tally.take(), 0, 1))


def objects(command: Running) -> list[Any]:
    """The lines of JSON that it has written whole."""
    return [json.loads(line) for line in command.out.split(b"\n")[:-1]]


async def test_one_reading_as_json(darkq: Darkq, redis: Redis, client: Client) -> None:
    hand = Hand(redis, WORKER, lease_s=30)
    await sign_in_hand(redis)
    await client.enqueue_many(["a", "b", "c"])
    await hand.claim_one()
    await report(redis, 1, completed=5, failed=2)
    done = await asyncio.to_thread(darkq, "top", "--once", "--json")
    assert (done.code, done.err) == (0, "")
    (reading,) = done.objects
    interactive, bulk = reading["queues"]
    assert (interactive["waiting"], interactive["running"]) == (2, 1)
    assert interactive["oldest_wait_s"] > 0
    assert (bulk["priority"], bulk["waiting"]) == ("bulk", 0)
    (worker,) = reading["workers"]
    assert (worker["worker"], worker["running"]) == (WORKER, 1)
    assert 0 < worker["first_ends_ms"] - reading["at_ms"] <= 30_000
    (upstream,) = reading["upstreams"]
    assert (upstream["name"], upstream["breaker"]) == ("x", "closed")
    assert upstream["windows"] == [{"calls": 4, "length_s": 60, "used": 0}]
    assert reading["counted"] == {
        "jobs": {"completed": 5, "failed": 2, "cancelled": 0},
        "failures": {"truncated": 2},
        "retries": 0,
        "chunks": 50,
    }
    assert reading["rates"] is None, "of one reading there is no difference"


async def test_one_reading_for_people_and_pipes(darkq: Darkq, redis: Redis, client: Client) -> None:
    await sign_in_hand(redis)
    await client.enqueue_many(["a", "b", "c"])
    done = await asyncio.to_thread(darkq, "top", "--once")
    assert (done.code, done.err) == (0, "")
    text = done.out.decode()
    assert "\x1b" not in text
    assert re.search(r"^interactive +3 +0 +0 +\d+ s$", text, re.M)
    assert re.search(r"^x +closed +- +0  0/4 in 1 min$", text, re.M)
    assert re.search(rf"^{WORKER} +0 +-$", text, re.M)


async def test_without_a_worker_it_says_what_to_start(darkq: Darkq) -> None:
    done = await asyncio.to_thread(darkq, "top", "--once")
    assert "no live workers; to start one: " in done.out.decode()


async def test_rates_are_differences_of_what_workers_count(darkq: Darkq, redis: Redis) -> None:
    await report(redis, 1, completed=5)
    command = darkq.start("top", "--json", "--interval-s", "0.1")
    await wait_until("a first reading", lambda: objects(command))
    await report(redis, 2, completed=30, failed=3)

    def rates() -> Any:
        found = objects(command)[-1]["rates"]
        return found if found and found["jobs"]["failed"] else None

    found = await wait_until("the rates", rates)
    assert found["jobs"]["completed"] * found["over_s"] == pytest.approx(30, abs=0.1)
    assert found["failures"]["truncated"] * found["over_s"] == pytest.approx(3, abs=0.1)
    assert found["chunks"] * found["over_s"] == pytest.approx(300, abs=0.1)
    command.send(signal.SIGINT)
    assert command.done().code == 130


def counts(jobs: int) -> Counted:
    return Counted(jobs={"completed": jobs}, failures={}, retries=0, chunks=0)


def reading(at_s: float, jobs: int = 0) -> Reading:
    return Reading(
        at_ms=int(at_s * 1000), queues=(), workers=(), upstreams=(), counted=counts(jobs)
    )


def test_rates_forget_what_is_long_ago_and_begin_anew_with_the_counters() -> None:
    trend = Trend()
    assert trend.add(reading(100, jobs=0)).rates is None
    for second in range(1, 61):
        rates = trend.add(reading(100 + second, jobs=1000 if second > 30 else 0)).rates
        assert rates is not None
        assert rates.over_s == min(second, RATE_OVER_S)
        assert (rates.jobs["completed"] > 0) is (30 < second <= 30 + RATE_OVER_S)
    assert trend.add(reading(161, jobs=3)).rates is None, "they were fewer: it is another Redis"
    seldom = trend.add(reading(261, jobs=103)).rates
    assert seldom is not None, "however seldom one reads"
    assert seldom.jobs == {"completed": 1}
    trend.reset()
    assert trend.add(reading(262, jobs=104)).rates is None


@pytest.fixture
def own_server() -> Any:
    with running(binaries()["valkey"]) as server:
        yield server


async def test_it_goes_on_when_redis_comes_back(home: Path, own_server: Server) -> None:
    darkq = Darkq(home, redis_url=own_server.url)
    command = darkq.start("top", "--json", "--interval-s", "0.1")
    await wait_until("a reading", lambda: objects(command))
    own_server.kill()
    away = await wait_until("the outage", lambda: [o for o in objects(command) if "reason" in o])
    assert 0 < away[0]["away_since_ms"] <= away[0]["at_ms"]
    own_server.start()
    await wait_until("a reading again", lambda: "queues" in objects(command)[-1])
    told = [each["away_since_ms"] for each in objects(command) if "reason" in each]
    assert len(set(told)) == 1, "it is one outage"
    darkq.end()


async def test_away_from_the_beginning(home: Path) -> None:
    darkq = Darkq(home, redis_url="redis://127.0.0.1:1")
    done = await asyncio.to_thread(darkq, "top", "--once", "--json")
    assert (done.code, done.out) == (1, b"")
    command = darkq.start("top", "--interval-s", "0.1")
    await wait_until("a word", lambda: command.says("Redis does not answer"))
    assert not command.has_ended
    command.send(signal.SIGTERM)
    done = command.done()
    assert (done.code, done.out) == (143, b"")
    assert done.err.count("\n") == 1, "it is said once"
    darkq.end()


@pytest.mark.parametrize(("key", "code"), [("\x03", 130), ("q", 0)])
async def test_the_terminal_is_left_as_it_was(
    darkq: Darkq, open_terminal: Callable[..., Terminal], key: str, code: int
) -> None:
    terminal = open_terminal(darkq, "top", "--interval-s", "0.1", NO_COLOR="1")
    before = terminal.manners
    await wait_until("the screen", lambda: terminal.shows("THROUGHPUT"))
    assert terminal.manners != before, "nothing is echoed"
    terminal.type(f"nonsense{key}")
    found, screen = await terminal.end()
    assert found == code
    assert terminal.manners == before
    assert "nonsense" not in screen
    assert screen.startswith("\x1b[?1049h"), "another screen"
    assert screen.rstrip().endswith("\x1b[?25h\x1b[?1049l"), "the cursor, and the screen of before"
    assert not re.search(r"\x1b\[[0-9;]*m", screen), "no colours, and nothing bold"


async def test_ctrl_z_gives_the_terminal_back_for_a_while(
    darkq: Darkq, open_terminal: Callable[..., Terminal]
) -> None:
    terminal = open_terminal(darkq, "top", "--interval-s", "0.1", NO_COLOR="1")
    before = terminal.manners
    await wait_until("the screen", lambda: terminal.shows("THROUGHPUT"))
    terminal.type("\x1a")
    await wait_until("it to stop", lambda: terminal.is_stopped)
    assert terminal.manners == before
    terminal.shows("")
    assert terminal.screen.decode().rstrip().endswith("\x1b[?25h\x1b[?1049l")
    terminal.screen = b""
    terminal.send(signal.SIGCONT)
    await wait_until("the screen again", lambda: terminal.shows("THROUGHPUT"))
    terminal.type("q")
    assert (await terminal.end())[0] == 0
    assert terminal.manners == before


async def test_it_fills_the_terminal_whatever_its_size(
    darkq: Darkq, redis: Redis, open_terminal: Callable[..., Terminal]
) -> None:
    await sign_in_hand(redis)
    terminal = open_terminal(darkq, "top", "--interval-s", "3600", NO_COLOR="1")
    await wait_until("the worker", lambda: terminal.shows(WORKER))
    terminal.screen = b""
    terminal.resize(60, 12)
    await wait_until("the redrawn screen", lambda: terminal.shows("THROUGHPUT"))
    assert not terminal.shows(WORKER), "there is no room for it"
    lines = terminal.screen.decode().split("\x1b[H")[-1].splitlines()
    assert [len(line) for line in lines] == [60] * 12


async def test_a_reading_on_the_screen_outlives_redis(
    home: Path, own_server: Server, open_terminal: Callable[..., Terminal]
) -> None:
    darkq = Darkq(home, redis_url=own_server.url)
    terminal = open_terminal(darkq, "top", "--interval-s", "0.1", NO_COLOR="1")
    await wait_until("the screen", lambda: terminal.shows("THROUGHPUT"))
    own_server.kill()
    await wait_until("the outage", lambda: terminal.shows("Redis has not answered since "))
    assert terminal.shows("THROUGHPUT")
    terminal.screen = b""
    own_server.start()

    def is_back() -> bool:
        terminal.shows("")
        drawn = terminal.screen.decode().split("\x1b[H")
        return any("THROUGHPUT" in each and "away" not in each for each in drawn)

    await wait_until("Redis again", is_back)
    terminal.type("q")
    assert (await terminal.end())[0] == 0


def draw(panel: Panel, width: int, height: int) -> list[str]:
    """The lines that a panel has on a terminal of that size."""
    file = io.StringIO()
    console = Console(file=file, width=width, height=height, color_system=None)
    console.print(panel)
    return [line.rstrip() for line in file.getvalue().splitlines()]


def crowd(upstreams: int, workers: int) -> Reading:
    return Reading(
        at_ms=100_000,
        queues=(),
        counted=Counted(jobs=dict.fromkeys(m.OUTCOMES, 1), failures={}, retries=0, chunks=0),
        upstreams=tuple(
            UpstreamStatus(
                name=f"up{number}",
                kind="openai",
                default_model="m",
                models=("m",),
                options=(),
                workers=1,
            )
            for number in range(upstreams)
        ),
        workers=tuple(
            WorkerLeases(
                worker=f"darkq-7d9f8b6c5-{number:05}:7:01ab", running=number, first_ends_ms=0
            )
            for number in range(workers)
        ),
    )


@pytest.mark.parametrize(("upstreams", "workers"), [(0, 0), (3, 2), (30, 2), (2, 300), (30, 300)])
@pytest.mark.parametrize(("width", "height"), [(80, 24), (160, 50)])
def test_what_finds_no_room_is_counted(
    upstreams: int, workers: int, width: int, height: int
) -> None:
    panel = Panel("here")
    panel.update(crowd(upstreams, workers))
    lines = draw(panel, width, height)
    assert len(lines) <= height
    assert max(map(len, lines)) <= width
    for name, shown, number in (("up", "upstreams", upstreams), ("darkq-", "workers", workers)):
        listed = sum(line.startswith(name) for line in lines)
        counted = [int(line.split()[1]) for line in lines if line.endswith(f" {shown}")]
        assert listed + sum(counted) == number
        assert listed >= min(1, number)
    if workers:
        assert any(f"-{workers - 1:05}:7:01ab " in line for line in lines), "the busiest, whole"


def test_what_jobs_fail_with_and_when_an_upstream_is_called_again() -> None:
    known = crowd(1, 1)
    full = WindowUse(calls=9000, length_s=21600, used=9000)
    upstream = UpstreamStatus(
        name="x",
        kind="openai",
        default_model="m",
        models=("m",),
        options=(),
        workers=1,
        breaker="blocked",
        reopens_at_ms=known.at_ms + 64_000,
        windows=(WindowUse(calls=400, length_s=60, used=10), full),
    )
    rates = Rates(
        over_s=15,
        jobs={"completed": 1234.5, "failed": 3, "cancelled": 0},
        failures={"timeout": 1, "truncated": 2, "expired": 0},
        retries=0,
        chunks=123456.7,
    )
    panel = Panel("here")
    panel.update(Reading(**{**_fields(known), "upstreams": (upstream,), "rates": rates}))
    for width in (80, 160):
        lines = draw(panel, width, 24)
        assert "failing with truncated 2.0, timeout 1.0 per second" in lines
        row = next(line for line in lines if line.startswith("x "))
        assert re.match(r"x +blocked +- +0  again in 1 min 04 s, ", row)
        assert row.endswith("10/400 in 1 min" if width == 160 else "…")
        assert any(re.match(r"completed +1  +1,234.5 ", line) for line in lines)
        assert max(map(len, lines)) <= width


def test_an_outage_before_any_reading() -> None:
    panel = Panel("here")
    panel.update(Outage(at_ms=5000, away_since_ms=2000, reason="ConnectionError"))
    head, outage = draw(panel, 80, 24)
    assert head.startswith("darkq top  here ")
    assert re.fullmatch(
        r"Redis has not answered since [\d:]{8}, 3 s \(ConnectionError\); retrying", outage
    )


def test_blocks() -> None:
    assert draw_bars([0, 1, 50, 100]) == "▁▂▅█"
    assert draw_bars([0, 0]) == "▁▁"
    assert draw_bars([]) == ""


def test_a_foreign_name_cannot_command_the_terminal() -> None:
    panel = Panel("here")
    evil = WorkerLeases(worker="a\n\x1b[2Jb", running=1, first_ends_ms=0)
    panel.update(Reading(**{**_fields(crowd(0, 0)), "workers": (evil,)}))
    text = "\n".join(draw(panel, 80, 24))
    assert "\x1b" not in text
    assert "a \ufffd[2Jb " in text


def _fields(reading: Reading) -> dict[str, Any]:
    return {name: getattr(reading, name) for name in reading.__struct_fields__}
