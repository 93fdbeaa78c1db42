"""Several upstreams behind one worker: which job goes where, and what all can see of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from redis.asyncio import Redis

from darkq import Client, ConfigurationError, InvalidJob, JobFailed, Options, Settings, Usage
from darkq.operate.workers import sign_in
from darkq.protocol.keys import LimitKeys, WorkerKeys
from darkq.settings.parsing import Window
from darkq.sync import Client as SyncClient
from darkq_local.faults import Fault
from darkq_local.local_darkai import LocalDarkAI
from darkq_worker.attempts import generate
from darkq_worker.limits.calls import CallDeferred, Limits, Rule
from darkq_worker.upstreams import openai as listing
from darkq_worker.wiring import make_session, make_upstreams
from support.openai_frames import DONE, delta, finish, usage
from support.scripted_http import ScriptedServer, Step, head
from support.waiting import wait_until

StartDarkAI = Callable[..., Awaitable[LocalDarkAI]]
StartWorker = Callable[[Settings], asyncio.Task[None]]
MakeSettings = Callable[..., Settings]

ANSWER: list[Step] = [head(), delta("other") + finish() + usage(3, 1) + DONE]
JSON = {"content_type": "application/json"}


def url_of(server: ScriptedServer) -> str:
    return server.url.replace("/chat", "/v1")


async def test_a_job_goes_to_the_upstream_that_knows_its_model(
    client: Client,
    make_settings: MakeSettings,
    start_darkai: StartDarkAI,
    start_worker: StartWorker,
) -> None:
    darkai = await start_darkai()
    async with ScriptedServer(ANSWER) as server:
        other = {"url": url_of(server), "models": "qwen3:0.6b, small=qwen3:0.6b, gpt-4o"}
        start_worker(make_settings(darkai_url=darkai.url, upstreams={"other": other}))
        places: dict[str, dict[str, Any]] = {
            "the default": {},
            "the default's": {"model": "gpt-4o"},
            "the other's": {"model": "qwen3:0.6b"},
            "the other's alias": {"model": "small"},
            "forced": {"model": "gpt-4o", "upstream": "other"},
        }
        went: dict[str, tuple[str, str]] = {}
        for name, wishes in places.items():
            result = await (await client.enqueue("hi", **wishes)).result(timeout_s=10)
            went[name] = (result.upstream, result.model)
        assert went == {
            "the default": ("darkai", "llama-3-70b"),
            "the default's": ("darkai", "gpt-4o"),
            "the other's": ("other", "qwen3:0.6b"),
            "the other's alias": ("other", "qwen3:0.6b"),
            "forced": ("other", "gpt-4o"),
        }
        unknown = await client.enqueue("hi", model="gpt-9")
        with pytest.raises(JobFailed, match=r"'gpt-9'; known: llama-3-70b, .*qwen3:0.6b") as caught:
            await unknown.result(timeout_s=10)
        assert caught.value.code == "unknown_model"


async def test_options_are_sent_to_an_upstream_that_supports_them(
    client: Client,
    redis: Redis,
    make_settings: MakeSettings,
    start_darkai: StartDarkAI,
    start_worker: StartWorker,
) -> None:
    darkai = await start_darkai()
    async with ScriptedServer(ANSWER) as server:
        other = {"url": url_of(server), "models": "m"}
        start_worker(
            make_settings(darkai_url=darkai.url, darkai_limits="9/60", upstreams={"other": other})
        )
        job = await client.enqueue("hi", model="m", options={"seed": 4, "stop": "x"})
        result = await job.result(timeout_s=10)
        assert result.usage == Usage(prompt_tokens=3, completion_tokens=1)
        asked = server.requests[0].json
        assert (asked["seed"], asked["stop"]) == (4, ["x"])
        refused = await client.enqueue("hi", options=Options(temperature=0.5))
        with pytest.raises(JobFailed, match="cannot honour the option temperature") as caught:
            await refused.result(timeout_s=10)
        assert caught.value.code == "rejected"
        assert darkai.requests_seen == 0
        assert not await redis.exists(LimitKeys.of_upstream("darkai").grants), (
            "it counts as no call"
        )


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"temperature": 3}, "options.temperature"),
        ({"top_p": float("nan")}, "options.top_p"),
        ({"max_tokens": 0}, "options.max_tokens"),
        ({"stop": []}, "options.stop"),
        ({"stop": ["\ud83d"]}, "options.stop"),
        ({"seed": True}, "options.seed"),
        ({"presence_penalty": "1"}, "options.presence_penalty"),
        ({"wish": 1}, "options"),
        (Options(frequency_penalty=-3), "options.frequency_penalty"),
        ({"max_tokens": 1, "max_completion_tokens": 1}, "options.max_completion_tokens"),
        ("temperature=1", "options"),
    ],
)
async def test_bad_options_are_refused_before_anything_is_stored(
    client: Client, redis: Redis, options: Any, field: str
) -> None:
    with pytest.raises(InvalidJob) as caught:
        await client.enqueue("hi", options=options)
    assert caught.value.field == field
    assert await redis.dbsize() == 0


async def test_job_is_deferred_until_the_model_list_arrives(
    client: Client,
    make_settings: MakeSettings,
    start_worker: StartWorker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It burns no try, and runs once the service has said what it serves."""
    monkeypatch.setattr(generate, "NOT_READY_PAUSE_S", 0.05)
    monkeypatch.setattr(listing, "_FIRST_PAUSE_S", 0.05)
    gate = asyncio.Event()
    listed = [head(**JSON), b'{"data": [{"id": "found"}]}']
    async with ScriptedServer([head("503 Busy")], [gate, *listed], ANSWER) as server:
        upstreams = {"other": {"url": url_of(server)}}
        start_worker(make_settings(darkai_url="none", upstreams=upstreams))
        job = await client.enqueue("hi", tries=1)

        async def is_deferred() -> bool:
            return (await job.status()).state == "deferred"

        await wait_until("the job to be put off", is_deferred)
        gate.set()
        result = await job.result(timeout_s=10)
        assert (result.text, result.model) == ("other", "found")
        assert [request.method for request in server.requests] == ["GET", "GET", "POST"]


async def test_an_unlisted_model_is_judged_by_the_service(
    client: Client, make_settings: MakeSettings, start_worker: StartWorker
) -> None:
    """Red where a job for a new model of a named service fails before anybody has asked it."""
    listed = [head(**JSON), b'{"data": [{"id": "old"}]}']
    unknown = [head("404 No", **JSON), b'{"error": {"message": "model gone not found"}}']
    async with (
        ScriptedServer(listed, ANSWER, unknown) as server,
        ScriptedServer([head(**JSON), b'{"data": [{"id": "x"}]}']) as second,
    ):
        upstreams = {"other": {"url": url_of(server)}, "second": {"url": url_of(second)}}
        start_worker(make_settings(darkai_url="none", upstreams=upstreams))

        async def both_are_listed() -> bool:
            return [told.models for told in await client.upstreams()] == [("old",), ("x",)]

        await wait_until("both lists", both_are_listed)
        job = await client.enqueue("hi", upstream="other", model="brand-new")
        assert (await job.result(timeout_s=10)).model == "brand-new"
        assert server.requests[1].json["model"] == "brand-new"
        for upstream, known in (("other", "old"), (None, "old, x")):
            job = await client.enqueue("hi", model="gone", upstream=upstream)
            with pytest.raises(JobFailed, match=f"'gone'; known: {known}") as caught:
                await job.result(timeout_s=10)
            assert caught.value.code == "unknown_model"
        assert len(server.requests) == 3, "of several, none is asked for a model that none lists"


async def test_a_list_that_cannot_be_read_is_no_outage(
    client: Client,
    make_settings: MakeSettings,
    start_worker: StartWorker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Red where a job waits a week for it, and where a typo elsewhere waits as well."""
    monkeypatch.setattr(listing, "_FIRST_PAUSE_S", 60.0)
    async with ScriptedServer([head(**JSON), b'{"object": "list"}'], ANSWER) as server:
        upstreams = {"other": {"url": url_of(server)}, "second": {"url": "x", "models": "n"}}
        upstreams["second"]["url"] = url_of(server)
        start_worker(make_settings(darkai_url="none", upstreams=upstreams, retry_base_s=0.01))
        await wait_until("the list to be asked for", lambda: len(server.requests) == 1)
        typo = await client.enqueue("hi", model="typo")
        with pytest.raises(JobFailed) as caught:
            await typo.result(timeout_s=10)
        assert caught.value.code == "unknown_model"
        vague = await client.enqueue("hi", upstream="other")
        with pytest.raises(JobFailed, match="DARKQ_UPSTREAMS__OTHER__MODELS") as caught:
            await vague.result(timeout_s=10)
        assert caught.value.code == "protocol_violation"
        named = await client.enqueue("hi", upstream="other", model="m")
        assert (await named.result(timeout_s=10)).text == "other"


async def test_max_tokens_and_max_completion_tokens_are_sent_as_given(
    client: Client, make_settings: MakeSettings, start_worker: StartWorker
) -> None:
    async with ScriptedServer(ANSWER) as server:
        other = {"url": url_of(server), "models": "m"}
        start_worker(make_settings(darkai_url="none", upstreams={"other": other}))
        for word in ("max_tokens", "max_completion_tokens"):
            await (await client.enqueue("hi", options={word: 7})).result(timeout_s=10)
        sent = [
            {name: value for name, value in each.json.items() if name.startswith("max_")}
            for each in server.requests
        ]
        assert sent == [{"max_tokens": 7}, {"max_completion_tokens": 7}]


async def test_announcement_has_neither_addresses_nor_keys(
    client: Client,
    redis: Redis,
    make_settings: MakeSettings,
    start_darkai: StartDarkAI,
    start_worker: StartWorker,
) -> None:
    assert await client.upstreams() == []
    darkai = await start_darkai(Fault.parse("slow=5"))
    other = {"url": "http://user-host:1/v1", "api_key": "sk-secret", "models": "m, small=n"}
    settings = make_settings(
        darkai_url=darkai.url,
        darkai_limits="5/60,9/3600",
        darkai_concurrency=3,
        upstreams={"other": other},
    )
    workers = [start_worker(settings) for _ in range(2)]

    async def both_are_there() -> bool:
        told = await client.upstreams()
        return bool(told) and all(upstream.workers == 2 for upstream in told)

    await wait_until("both workers", both_are_there)
    await client.enqueue("[fault: hang=0] hi")

    async def is_called() -> bool:
        return (await client.upstreams())[0].in_progress == 1

    await wait_until("the call", is_called)
    ours, others = await client.upstreams()
    assert (ours.name, ours.kind, ours.default_model) == ("darkai", "darkai", "llama-3-70b")
    assert (ours.options, ours.breaker, ours.concurrency) == ((), "closed", 3)
    uses = [(window.calls, window.length_s, window.used) for window in ours.windows]
    assert uses == [(5, 60.0, 1), (9, 3600.0, 1)]
    assert (others.name, others.kind, others.models) == ("other", "openai", ("m", "n"))
    assert "temperature" in others.options
    assert (others.windows, others.concurrency) == ((), 0)
    with SyncClient(settings=settings) as blocking:
        assert [upstream.name for upstream in await asyncio.to_thread(blocking.upstreams)] == [
            "darkai",
            "other",
        ]
    for worker in await client.workers():
        told = await redis.get(WorkerKeys(worker).upstreams)
        assert told is not None
        for private in (b"sk-secret", b"user-host", b"127.0.0.1", b"http"):
            assert private not in told
    for task in workers:
        task.cancel()
    await asyncio.gather(*workers, return_exceptions=True)
    assert await client.upstreams() == []


async def test_probe_counts_as_a_call_and_keeps_no_turn(
    redis: Redis, make_settings: MakeSettings
) -> None:
    rules = {"x": Rule((Window(1, 600.0),))}
    limits = Limits(redis, rules, rules, make_settings())
    async with limits.probe("x") as call:
        await call.record_answer()
    with pytest.raises(CallDeferred):
        async with limits.probe("x"):
            pytest.fail("one call is all that is allowed")
    keys = LimitKeys.of_upstream("x")
    assert await redis.zcard(keys.grants) == 1
    assert not await redis.exists(keys.waiting, keys.due)
    await limits.aclose()


async def test_upstream_status_shows_the_circuit_breaker(
    client: Client,
    make_settings: MakeSettings,
    start_worker: StartWorker,
) -> None:
    settings = make_settings(
        darkai_url="http://127.0.0.1:1/chat", breaker_failures=1, retry_base_s=0.01
    )
    start_worker(settings)
    job = await client.enqueue("hi")

    async def is_open() -> bool:
        return [upstream.breaker for upstream in await client.upstreams()] == ["open"]

    await wait_until("the breaker to open", is_open)
    (upstream,) = await client.upstreams()
    assert upstream.reopens_at_ms is not None
    await job.cancel()


@pytest.mark.parametrize(
    "record", [b"", b"\xff", b"[]", b'{"v": 2, "upstreams": []}', b'{"upstreams": [{"name": 1}]}']
)
async def test_foreign_announcement_is_ignored(client: Client, redis: Redis, record: bytes) -> None:
    await sign_in(redis, "host:1:x")
    await redis.set("darkq:{workers}:host:1:x", "well", ex=60)
    await redis.set(WorkerKeys("host:1:x").upstreams, record, ex=60)
    assert await client.upstreams() == []


@pytest.mark.parametrize(
    ("changes", "setting"),
    [
        ({"darkai_url": "none"}, "DARKQ_DARKAI_URL"),
        ({"default_upstream": "other"}, "DARKQ_DEFAULT_UPSTREAM"),
    ],
)
async def test_settings_that_name_no_upstream_are_refused(
    make_settings: MakeSettings, changes: dict[str, Any], setting: str
) -> None:
    async with make_session() as session:
        with pytest.raises(ConfigurationError) as caught:
            make_upstreams(make_settings(**changes), session)
    assert caught.value.setting == setting


async def test_default_upstream_setting_is_used(make_settings: MakeSettings) -> None:
    upstreams = {name: {"url": "http://h/v1", "models": "m"} for name in ("b", "a")}
    orders = {
        (): ["darkai", "a", "b"],
        (("default_upstream", "b"),): ["b", "darkai", "a"],
        (("darkai_url", "none"),): ["a", "b"],
    }
    async with make_session() as session:
        for changes, names in orders.items():
            settings = make_settings(upstreams=upstreams, **dict(changes))
            assert [each.name for each in make_upstreams(settings, session)] == names


def test_upstreams_are_read_from_environment_variables(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DARKQ_UPSTREAMS__MY_GPU__URL", "http://h:1/v1/")
    monkeypatch.setenv("DARKQ_UPSTREAMS__MY_GPU__API_KEY", "12345678")
    monkeypatch.setenv("DARKQ_UPSTREAMS__MY_GPU__MODELS", "qwen3:0.6b, a=b")
    monkeypatch.setenv("DARKQ_UPSTREAMS__MY_GPU__LIMITS", "4/60")
    (upstream,) = Settings.load().upstreams.values()
    assert upstream.url == "http://h:1/v1"
    assert upstream.api_key is not None
    assert upstream.api_key.get_secret_value() == "12345678"
    assert upstream.find_models() == (("qwen3:0.6b", "b"), {"a": "b"})
    assert upstream.find_windows() == ((4, 60.0),)
    assert "12345678" not in repr(upstream)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OLLAMA__URL", "hunter2"),
        ("OLLAMA__URL", "http://user:hunter2@h/v1"),
        ("OLLAMA__API_KEY", "hunter2"),
        ("OLLAMA__WISH", "hunter2"),
        ("OLLAMA__MODELS", "hunter2,,"),
        ("OLLAMA__LIMITS", "hunter2"),
        ("OLLAMA__TIMEOUT_S", "0"),
        ("DARKAI__URL", "http://h/v1"),
        ("A{B}__URL", "http://h/v1"),
    ],
)
def test_invalid_upstream_setting_error_names_its_variable(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    if name not in ("OLLAMA__URL", "OLLAMA__API_KEY"):
        monkeypatch.setenv("DARKQ_UPSTREAMS__OLLAMA__URL", "http://h/v1")
    monkeypatch.setenv(f"DARKQ_UPSTREAMS__{name}", value)
    with pytest.raises(ConfigurationError) as caught:
        Settings.load()
    assert caught.value.setting.startswith(f"DARKQ_UPSTREAMS__{name.partition('__')[0]}")
    assert "hunter2" not in str(caught.value)


def test_settings_pass_to_the_processes_of_darkq_up(make_settings: MakeSettings) -> None:
    from darkq_cli.stack.stack import build_environment

    upstreams = {"other": {"url": "http://h/v1", "api_key": "k", "models": "m"}}
    settings = make_settings(upstreams=upstreams)
    told = json.loads(build_environment(settings)["DARKQ_UPSTREAMS"])
    assert Settings.model_validate({"upstreams": told}).upstreams == settings.upstreams
