"""The capacity model of docs/scale.md: by hand, and as the page tells it."""

from __future__ import annotations

import math
import re
import shlex
from pathlib import Path

import pytest
from redis.crc import key_slot

from benchmarks.capacity import (
    MAX_MASTERS,
    MAX_READERS_PER_GATEWAY,
    plan,
    plan_with,
    redis_cores,
)
from benchmarks.capacity_text import main, parse, text
from benchmarks.crew import POLL_S, Flow, Load, crew_of, cycle_s, flow_of, flush_s
from benchmarks.shares import shares
from benchmarks.unit_costs import MACHINE, MEASURED, UnitCosts
from darkq import Settings
from darkq.protocol.keys import JobKeys, PartitionKeys

PAGE = Path(__file__).parents[3].joinpath("docs", "scale.md").read_text()
FREE = UnitCosts(*[0.0] * len(UnitCosts._fields))
COMMAND = "$ python -m benchmarks capacity "


def blocks() -> list[tuple[str, str]]:
    """The page's commands and what it says that they print."""
    found = re.findall(r"```console\n(.*?)\n```", PAGE, re.DOTALL)
    split = (block.split("\n", 1) for block in found if block.startswith(COMMAND))
    return [(command.removeprefix(COMMAND), printed) for command, printed in split]


def test_a_flush_waits_for_the_last_one_or_for_an_event() -> None:
    assert cycle_s(1000, 0.01) == pytest.approx(0.01 + math.exp(-10) / 1000)
    assert cycle_s(1, 1e-9) == pytest.approx(1.0)
    assert cycle_s(1000, 0.01, 0.25) == pytest.approx(0.26, rel=1e-3)


def test_with_time_between_them_each_event_is_a_call() -> None:
    sent = flow_of(100, Load(100, chunks_per_s=1), 1, 1, FREE._replace(flush_us=1))
    assert sent == pytest.approx(Flow(100, 100, 100), rel=0.01)


def test_events_that_come_during_a_flush_go_together_and_a_streams_as_one() -> None:
    # 100 streams of 10 chunks a second; 100 flushes a second: 0.1 of a chunk per stream and flush.
    sent = flow_of(100, Load(100, chunks_per_s=10), 1, 1, FREE._replace(flush_us=10_000))
    assert sent.calls == sent.flushes == pytest.approx(100, rel=0.001)
    assert sent.events == pytest.approx(100 * 100 * (1 - math.exp(-0.1)), rel=0.001)


def test_a_flush_takes_longer_the_fuller_it_is() -> None:
    costs = FREE._replace(flush_us=1000, flush_event_us=75)
    # 75 µs for each of 10,000 events a second: three quarters of all time, so four times as long.
    assert flush_s(1e6, Load(1e6, chunks_per_s=0.01), costs) == pytest.approx(0.004, rel=0.001)
    # More than there is time for: each flush has an event of each stream.
    assert flush_s(100, Load(100, chunks_per_s=1e6), costs) == pytest.approx(0.0085, rel=0.001)
    assert flush_s(1, Load(1, chunks_per_s=1), FREE._replace(flush_us=7)) == pytest.approx(7e-6)


def test_a_flush_makes_a_call_for_each_partition_that_it_has_events_of() -> None:
    # A second of linger: each of two streams has an event in every flush.
    load = Load(2, chunks_per_s=1000, linger_s=1)
    assert flow_of(2, load, 2, 1, FREE._replace(flush_us=1)).calls == pytest.approx(1.5, rel=0.01)
    assert flow_of(2, load, 1, 1, FREE._replace(flush_us=1)).calls == pytest.approx(1, rel=0.01)


def test_servers_are_written_to_apart() -> None:
    costs, load = FREE._replace(flush_us=10_000), Load(100, chunks_per_s=10)
    apart = flow_of(100, load, 2, 2, costs)
    half = flow_of(50, load, 1, 1, costs)
    assert apart == pytest.approx(Flow(*(2 * each for each in half)))


def test_workers_by_hand() -> None:
    # 10 chunks a second at 500 + 300 + 200 µs, and 2,000 µs a second for being there: 12 ms a
    # stream. At 60 % of a core a worker has 50; 10 jobs a second at 100 ms take another core.
    costs = FREE._replace(
        flush_us=1,
        worker_event_us=500,
        worker_call_us=300,
        worker_flush_us=200,
        worker_stream_us_per_s=2000,
    )
    load = Load(500, chunks_per_s=10, jobs_per_s=0)
    assert plan(load, costs).workers.many == 10
    assert plan(load, costs).workers.share == pytest.approx(0.6, rel=0.001)
    busier = plan(load._replace(jobs_per_s=10), costs._replace(worker_job_us=100_000))
    assert busier.workers.many == 12  # 7.0 cores at 0.6


def test_workers_that_share_a_partition_are_woken_for_each_others_jobs() -> None:
    costs = FREE._replace(flush_us=1, worker_wake_us=1000, redis_wake_us=100, redis_claim_us=10)
    load = Load(8, chunks_per_s=1, jobs_per_s=80, workers_per_partition=4)
    crew = crew_of(8, load, 16, 1, costs)
    assert (crew.sharing, crew.partitions) == (4, 8)
    assert crew.share == pytest.approx(30 * 1000e-6)  # of 40 jobs a second 10 are its own
    # 80 jobs wake three others each; 8 workers ask 8 partitions twice a second.
    assert redis_cores(load, crew, costs) == pytest.approx((80 * 3 * 100 + 8 * 8 * 2 * 10) / 1e6)


def test_redis_by_hand() -> None:
    costs = FREE._replace(
        flush_us=1,
        redis_event_us=10,
        redis_call_us=4,
        redis_flush_us=1,
        redis_delivery_us=2,
        redis_job_us=100,
        redis_stream_us_per_s=1,
        redis_waiting_job_bytes=700,
        redis_finished_job_bytes=1000,
        redis_event_bytes=30,
        redis_kept_event_bytes=2,
        redis_text_bytes=40,
    )
    load = Load(
        100, chunks_per_s=1, answer_chunks=10, readers_per_job=2, jobs_per_s=5, result_ttl_s=60
    )
    found = plan_with(1, load, costs)
    # 100 events, calls and flushes: (10 + 4 + 1 + 2 × 2) × 100, 5 jobs, 100 streams.
    assert found.masters.cores == pytest.approx((1900 + 500 + 100) / 1e6, rel=0.001)
    # 300 jobs are kept, with 1,000 + 10 × 42 bytes each; 100 run, with 700 + 10 × 70.
    assert found.masters.gb == pytest.approx((300 * 1420 + 100 * 1400) / 1e9)


def test_gateways_by_hand() -> None:
    costs = FREE._replace(flush_us=1, gateway_delivery_us=100, gateway_opening_us=1000)
    found = plan(Load(1000, chunks_per_s=10, readers_per_job=2, jobs_per_s=100), costs)
    assert found.gateways.cores == pytest.approx(20_000 * 100e-6 + 200 * 1000e-6, rel=0.01)
    assert found.gateways.many == 4  # 2.2 cores at 0.6
    assert plan(Load(12_000, chunks_per_s=0.001), FREE._replace(flush_us=1)).gateways.many == 3


def test_masters_are_as_many_as_the_fullest_needs() -> None:
    costs = FREE._replace(flush_us=1, redis_event_us=100)
    found = plan(Load(1000, chunks_per_s=10, partitions=64), costs)
    assert found.masters.cores == pytest.approx(1.0, rel=0.01)
    assert found.fits
    assert found.masters.share == pytest.approx(max(shares(64, found.masters.many)) / 64, rel=0.01)
    assert not plan_with(found.masters.many - 1, found.load, costs).fits


def test_what_no_cluster_carries_is_said() -> None:
    found = plan(Load(1_000_000, partitions=1), FREE._replace(flush_us=1, redis_event_us=1))
    assert (found.fits, found.masters.many) == (False, MAX_MASTERS)
    assert "do not carry" in text(found)


def test_slots_are_cut_as_redis_cli_cuts_them() -> None:
    slots = [key_slot(PartitionKeys(partition).queue("bulk").encode()) for partition in range(128)]
    assert slots == [key_slot(JobKeys(n, "0" * 32).job.encode()) for n in range(128)]
    for partitions in (8, 12, 16, 32, 64, 128):
        mine = slots[:partitions]
        first = sum(slot <= 5460 for slot in mine)
        last = sum(slot >= 10923 for slot in mine)
        assert shares(partitions, 3) == [first, partitions - first - last, last]


def test_the_page_says_how_partitions_fall() -> None:
    told = re.findall(r"^\| (\d+) \| (\d+), (\d+), (\d+) \| (\d+) % \|", PAGE, re.MULTILINE)
    found = {int(p): ([int(a), int(b), int(c)], int(percent)) for p, a, b, c, percent in told}
    assert found == {
        partitions: (shares(partitions, 3), round(100 * max(shares(partitions, 3)) / partitions))
        for partitions in (8, 12, 16, 32, 64, 128)
    }


@pytest.mark.parametrize(("arguments", "printed"), blocks())
def test_the_page_shows_what_the_command_prints(arguments: str, printed: str) -> None:
    assert text(plan(parse(shlex.split(arguments)))) == printed


def test_the_page_has_all_three_sizes() -> None:
    sizes = {parse(shlex.split(arguments)).streams for arguments, _ in blocks()}
    assert sizes == {100, 10_000, 1_000_000}


def test_the_page_shows_the_costs_that_are_calculated_with() -> None:
    told = re.findall(r"^\|.*\| `(\w+)` \| ([\d.,]+) \|", PAGE, re.MULTILINE)
    assert {name: float(value.replace(",", "")) for name, value in told} == MEASURED._asdict()
    assert MACHINE in PAGE


def test_the_command_takes_every_part_of_a_load(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--streams", "10", "--linger-s", "0.1", "--partitions", "4"])
    assert "linger 0.1 s" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out
    for field in Load._fields:
        assert f"--{field.replace('_', '-')}" in shown


def test_the_model_has_the_defaults_of_the_settings() -> None:
    fields = Settings.model_fields
    assert fields["worker_poll_s"].default == POLL_S
    assert fields["gateway_max_readers"].default == MAX_READERS_PER_GATEWAY
