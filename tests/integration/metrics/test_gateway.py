"""What a gateway counts of itself, and who may ask."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from redis.asyncio import Redis

from darkq import Client, Settings
from darkq.event import Cursor
from darkq.protocol.keys import JobKeys
from integration.metrics.conftest import StartGateway, scrape
from support.by_hand import Hand, chunk, started
from support.http_api import Api
from support.waiting import wait_until

MakeSettings = Callable[..., Settings]

TOKEN = "a-token-of-some-length"
REQUESTS = 'darkq_gateway_http_requests_total{method="%s",route="%s",status="%s"}'


@pytest.fixture
def hand(redis: Redis) -> Hand:
    return Hand(redis)


async def test_requests_are_counted_by_the_pattern_of_their_path(api: Api) -> None:
    job_id = await api.enqueue()
    for _ in range(2):
        await api("GET", f"/jobs/{job_id}")
    await api("GET", f"/jobs/{JobKeys.new(0).public_id}")
    await api("GET", "/nowhere/SECRET")
    await api("POST", "/metrics")
    await api("PROPFIND", "/jobs")
    seen = (await scrape(api)).some("darkq_gateway_http_requests_total")
    assert seen == {
        REQUESTS % ("POST", "/jobs", "2xx"): 1,
        REQUESTS % ("GET", "/jobs/{job_id}", "2xx"): 2,
        REQUESTS % ("GET", "/jobs/{job_id}", "4xx"): 1,
        REQUESTS % ("GET", "?", "4xx"): 1,
        REQUESTS % ("POST", "?", "4xx"): 1,
        REQUESTS % ("other", "?", "4xx"): 1,
    }


async def test_an_open_stream_is_a_reader_and_its_live_events_are_timed(
    api: Api, hand: Hand
) -> None:
    claim = await hand.take()
    relayed = "darkq_gateway_relay_seconds_count"
    async with api.stream(f"/jobs/{claim.keys.public_id}/events") as events:
        assert (await anext(events)).id == "0-1"  # from the log
        first = await scrape(api)
        assert first.values["darkq_gateway_readers"] == 1
        assert first.values["darkq_gateway_readers_max"] == 5000
        assert relayed not in first.values
        await hand.append(claim, started(1))
        assert (await anext(events)).id == "1-0"  # from the log too: no attempt has a known length
        await hand.append(claim, chunk(1, 1))
        assert (await anext(events)).id == "1-1"
        await hand.complete(claim, "x", Cursor(1, 2))
        assert [event.id async for event in events] == ["1-2"]
    seen = await scrape(api)
    assert seen.values["darkq_gateway_readers"] == 0
    assert seen.values[relayed] == 2
    assert 0 < seen.values["darkq_gateway_relay_seconds_sum"] < 3


async def test_a_reader_that_is_too_slow_is_counted(client: Client, hand: Hand) -> None:
    claim = await hand.take()
    await hand.append(claim, started(1))
    batches = client.job(claim.keys.public_id).event_batches()
    assert (await anext(batches)).came_s is None
    text = "x" * 64_000
    for number in range(1, 20):  # more than a mailbox holds
        await hand.append(claim, chunk(1, number, text))
    await wait_until("the overflow", lambda: client.overflows == 1)
    await hand.complete(claim, "x", Cursor(1, 20))
    ids = [event.id async for batch in batches for event in batch]
    assert ids == [f"1-{number}" for number in range(1, 21)]
    assert client.overflows == 1


class TestWhoMayAsk:
    async def test_anybody_as_long_as_there_is_no_api_key(self, api: Api) -> None:
        assert (await api("GET", "/metrics")).status == 200

    async def test_no_api_key_opens_it(self, api: Api, client: Client) -> None:
        _, secret = await client.api_keys.create("alice")
        for headers in ({}, {"Authorization": f"Bearer {secret}"}):
            answer = await api("GET", "/metrics", headers=headers)
            assert (answer.status, answer.code) == (401, "no_metrics_token")

    async def test_the_token_is_needed_once_it_is_set(
        self, start_gateway: StartGateway, client: Client
    ) -> None:
        api = await start_gateway(gateway_metrics_token=TOKEN)
        good = {"Authorization": f"Bearer {TOKEN}"}
        for wrong in ("", TOKEN, f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer ", "Bearer \u00e4"):
            answer = await api("GET", "/metrics", headers={"Authorization": wrong})
            assert (answer.status, answer.code) == (401, "invalid_metrics_token")
        assert (await api("GET", "/metrics", headers=good)).status == 200
        _, secret = await client.api_keys.create("alice")
        assert (await api("GET", "/metrics", headers=good)).status == 200
        assert (await api("GET", "/jobs", headers=good)).status == 401, "it opens nothing else"
        answer = await api("GET", "/metrics", headers={"Authorization": f"Bearer {secret}"})
        assert answer.status == 401

    async def test_a_short_token_is_refused(self, make_settings: MakeSettings) -> None:
        with pytest.raises(ValueError, match="at least 16"):
            make_settings(gateway_metrics_token="short")
