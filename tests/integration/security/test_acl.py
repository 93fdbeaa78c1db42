"""The ACLs of docs/security.md: each role's whole job works with exactly that, and needs it all.

A scenario plays everything that a role does. It must leave nothing in the server's log of
refusals; and with any one word of its rule taken away, it must.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError

from darkq import Client, DarkqError, JobCancelled, JobFailed, Settings
from darkq.event import Cursor
from darkq.operate.upstreams import Served, announcement
from darkq.operate.workers import sign_in
from darkq.protocol.keys import TICKETS, WORKERS, JobKeys, PartitionKeys, WorkerKeys
from darkq.redis import pubsub as subscriber
from darkq.serving.api_keys import ApiKeys
from darkq.serving.file_batches import FileBatch
from darkq.serving.files import Files
from darkq_local.faults import Fault
from darkq_local.local_darkai import LocalDarkAI
from darkq_worker.files import run as file_batch
from darkq_worker.files import runner as file_batch_runners
from darkq_worker.loop import worker as leased_worker
from darkq_worker.main import run_worker
from support.by_hand import Hand, chunk, started
from support.repository import files_of
from support.servers import Server, binaries, running
from support.waiting import wait_until

ROOT = Path(__file__).parents[3]
DOCS = (ROOT / "docs/security.md").read_text()
LUA = {path.stem: path for path in files_of(ROOT / "producer/darkq/redis/lua", "*.lua")}
RULES = dict(re.findall(r"^ACL SETUSER darkq-(\w+) on >SECRET (.*)$", DOCS, re.MULTILINE))
LIMITS = {"darkai_limits": "4/1", "darkai_concurrency": 2, "breaker_failures": 1}
SCRIPTS = {
    "producer": [
        *("enqueue", "headroom", "wake", "batches", "cancel", "end_line", "revive"),
        *("batch_renew_lease", "batch_close", "batch_acknowledge"),
        *("drop", "apikey_enter", "forget", "publish", "waiter_keep", "waiter_leave"),
    ],
    "worker": [
        *(
            "claim",
            "wake",
            "worker_pass_on",
            "queue_set_back",
            "renew",
            "append",
            "finish",
            "end_line",
            "release",
            "make_due",
        ),
        *("drop", "limits", "limit_admit", "limit_report", "worker_count"),
        *("batches", "batch_renew_lease", "batch_close", "batch_acknowledge", "filebatch_advance"),
    ],
}
OPERATOR = {
    "change_priority",
    *("transfer_depart", "transfer_arrive", "transfer_forget", "transfer_give_back"),
}
"""Scripts of those who move queues; docs/security.md says what their user needs."""

DATABASE = 1
LEASE_S = 6  # a machine on which every core is busy may hold a process up for seconds

StartDarkAI = Callable[..., Awaitable[LocalDarkAI]]
Scenario = Callable[["World"], Coroutine[Any, Any, None]]


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, Server]]:
    with running(binaries()["valkey"]) as valkey, running(list(binaries().values())[-1]) as oldest:
        yield {"valkey": valkey, "oldest": oldest}


@pytest.fixture(params=["valkey"])
def redis_server(request: pytest.FixtureRequest, servers: dict[str, Server]) -> Server:
    return servers[request.param]


@pytest.fixture
async def redis(redis_server: Server) -> AsyncIterator[Redis]:
    """The administrator's client."""
    client = Redis.from_url(redis_server.url, db=DATABASE)
    await client.flushall()
    await client.script_flush()  # so that scripts have to be brought there
    await client.execute_command("ACL", "LOG", "RESET")
    yield client
    for role in RULES:
        await client.execute_command("ACL", "DELUSER", f"darkq-{role}")
    await client.aclose()


class World:
    """What a scenario has: settings of its role, and the administrator's hand for the rest."""

    def __init__(self, redis: Redis, settings: Settings, darkai: LocalDarkAI) -> None:
        self.redis, self.settings, self.darkai = redis, settings, darkai
        self.hand = Hand(redis)

    async def failed_job(self) -> JobKeys:
        claim = await self.hand.take()
        await self.hand.append(claim, started(1), chunk(1, 1))
        await self.hand.fail(claim, Cursor(1, 2))
        return claim.keys

    async def read_live(self, client: Client, keys: JobKeys) -> None:
        """Read a job's text while it comes."""
        claim = await self.hand.claim_one()
        assert claim.keys == keys
        text = asyncio.create_task(read(client, keys))
        try:
            await wait_until("the reader", lambda: self.redis.pubsub_channels("darkq:live:*"))
            await wait_until("its sign of life", self.has_pinged)
            await self.hand.append(claim, started(claim.attempt), chunk(claim.attempt, 1))
            await self.hand.complete(claim, "x", Cursor(claim.attempt, 2))
            assert await text == "x"
        finally:
            text.cancel()
            await asyncio.wait([text])
        assert (await client.job(keys.public_id).result(timeout_s=5)).text == "x"

    async def dead_worker(self) -> None:
        await sign_in(self.redis, "host:1:dead")

    async def live_worker(self) -> None:
        serves = Served(name="x", kind="openai", default_model="m", models=("m",))
        await sign_in(self.redis, "host:1:live", announcement([serves]))
        await self.redis.set(WorkerKeys("host:1:live").health, "well", ex=60)

    async def is_renewed(self, job_id: str) -> None:
        """Wait until a heartbeat has moved the end of a job's lease."""
        name, arq_id = PartitionKeys(0).queue("interactive"), JobKeys.parse(job_id).arq_id
        before = await self.redis.zscore(name, arq_id)

        async def has_moved() -> bool:
            return bool(await self.redis.zscore(name, arq_id) != before)

        await wait_until("a heartbeat", has_moved)

    async def has_pinged(self) -> bool:
        clients = await self.redis.client_list(_type="pubsub")
        return any(client["cmd"] == "ping" for client in clients)


async def read(client: Client, keys: JobKeys) -> str:
    return "".join([piece async for piece in client.job(keys.public_id).text()])


async def produce(world: World) -> None:
    """Put jobs in, look at them, read one, cancel some, run one again."""
    async with Client(settings=world.settings) as client:
        failed = await world.failed_job()
        job = await client.enqueue("a", idempotency_key="k")
        assert (await client.enqueue("a", idempotency_key="k")).duplicate
        assert (await job.status()).state == "queued"
        await world.read_live(client, JobKeys.parse(job.id))
        waiting, running = await client.enqueue_many(["b", "c"])
        assert (await waiting.cancel()).state == "cancelled"
        await world.hand.claim_one()
        assert (await running.cancel()).state == "cancelling"
        async with aclosing(client.failed()) as jobs:
            assert [job.job_id async for job in jobs] == [failed.public_id]
        assert (await client.job(failed.public_id).retry()).state == "queued"
        await world.dead_worker()
        assert await client.workers() == []
        await world.live_worker()
        assert [upstream.workers for upstream in await client.upstreams()] == [1]
        assert (await client.stats()).workers == 1
        assert len((await client.fleet()).workers) == 1
        await run_batch(world, client)
        assert len(await client.jobs()) > 1
        await let_in(world, client)
        await order_file_batch(world, client)
        held = await client.reattachments.hold("digest", job.id)
        assert held is not None
        assert await client.reattachments.find("digest") == held.job_id
        await client.reattachments.leave(held, grace_s=0)
        assert await client.reattachments.is_last(held)
        assert [event async for batch in job.history() for event in batch]
        await job.delete()


async def let_in(world: World, client: Client) -> None:
    """What a gateway does with an API key that somebody else has made."""
    assert not await client.api_keys.exist()
    _, secret = await ApiKeys(world.redis).create("alice", rate_per_s=100, concurrency=1)
    key = await client.api_keys.find(secret)
    assert key is not None
    for call_id, verdict in (("a", "entered"), ("b", "places")):
        entry = await client.api_keys.enter(key, call_id, lease_s=5)
        assert entry.outcome == verdict
    await client.api_keys.renew([(key, "a")], lease_s=5)
    await client.api_keys.leave(key, "a")
    ticket = await client.job("0-" + "0" * 32).ticket()
    assert await client.tickets.check(ticket) is not None


async def run_batch(world: World, client: Client) -> None:
    """Feed a batch, follow it, take its results, and cancel the rest."""
    await world.redis.delete(PartitionKeys(0).queue("interactive"), PartitionKeys(0).queue("bulk"))
    async with client.batch() as batch:
        await batch.add("a")
        await batch.add("b")
        tail = batch.tail()
        reading = asyncio.create_task(anext(tail))
        claim, _ = await world.hand.claim()
        await world.hand.append(claim, started(1))
        await world.hand.complete(claim, "x", Cursor(1, 1))
        async with aclosing(tail):
            await reading
        async with aclosing(batch.collected()) as pages:
            await batch.acknowledge(await anext(pages))
        await world.redis.delete(*await world.redis.keys("arq:in-progress:*"))
        await batch.add("c")
        await batch.close_input()
        assert (await batch.cancel()).cancelled
    assert [known.batch_id async for known in client.batches()] == [batch.id]


async def look(world: World) -> None:
    """Read jobs that others have put in, and nothing else."""
    async with Client(settings=world.settings) as client:
        keys = await world.hand.enqueue()
        assert (await client.job(keys.public_id).status()).state == "queued"
        await world.read_live(client, keys)
        await world.redis.delete(keys.events)
        assert await read(client, keys) == "x", "from the result, when the log has expired"
        await world.live_worker()
        assert await client.workers() == ["host:1:live"]
        assert [upstream.name for upstream in await client.upstreams()] == ["x"]
        waiting = await world.hand.enqueue()
        await world.redis.delete(waiting.job, waiting.events)
        assert (await client.job(waiting.public_id).status()).state == "queued"
        await follow_batch(world, client)


async def follow_batch(world: World, client: Client) -> None:
    """Follow a batch of others, and look at it."""
    async with (
        Client(settings=world.settings.model_copy(update={"redis_url": world_url(world)})) as admin,
        admin.batch() as batch,
    ):
        await batch.add("a")
        await batch.cancel()
    follower = client.batch(batch.id)
    assert (await follower.status()).state == "cancelled"
    assert [end.outcome async for end in follower.events()] == ["cancelled"]
    assert [item async for item in follower.tail()]
    assert [known.batch_id async for known in client.batches()] == [batch.id]


async def work(world: World) -> None:
    """Jobs that are completed, fail, are tried again, cancelled and left behind by a dead one."""
    admin = Client(settings=world.settings.model_copy(update={"redis_url": world_url(world)}))
    lost = await Hand(world.redis, "dead", lease_s=0.3).take()
    await Hand(world.redis, "dead").append(lost, started(1))
    expired = await world.hand.enqueue()
    await world.redis.delete(expired.job)
    await world.redis.script_flush()  # a worker brings what its first claim needs by itself
    worker = asyncio.create_task(run_worker(world.settings, handle_signals=False))
    try:
        job = await admin.enqueue("tried again")
        tried_again = await job.result(timeout_s=40)
        async with admin.batch() as batch:
            assert [end.outcome async for end in batch.run(["a line"])] == ["completed"]
        await run_file_batch(world, admin)
        refused = await admin.enqueue("refused", model="gpt-9")
        with suppress(JobFailed):
            await refused.result(timeout_s=40)
        with suppress(JobFailed):
            await admin.job(expired.public_id).result(timeout_s=40)
        taken_over = await admin.job(lost.keys.public_id).result(timeout_s=40)
        assert taken_over.attempt >= 2
        # The first answer is cut, whichever of the two it is for; a limit may put either off.
        assert tried_again.attempt + taken_over.attempt >= 4
        slow = await admin.enqueue("[fault: stall=2] to be cancelled")
        async for _ in slow.text():
            break
        await slow.cancel()
        with suppress(JobCancelled):
            await slow.result(timeout_s=40)
        unfinished = await admin.enqueue("[fault: stall=2] to be handed back")
        async for _ in unfinished.text():
            break
        await wait_until("a sign of life", admin.workers)
        health = await world.redis.keys(f"{WORKERS}:*")
        await world.is_renewed(unfinished.id)
        worker.cancel()
        await asyncio.wait([worker])
        assert health
        assert (await unfinished.status()).state in ("queued", "deferred")
    finally:
        if not worker.cancelling():  # a second one would break off its end
            worker.cancel()
        while not worker.done():
            with suppress(asyncio.CancelledError):  # `play` may see a refusal only now
                await asyncio.wait([worker])
        await admin.aclose()


async def run_file_batch(world: World, admin: Client) -> None:
    """Let the worker feed a batch over files, and put its answers together."""
    record = await order_file_batch(world, admin)

    async def is_completed() -> bool:
        return (await admin.file_batches.get(record.id)).state == "completed"

    await wait_until("the batch over files", is_completed)


async def order_file_batch(world: World, client: Client) -> FileBatch:
    """What a gateway does with a file."""

    async def line() -> AsyncIterator[bytes]:
        yield b'{"custom_id": "a", "prompt": "a line of a file"}'

    stored = await Files(world.settings).create(None, line(), filename="x", purpose="batch")
    async with client.batch() as batch:
        pass
    record = FileBatch(
        id=batch.id,
        tenant=None,
        input_file_id=stored.id,
        endpoint="/v1/chat/completions",
        created_at=int(time.time()),
        expires_at=int(time.time()) + 60,
    )
    await client.file_batches.create(record)
    assert [known.id for known in (await client.file_batches.page(None, limit=9)).records] == [
        batch.id
    ]
    return record


def world_url(world: World) -> Any:
    from pydantic import SecretStr

    options = world.redis.connection_pool.connection_kwargs
    return SecretStr(f"unix://{options['path']}?db={DATABASE}")


SCENARIOS: dict[str, Scenario] = {"producer": produce, "reader": look, "worker": work}


@pytest.fixture
async def play(
    redis: Redis,
    redis_server: Server,
    make_settings: Callable[..., Settings],
    start_darkai: StartDarkAI,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[str, str], Awaitable[list[str]]]:
    """Play a role under a rule, to its end or to the first refusal; return what was refused."""

    monkeypatch.setattr(subscriber, "_PING_INTERVAL_S", 0.02)
    monkeypatch.setattr(leased_worker, "_CLOSE_PATIENCE_S", 0.1)
    monkeypatch.setattr(file_batch_runners, "LOOK_S", 0.05)
    monkeypatch.setattr(file_batch, "PAUSE_S", 0.05)

    async def refusals() -> list[str]:
        entries = await redis.execute_command("ACL", "LOG")
        return [f"{entry['reason']} {entry['object']}" for entry in map(as_dict, entries)]

    async def start(role: str, rule: str, **changes: Any) -> list[str]:
        await redis.execute_command(
            "ACL", "SETUSER", f"darkq-{role}", "on", ">secret", *rule.split()
        )
        darkai = await start_darkai(Fault.parse("truncate=1"), chunks=3)
        url = f"unix://darkq-{role}:secret@{redis_server.socket}?db={DATABASE}"
        settings = make_settings(
            redis_url=url, darkai_url=darkai.url, worker_lease_s=LEASE_S, retry_base_s=0.01,
            **{"redis_patience_s": 30, **changes},
        )  # fmt: skip
        scene = asyncio.create_task(SCENARIOS[role](World(redis, settings, darkai)))
        while not scene.done() and not await refusals():
            await asyncio.wait([scene], timeout=0.01)
        refused = await refusals()
        if refused:
            scene.cancel()
        with suppress(*((asyncio.CancelledError, DarkqError, Exception) if refused else ())):
            await scene
        return refused

    return start


def as_dict(entry: list[bytes]) -> dict[str, str]:
    words = [word.decode() if isinstance(word, bytes) else str(word) for word in entry]
    return dict(zip(words[::2], words[1::2], strict=True))


@pytest.mark.parametrize("redis_server", ["valkey", "oldest"], indirect=True)
@pytest.mark.parametrize("role", SCENARIOS)
async def test_a_roles_whole_job_works_with_exactly_its_rule(play: Any, role: str) -> None:
    assert await play(role, RULES[role]) == []


WORDS = [
    (role, word)
    for role, rule in RULES.items()
    for word in rule.split()
    if word[0] in "~&+"
]  # fmt: skip


@pytest.mark.parametrize(("role", "word"), WORDS, ids=lambda name: name)
async def test_every_word_of_a_rule_is_needed(play: Any, role: str, word: str) -> None:
    without = " ".join(other for other in RULES[role].split() if other != word)
    limits = LIMITS if role == "worker" else {}
    assert await play(role, without, redis_patience_s=1, **limits) != []


async def test_a_worker_that_limits_its_calls(play: Any) -> None:
    assert await play("worker", RULES["worker"], **LIMITS) == []


async def test_a_reader_makes_no_tickets(redis: Redis, redis_server: Server) -> None:
    """Red when the secret has a name that the reader's rule covers."""
    words = RULES["reader"].split()
    await redis.execute_command("ACL", "SETUSER", "darkq-reader", "on", ">secret", *words)
    await redis.set(TICKETS, "x" * 64)
    reader = Redis.from_url(
        redis_server.url, db=DATABASE, username="darkq-reader", password="secret"
    )
    with pytest.raises(NoPermissionError):
        await reader.get(TICKETS)
    await reader.aclose()


@pytest.mark.parametrize("role", SCRIPTS)
def test_a_rule_covers_every_branch_of_the_scripts(role: str) -> None:
    """A scenario may not come along all of them."""
    allowed = set(RULES[role].split())
    for name in SCRIPTS[role]:
        source = LUA[name].read_text()
        called = re.findall(r"redis\.p?call\('(\w+)'", source)
        assert {f"+{command.lower()}" for command in called} <= allowed, name


def test_every_script_is_of_a_role() -> None:
    assert set(LUA) == {
        *SCRIPTS["producer"],
        *SCRIPTS["worker"],
        *OPERATOR,
    }
