"""What servers of a cluster say, read without them."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis
from redis.crc import key_slot
from redis.exceptions import ConnectionError, ResponseError

from darkq.protocol.keys import BatchKeys, JobKeys, LimitKeys, PartitionKeys, absent_key
from darkq.redis import scripts
from darkq.redis.cluster import key_of, read_redirection, read_slots
from darkq.redis.url import Address
from darkq.settings.parsing import parse_partitions

A, B, C = Address("a", 1), Address("b", 2), Address("c", 3)


def test_slots_have_the_owner_of_their_range() -> None:
    slots = read_slots(
        [[5461, 16383, [b"b", 2, b"id"]], [0, 5460, [b"a", 1, b"id"], [b"c", 3, b"id"]]], C
    )
    assert slots is not None
    for key in ("x", "{0}", "darkq:{7}:bulk"):
        assert slots.owner(key) == (A if key_slot(key.encode()) <= 5460 else B)
    assert slots.masters == [A, B]
    assert slots.nodes == {A, B, C}


def test_a_node_that_does_not_know_its_name_is_where_it_was_asked() -> None:
    for name in (None, b"", b"?"):
        slots = read_slots([[0, 16383, [name, 7, b"id"]]], Address("asked", 1))
        assert slots is not None
        assert slots.owner("x") == Address("asked", 7)


def test_nobody_has_any_slot() -> None:
    assert read_slots([], A) is None


def test_a_slot_that_nobody_has_is_asked_of_somebody() -> None:
    slots = read_slots([[16000, 16383, [b"a", 1]]], A)
    assert slots is not None
    assert slots.owner("x") == A


@pytest.mark.parametrize(
    ("said", "word", "target"),
    [
        ("MOVED 3999 h:6381", "MOVED", Address("h", 6381)),
        ("MOVED 3999 :6381", "MOVED", Address("asked", 6381)),
        ("ASK 3999 ::1:6381", "ASK", Address("::1", 6381)),
        ("TRYAGAIN Multiple keys request during rehashing of slot", "TRYAGAIN", None),
        ("CLUSTERDOWN Hash slot not served", "CLUSTERDOWN", None),
        ("Command # 1 (GET x) of pipeline caused error: ('MOVED 1 h:2',)", "MOVED", ("h", 2)),
    ],
)
def test_what_a_server_says_that_has_not_the_key(
    said: str, word: str, target: Address | None
) -> None:
    assert read_redirection(ResponseError(said), Address("asked", 9)) == (word, target)


@pytest.mark.parametrize(
    "said", ["WRONGTYPE MOVED 1 h:2", "ERR no MOVED", "Command # 1 (SET MOVED"]
)
def test_what_only_quotes_such_a_word(said: str) -> None:
    assert read_redirection(ResponseError(said), A) is None


def test_no_answer_may_mean_that_it_is_elsewhere() -> None:
    assert read_redirection(ConnectionError("refused"), A) == ("", None)


def test_the_key_of_a_command() -> None:
    assert key_of(("GET", "k")) == "k"
    assert key_of(("EVALSHA", "sha", 2, "k", "l", "arg")) == "k"
    assert key_of(("TIME",)) == ""


def test_all_keys_of_a_partition_share_a_slot() -> None:
    job, batch = JobKeys.new(12), BatchKeys.new(12)
    names = [PartitionKeys(12).queue("bulk"), PartitionKeys(12).wake, PartitionKeys(12).failed]
    names += [getattr(job, name) for name in ("job", "result", "events", "live", "state", "failed")]
    names += [
        getattr(batch, name) for name in ("batch", "lines", "ends", "live", "runner", "files")
    ]
    names += [absent_key(name) for name in names]
    assert len({key_slot(name.encode()) for name in names}) == 1


def test_so_do_those_of_an_upstream() -> None:
    names = [*LimitKeys.of_upstream("openai"), absent_key(LimitKeys.of_upstream("openai")[0])]
    assert len({key_slot(name.encode()) for name in names}) == 1


def test_a_key_without_a_tag_has_no_neighbours() -> None:
    with pytest.raises(ValueError, match="no hash tag"):
        absent_key("darkq:keys")


async def test_a_script_has_another_form_in_a_cluster(redis: Redis) -> None:
    """Both must work; tests/processes/cluster shows that a server accepts the second one."""
    keys = [PartitionKeys(0).queue("interactive"), PartitionKeys(0).queue("bulk")]
    alone = scripts.ALL["claim"].call(keys, [1], in_cluster=False)
    among = scripts.ALL["claim"].call(keys, [1], in_cluster=True)
    assert alone[2:] == (2, *keys, 1)
    assert among[2:] == (3, *keys, absent_key(keys[0]), 1)
    for script in scripts.ALL.values():
        shas = [script.sha(), script.sha(in_cluster=True)]
        for n, sha in enumerate(shas):
            loaded = await redis.script_load(script.source(in_cluster=bool(n)).decode())
            assert loaded == sha
        assert len(set(shas)) == 2


@pytest.mark.parametrize(
    ("text", "found"), [("0", (0,)), ("3,0-1", (0, 1, 3)), (" 2 , 1-2", (1, 2)), ("4095", (4095,))]
)
def test_partitions(text: str, found: tuple[int, ...]) -> None:
    assert parse_partitions(text) == found


@pytest.mark.parametrize("text", ["", "a", "1-", "3-1", "0,,1", "4096", "-1", "1.5"])
def test_no_partitions(text: str) -> None:
    with pytest.raises(ValueError, match="like 0-3,7"):
        parse_partitions(text)
