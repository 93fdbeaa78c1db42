"""Names in Redis: one job, one spelling, one slot."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot

from darkq.errors import JobNotFound
from darkq.protocol import keys as names
from darkq.protocol.keys import MAX_PARTITIONS, JobKeys

partitions = st.integers(0, MAX_PARTITIONS - 1)


@given(partitions)
def test_an_id_comes_back_as_it_went(partition: int) -> None:
    keys = JobKeys.new(partition)
    assert keys.partition == partition
    assert JobKeys.parse(keys.public_id) == keys
    assert JobKeys.from_arq_id(keys.arq_id) == keys
    assert keys.public_id == f"{partition}-{keys.random}"
    assert keys.arq_id == f"{{{partition}}}{keys.random}"


def test_ids_are_128_random_bits() -> None:
    made = [JobKeys.new(0).random for _ in range(1000)]
    assert len(set(made)) == 1000
    assert all(re.fullmatch("[0-9a-f]{32}", random) for random in made)


HEX = "0123456789abcdef" * 2


@pytest.mark.parametrize(
    "text",
    ["", "0", HEX, f"0-{HEX}0", f"0-{HEX[1:]}", f"0-{HEX.upper()}", f"00-{HEX}", f"-1-{HEX}",
     f"0-{HEX}\n", f" 0-{HEX}", f"10000-{HEX}", f"{{0}}{HEX}", f"0-{HEX[:-1]}g", f"1٣-{HEX}",
     f"0-{HEX[:-1]}３", "../../etc", f"0-{HEX};DEL"],
)  # fmt: skip
def test_what_can_be_no_id_is_not_found(text: str) -> None:
    with pytest.raises(JobNotFound) as caught:
        JobKeys.parse(text)
    assert caught.value.job_id == text


@pytest.mark.parametrize("text", ["", f"0-{HEX}", HEX, f"{{1٣}}{HEX}", f"{{0}}{HEX}x"])
def test_what_is_no_arq_id_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not an arq id"):
        JobKeys.from_arq_id(text)


@given(partitions, st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_all_names_of_a_partition_share_one_slot(partition: int, idempotency_key: str) -> None:
    keys = JobKeys.new(partition)
    shared = names.PartitionKeys(partition)
    everything = [
        keys.job, keys.result, keys.in_progress, keys.retry, keys.state, keys.events, keys.live,
        shared.wake, shared.idempotency(idempotency_key),
        *shared.queues,
    ]  # fmt: skip
    assert len(set(everything)) == len(everything)
    slots = {key_slot(name.encode()) for name in everything}
    assert slots == {key_slot(f"{{{partition}}}".encode())}


def test_the_keys_of_arq_are_arqs() -> None:
    keys = JobKeys(0, HEX)
    assert keys.job == f"arq:job:{{0}}{HEX}"
    assert keys.result == f"arq:result:{{0}}{HEX}"
    assert keys.in_progress == f"arq:in-progress:{{0}}{HEX}"
    assert keys.retry == f"arq:retry:{{0}}{HEX}"


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), st.integers(1, 4096))
def test_an_idempotency_key_has_one_partition_and_is_not_kept(key: str, partitions: int) -> None:
    partition = names.choose_partition(key, partitions)
    assert 0 <= partition < partitions
    assert partition == names.choose_partition(key, partitions)
    name = names.PartitionKeys(partition).idempotency(key)
    assert re.fullmatch(r"darkq:idempotency:\{\d+\}[0-9a-f]{64}", name)


def test_idempotency_keys_are_spread_over_the_partitions() -> None:
    counts = [0] * 8
    for n in range(4000):
        counts[names.choose_partition(f"order-{n}", 8)] += 1
    assert min(counts) > 350
