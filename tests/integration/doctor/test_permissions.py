"""What a user may do: each role's rule suffices, each of its words is missed, nothing is done."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from redis.asyncio import Redis

from darkq import Settings
from darkq_cli.doctor import permissions
from support.by_hand import snapshot
from support.servers import Server, running

from .conftest import Results, examine_all, look

ROOT = Path(__file__).parents[3]
DOCS = (ROOT / "docs/security.md").read_text()
RULES = dict(re.findall(r"^ACL SETUSER darkq-(\w+) on >SECRET (.*)$", DOCS, re.MULTILINE))

AsUser = Callable[[str], Awaitable[Results]]


def test_the_rules_are_those_of_the_docs() -> None:
    assert {role: rule.split() for role, rule in permissions.RULES.items()} == {
        role: rule.split() for role, rule in RULES.items()
    }


def test_there_is_a_call_for_each_word() -> None:
    words = {word for rule in RULES.values() for word in rule.split() if word[0] == "+"}
    assert words == {*permissions.CALLS, *permissions.TRANSACTIONS}


@pytest.fixture
async def look_as(
    server: Server, admin: Redis, make: Callable[..., Settings]
) -> AsyncIterator[AsUser]:
    """Run the checks of the server as a user with this rule."""

    async def run(rule: str) -> Results:
        await admin.execute_command(
            "ACL", "SETUSER", "somebody", "reset", "on", ">x", *rule.split()
        )
        async with Redis.from_url(f"unix://somebody:x@{server.socket}") as redis:
            return await look(redis, make())

    yield run
    await admin.execute_command("ACL", "DELUSER", "somebody")


async def test_a_user_who_may_do_everything(admin: Redis, make: Callable[..., Settings]) -> None:
    found = (await look(admin, make()))["permissions"]
    assert found.verdict == "ok"
    assert found.found == "user default has the permissions of worker, producer and reader"


@pytest.mark.parametrize("role", RULES)
async def test_a_roles_rule_suffices_for_it(role: str, look_as: AsUser) -> None:
    found = (await look_as(RULES[role]))["permissions"]
    assert found.verdict == "ok", found
    assert re.match(rf"user somebody has the permissions of ({role}|\w+ and {role})\b", found.found)
    for other in RULES.keys() - {role}:
        assert re.search(rf"\b{other} lacks | (of|and) {other}\b", found.found), found


WORDS = [(role, word) for role, rule in RULES.items() for word in rule.split() if word[0] in "+~&"]


@pytest.mark.parametrize(("role", "word"), WORDS, ids=lambda name: name)
async def test_every_word_is_missed(
    role: str, word: str, look_as: AsUser, admin: Redis, server: Server
) -> None:
    if word == "+client|setinfo" and "redis" in str(server._command[0]).rsplit("/", 1)[-1]:
        pytest.skip("Redis 6.2 has no such command")
    before = await snapshot(admin)
    rule = [other for other in RULES[role].split() if other != word]
    found = (await look_as(" ".join(rule)))["permissions"]
    if found.verdict == "problem":
        assert found.do.split(". ")[0] == f"ACL SETUSER somebody {word}"
    else:  # it may still be another
        assert re.search(rf"; {role} lacks {re.escape(word)}(;|$)", found.found), found
    assert await snapshot(admin) == before, "nothing was executed"


async def test_what_may_not_be_asked_is_skipped(look_as: AsUser) -> None:
    found = await look_as(RULES["reader"])
    # On a busy machine the latency is a warning.
    verdicts = {each.verdict for name, each in found.items() if name != "latency"}
    assert verdicts == {"ok", "skipped"}
    skipped = {name for name, each in found.items() if each.verdict == "skipped"}
    assert skipped == found.keys() - {"latency", "clock", "permissions"}
    for name in skipped:
        assert found[name].found.startswith("the server does not tell: "), found[name]
        assert found[name].do.startswith("Check by hand: ")


async def test_a_worker_may_ask_info_but_no_config(look_as: AsUser) -> None:
    found = await look_as(RULES["worker"])
    assert found["version"].verdict == found["eviction"].verdict == "ok"
    assert found["persistence"].verdict == "warning"
    assert "the server does not tell" in found["persistence"].found
    assert found["idle timeout"].verdict == "skipped"


async def test_a_managed_redis_that_has_no_config(
    admin: Redis, make: Callable[..., Settings], server: Server
) -> None:
    """As ElastiCache: `CONFIG` is no command there."""
    binary = Path(server._command[0])
    with running(binary, "--rename-command", "CONFIG", "") as managed:
        async with Redis.from_url(managed.url) as redis:
            found = await look(redis, make())
    assert found["output buffers"].verdict == "skipped"
    assert "CONFIG GET is forbidden" in found["output buffers"].found
    assert found["version"].verdict == "ok"


async def test_a_reader_examines_what_it_can(
    server: Server, admin: Redis, make: Callable[..., Settings]
) -> None:
    rule = RULES["reader"].split()
    await admin.execute_command("ACL", "SETUSER", "somebody", "reset", "on", ">x", *rule)
    found = await examine_all(make(redis_url=f"unix://somebody:x@{server.socket}"))
    await admin.execute_command("ACL", "DELUSER", "somebody")
    assert found["redis"].verdict == "ok"
    assert {found[name].verdict for name in ("partitions", "failed jobs")} <= {"ok", "skipped"}
