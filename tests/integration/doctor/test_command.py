"""`darkq doctor` as a command: what it prints, its exit codes; that the docs know its checks."""

from __future__ import annotations

import asyncio
import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from darkq_cli.doctor.examine import list_names
from support.command import Darkq
from support.servers import Server, binaries, running
from support.waiting import wait_until

DOCS = Path(__file__).parents[3] / "docs" / "doctor.md"


@pytest.fixture
def healthy() -> Iterator[Server]:
    options = ("--appendonly", "yes", "--maxmemory", "1gb")
    with running(binaries()["valkey"], *options) as server:
        yield server


@pytest.fixture
def darkq(healthy: Server) -> Iterator[Darkq]:
    with tempfile.TemporaryDirectory(prefix="darkq-cli-") as home:
        darkq = Darkq(Path(home), redis_url=healthy.url)
        yield darkq
        darkq.end()


async def test_every_check_has_a_row_in_the_docs() -> None:
    assert re.findall(r"^\| `([a-z ]+)` \|", DOCS.read_text(), re.MULTILINE) == list_names()


async def test_warnings_are_no_failure(darkq: Darkq) -> None:
    done = await asyncio.to_thread(darkq, "doctor", "--json", "--no-probe")
    assert done.code == 0, done
    assert [each["check"] for each in done.objects] == list_names()
    assert all(each.keys() == {"check", "of", "verdict", "found", "do"} for each in done.objects)
    verdicts = [each["verdict"] for each in done.objects]
    assert "problem" not in verdicts
    told = json.loads(done.err)
    assert told["verdicts"] == {verdict: verdicts.count(verdict) for verdict in set(verdicts)}


async def test_a_problem_is_a_failure(darkq: Darkq, healthy: Server) -> None:
    async with Redis.from_url(healthy.url) as redis:
        await redis.config_set("maxmemory-policy", "allkeys-lru")
    done = await asyncio.to_thread(darkq, "doctor", "--no-probe")
    assert done.code == 1
    assert re.fullmatch(r"darkq: 1 problem, \d warnings?\n", done.err)
    lines = done.out.decode().splitlines()
    assert "\x1b" not in done.out.decode()
    at = next(n for n, line in enumerate(lines) if line.startswith("problem  eviction  "))
    assert lines[at + 1].strip().startswith("→ CONFIG SET maxmemory-policy noeviction")
    assert sum(line.startswith("problem") for line in lines) == 1


async def test_a_redis_that_is_away_takes_one_line(darkq: Darkq) -> None:
    away = {"DARKQ_REDIS_URL": "redis://127.0.0.1:1"}
    done = await asyncio.to_thread(darkq, "doctor", "--no-probe", environment=away)
    assert done.code == 1
    lines = [line for line in done.out.decode().splitlines() if "no answer from Redis" in line]
    assert [line.split()[0] for line in lines] == ["skipped", "skipped"]
    assert lines[0].endswith(", replication, cluster and permissions")
    assert lines[1].endswith("; also workers, queues, failed jobs and breakers")


async def test_settings_that_do_not_load_are_a_problem(darkq: Darkq) -> None:
    wrong = {"DARKQ_PARTITIONS": "many"}
    done = await asyncio.to_thread(darkq, "doctor", "--json", environment=wrong)
    assert done.code == 1
    (found,) = done.objects
    assert (found["check"], found["verdict"]) == ("configuration", "problem")
    assert found["found"].startswith("DARKQ_PARTITIONS: ")


async def test_wrong_usage(darkq: Darkq) -> None:
    assert (await asyncio.to_thread(darkq, "doctor", "--nonsense")).code == 2


async def test_the_embedded_server_is_healthy_and_none_is_started(darkq: Darkq) -> None:
    alone = {"DARKQ_REDIS_URL": ""}
    done = await asyncio.to_thread(darkq, "doctor", "--json", "--no-probe", environment=alone)
    found = {each["check"]: each for each in done.objects}
    assert (done.code, found["redis"]["verdict"]) == (0, "skipped")
    assert not darkq.state.exists(), "it has started none"
    up = darkq.start("up", "--model", "markov", environment=alone)
    await wait_until("darkq to be up", lambda: up.says("darkq is up"), 60)
    done = await asyncio.to_thread(darkq, "doctor", "--json", "--no-probe", environment=alone)
    found = {each["check"]: each for each in done.objects}
    bad = {name for name, each in found.items() if each["verdict"] not in ("ok", "skipped")}
    assert bad <= {"open files", "files", "state folder"}, "but for this machine, all is well"
    assert found["workers"]["found"].startswith("1 alive")
