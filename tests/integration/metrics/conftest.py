"""A gateway that is scraped, and what it says, as Prometheus reads it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_text

from integration.gateway.conftest import api, make_key, start_gateway
from support.http_api import Api
from support.waiting import wait_until

__all__ = ["api", "make_key", "start_gateway"]

OPEN_METRICS = "application/openmetrics-text; version=1.0.0"
Values = Mapping[str, float]


class Scrape:
    """What one answer of `/metrics` holds: a value by `name{label="value",…}`."""

    def __init__(self, text: str, families: list[Metric]) -> None:
        self.text = text
        self.families = {family.name: family for family in families}
        self.values = {
            series(sample.name, sample.labels): sample.value
            for family in families
            for sample in family.samples
        }
        assert len(self.values) == sum(len(family.samples) for family in families), "twice the same"

    def some(self, *prefixes: str) -> dict[str, float]:
        """Return the values of names that begin so."""
        return {name: value for name, value in self.values.items() if name.startswith(prefixes)}


def series(name: str, labels: Mapping[str, str]) -> str:
    inside = ",".join(f'{key}="{labels[key]}"' for key in sorted(labels))
    return f"{name}{{{inside}}}" if inside else name


async def scrape(api: Api, *, openmetrics: bool = False, **options: Any) -> Scrape:
    """Ask a gateway once."""
    headers = {"Accept": OPEN_METRICS} if openmetrics else {}
    answer = await api("GET", "/metrics", headers={**headers, **options.pop("headers", {})})
    assert answer.status == 200, answer
    text = answer.json.decode()
    parse: Any = parse_openmetrics if openmetrics else parse_text
    return Scrape(text, list(parse(text)))


async def scraped(api: Api, expected: Values, *prefixes: str, timeout_s: float = 10) -> None:
    """Wait until the values of some names are exactly these."""
    seen: dict[str, float] = {}

    async def are_these() -> bool:
        seen.clear()
        seen.update((await scrape(api)).some(*prefixes))
        return seen == expected

    try:
        await wait_until("the counts", are_these, timeout_s)
    except (AssertionError, TimeoutError):
        assert seen == expected
        raise


@pytest.fixture
def fast(make_settings: Callable[..., Any]) -> Callable[..., Any]:
    """Settings of a worker that reports four times a second."""

    def make(**changes: Any) -> Any:
        return make_settings(**{"worker_lease_s": 1.0, "retry_base_s": 0.01, **changes})

    return make


StartGateway = Callable[..., Awaitable[Api]]
