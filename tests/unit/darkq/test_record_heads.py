"""The head of a record tells all but its text, and never anything else."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from darkq import CorruptRecord, Job
from darkq.errors import NewerRecord
from darkq.protocol.keys import JobKeys
from darkq.protocol.record import (
    HEADS_BYTES,
    Arguments,
    CutShort,
    Details,
    Failure,
    JobRecord,
    ResultRecord,
    encode,
    read_job_head,
    read_prompt_head,
    read_result_head,
)

KEYS = JobKeys(0, "0" * 32)

TRAPS = st.sampled_from(
    ['"r":', '"prompt":', 'r', "prompt", "tenant", ',"r":""}', ',"prompt":""}}}', "\\", '"', "ü\n"]
)  # fmt: skip
TEXTS = st.lists(TRAPS | st.text(max_size=8), max_size=6).map("".join)
METADATA = st.dictionaries(TEXTS, TEXTS, max_size=4)


@given(
    prompt=TEXTS.map(lambda text: text + "x"),
    metadata=METADATA,
    tenant=st.none() | st.sampled_from(("alice", 'a"b', "r")),
    limit=st.integers(1, 900),
)
def test_the_head_of_a_job_is_the_job_without_its_prompt(
    prompt: str, metadata: dict[str, str], tenant: str | None, limit: int
) -> None:
    """Red when a field is looked for by its name alone: metadata may have fields of that name."""
    made = Job.create(prompt * 9, tenant=tenant)
    record = JobRecord(k=Arguments(msgspec.structs.replace(made, metadata=metadata)), et=17)
    data = encode(record)
    try:
        found = read_job_head(data[:limit], KEYS, limit)
    except CutShort:
        assert limit < data.rfind(b'"prompt":') + len(b'"prompt":')
        return
    assert found.job in (record.job, msgspec.structs.replace(record.job, prompt=""))
    assert (found.et, found.v) == (record.et, record.v)


@given(prompt=TEXTS.map(lambda text: text + "😀x"), metadata=METADATA, limit=st.integers(1, 900))
def test_the_head_of_a_job_has_the_beginning_of_its_prompt(
    prompt: str, metadata: dict[str, str], limit: int
) -> None:
    """Red if a cut escape or character spoils the rest, or metadata is taken for the prompt."""
    made = msgspec.structs.replace(Job.create(prompt * 9), metadata=metadata)
    data = encode(JobRecord(k=Arguments(made), et=17))
    found = read_prompt_head(data[:limit])
    assert made.question.startswith(found)
    begin = data.rfind(b'"prompt":') + len(b'"prompt":"')
    assert len(found) >= (min(limit, len(data)) - begin) // 6 - 2


@given(texts=st.lists(TEXTS.map(lambda text: text + "x"), min_size=1), limit=st.integers(1, 900))
def test_the_head_of_a_chat_has_the_beginning_of_a_message(texts: list[str], limit: int) -> None:
    parts = [{"role": "user", "content": [{"type": "text", "text": text}]} for text in texts]
    made = Job.create([{"role": "system", "content": "s"}, *parts])
    data = encode(JobRecord(k=Arguments(made), et=17))
    found = read_prompt_head(data[:limit])
    assert any(text.startswith(found) for text in ("s", *texts))
    assert read_prompt_head(data) == made.question == texts[-1]


def test_a_record_that_cannot_be_read_has_no_prompt() -> None:
    for data in (b"", b"no JSON", b'{"prompt":"x"}', b'{"k":{"job":{"prompt":7}}}'):
        assert read_prompt_head(data) == ""


@given(
    answer=TEXTS.map(lambda text: text * 9)
    | st.builds(Failure, type=st.just("JobFailed"), code=TEXTS, message=TEXTS),
    metadata=METADATA,
    limit=st.integers(1, 900),
)
def test_the_head_of_a_result_is_the_result_without_its_answer(
    answer: str | Failure, metadata: dict[str, str], limit: int
) -> None:
    outcome: Any = "completed" if isinstance(answer, str) else "failed"
    details = Details(outcome=outcome, chunks=3, metadata=metadata, tenant="alice")
    record = ResultRecord(
        t=2, et=1, s=True, r=answer, st=4, ft=5, q="q", id=KEYS.arq_id, d=details
    )  # fmt: skip
    data = encode(record)
    try:
        found = read_result_head(data[:limit], KEYS, limit)
    except CutShort:
        assert limit < data.rfind(b'"r":') + len(b'"r":')
        return
    assert found in (record, msgspec.structs.replace(record, r=""))


@pytest.mark.parametrize("char", ["x", "\x01", '"', "\U0001f600"])
def test_what_stands_before_a_text_is_not_longer_than_the_longer_head(char: str) -> None:
    """The bound of metadata is in bytes of text; escaped, it is up to six times as long."""
    size = len(char.encode())
    pairs = {f"{n:03}": char * (60 // size) for n in range(256)}
    job = Job.create("p" * 300_000, metadata=pairs, tenant="t" * 200, model='"' * 200)
    data = encode(JobRecord(k=Arguments(job), et=1))
    limit = HEADS_BYTES[1]
    assert read_job_head(data[:limit], KEYS, limit).job.metadata == pairs


def test_a_record_with_the_text_before_the_rest_is_read_whole() -> None:
    """As older versions wrote it. Red when fields that are missing have a default."""
    job = {"prompt": "x" * 5000, "tenant": "alice"}
    data = json.dumps({"v": 1, "t": None, "f": "generate", "a": [], "k": {"job": job}, "et": 1})
    with pytest.raises(CutShort):
        read_job_head(data.encode()[:4096], KEYS, 4096)
    assert read_job_head(data.encode(), KEYS, None).job.tenant == "alice"


@pytest.mark.parametrize(
    ("fields", "tenant"),
    [
        ({"k": {"job": {"prompt": 5, "tenant": "alice"}}}, "alice"),
        ({"d": {"tenant": "alice"}}, "alice"),
        ({"k": {"job": 5}}, None),
        ({"d": {"tenant": 5}}, None),
        ({}, None),
    ],
)
def test_an_unreadable_record_says_whose_it_is_if_it_can(
    fields: dict[str, Any], tenant: str | None
) -> None:
    for version, error in ((1, CorruptRecord), (99, NewerRecord)):
        data = json.dumps({"v": version, **fields}).encode()
        with pytest.raises(error) as caught:
            read_job_head(data, KEYS, None)
        assert caught.value.tenant == tenant


def test_metadata_may_be_called_as_the_text_is() -> None:
    """Red when only the first field of that name is tried, or when it is taken for the text."""
    metadata = {"prompt": "x", "r": "y", "tenant": "mallory"}
    job = Job.create("p" * 9000, metadata=metadata, tenant="alice")
    limit = HEADS_BYTES[0]
    head = encode(JobRecord(k=Arguments(job), et=1))[:limit]
    found = read_job_head(head, KEYS, limit).job
    assert (found.metadata, found.tenant, found.prompt) == (metadata, "alice", "")
    details = Details(outcome="completed", metadata=metadata, tenant="alice")
    record = ResultRecord(
        t=2, et=1, s=True, r="t" * 9000, st=4, ft=5, q="q", id=KEYS.arq_id, d=details
    )  # fmt: skip
    assert read_result_head(encode(record)[:limit], KEYS, limit).d == details
