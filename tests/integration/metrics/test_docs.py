"""The table, the rules and the dashboard name what is exposed, and nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from darkq import QueueStatus, Stats, UpstreamStatus
from darkq.operate.upstreams import WindowUse
from darkq.telemetry.metrics import MEASURES, Tally
from darkq_gateway.http.telemetry import OWN
from darkq_gateway.operations.metrics import (
    Process,
    System,
    make_process_families,
    make_system_families,
)

DOCS = Path(__file__).parents[3] / "docs"
NAME = re.compile(r"\bdarkq_[a-z_]+")
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum"), "gauge": ("",)}


def exposed() -> dict[str, frozenset[str]]:
    """Every name that can be scraped, with its labels."""
    process = Process(Tally(), readers=0, max_readers=1, overflows=0, has_redis=True)
    stats = Stats({}, workers=0, buffer_chars=0, fullest_buffer=0)
    queue = QueueStatus(priority="bulk", waiting=0, deferred=0, running=0, oldest_wait_s=0)
    upstream = UpstreamStatus(
        name="x",
        kind="openai",
        default_model="m",
        models=("m",),
        options=(),
        workers=1,
        windows=(WindowUse(calls=1, length_s=60, used=0),),
    )
    families = [
        *make_process_families(process),
        *make_system_families(System(stats, [queue], [upstream])),
    ]
    counted = {measure.name: set(measure.labels) for measure in (*MEASURES, *OWN)}
    names = {}
    for family in families:
        labels = counted.get(family.name)
        if labels is None:
            labels = set().union(*(sample.labels for sample in family.samples))
        for suffix in SUFFIXES[family.type]:
            extra = {"le"} if suffix == "_bucket" else set()
            names[family.name + suffix] = frozenset(labels | extra)
    return names


def test_the_table_names_all_that_is_exposed_with_its_labels() -> None:
    told: dict[str, set[str]] = {}
    table = re.findall(
        r"^\| (`darkq_[^|]*) \|([^|]*)\| [^|]*\|$", (DOCS / "metrics.md").read_text(), re.M
    )
    for row in table:
        for name in NAME.findall(row[0]):
            told[name] = set(re.findall(r"`(\w+)`", row[1]))
    without = {re.sub("_(bucket|count|sum)$", "", name): labels - {"le"}
               for name, labels in exposed().items()}  # fmt: skip
    assert told == without


def expressions() -> list[tuple[str, str]]:
    rules = yaml.safe_load((DOCS / "alerts.yaml").read_text())
    found = [(rule["alert"], rule["expr"]) for group in rules["groups"] for rule in group["rules"]]
    board: Any = json.loads((DOCS / "grafana.json").read_text())
    for panel in board["panels"]:
        found += [(panel["title"], target["expr"]) for target in panel.get("targets", ())]
    return found


@pytest.mark.parametrize(("where", "expression"), expressions())
def test_rules_and_panels_ask_for_what_is_exposed(where: str, expression: str) -> None:
    names = exposed()
    asked = NAME.findall(expression)
    assert asked, where
    assert set(asked) <= names.keys()
    labels = frozenset.union(*(names[name] for name in asked)) | {"instance"}
    for listed in re.findall(r"(?:by|without) \(([^)]*)\)|\{(\w+)[=!~]", expression):
        assert {label.strip() for label in ",".join(filter(None, listed)).split(",")} <= labels
    assert expression.count("(") == expression.count(")")
    if any(name.endswith(("_total", "_bucket")) for name in asked):
        assert re.search(r"\b(rate|increase)\(", expression)
    for name in asked:  # every gateway tells the same of these
        if not name.startswith("darkq_gateway_"):
            assert "max" in expression


def test_every_name_but_sums_and_counts_is_on_the_dashboard() -> None:
    shown = {name for _, expression in expressions() for name in NAME.findall(expression)}
    assert {name for name in exposed() if not name.endswith(("_sum", "_count"))} <= shown
