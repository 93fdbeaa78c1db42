"""`darkq batch run` with CSV, TSV and lines of JSON that have names of their own."""

from __future__ import annotations

import asyncio
import csv
import gzip
import io
import json
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from darkq import Client, Message, Options
from darkq.protocol.keys import BatchKeys
from darkq.protocol.record import decode_job
from support.batches import left_in, lines, run
from support.command import Darkq
from support.waiting import wait_until

REVIEWS = (
    'id,text,shop\n7,"Late, and\nbroken",north\n8,"She said ""fine""",south\n9,ok,\n'  # 3 rows
)
FIELDS = [
    {"id": "7", "text": "Late, and\nbroken", "shop": "north"},
    {"id": "8", "text": 'She said "fine"', "shop": "south"},
    {"id": "9", "text": "ok", "shop": ""},
]


def table(path: Path, delimiter: str = ",") -> list[dict[str, str]]:
    """The rows of a table."""
    return list(csv.DictReader(io.StringIO(path.read_bytes().decode()), delimiter=delimiter))


async def test_csv_comes_out_as_csv_with_one_column_more(
    darkq: Darkq, client: Client, echo: Any
) -> None:
    """Red when the prompt is not the filled template, or a cell of the input is changed."""
    (darkq.home / "reviews.csv").write_text(REVIEWS)
    words = ("reviews.csv", "--prompt", "quick {{{id}}} {text}", "--id-field", "id")
    done = await run(darkq, "run", *words, "-o", "out.csv", "--ordered")
    assert done.code == 0, done.err
    rows = table(darkq.home / "out.csv")
    assert list(rows[0]) == ["id", "text", "shop", "answer"]
    assert [{k: v for k, v in row.items() if k != "answer"} for row in rows] == FIELDS
    assert [row["answer"].split() for row in rows] == [
        f"quick {{{row['id']}}} {row['text']}".split() for row in FIELDS
    ]
    assert left_in(darkq.home) == []
    (batch,) = [batch async for batch in client.batches()]
    assert (batch.name, batch.expected, batch.total) == ("reviews.csv", 3, 3)


@pytest.mark.parametrize(
    ("name", "content", "arguments"),
    [
        ("in.csv", b"\xef\xbb\xbf" + REVIEWS.encode(), ()),
        ("in.csv", REVIEWS.replace("\n", "\r\n").encode(), ()),
        ("IN.CSV.GZ", gzip.compress(REVIEWS.encode()), ()),
        ("in.tsv", b'id\ttext\tshop\n7\t"Late, and\nbroken"\tnorth\n8\tfine\t\n9\tok\t\n', ()),
        ("in.data", REVIEWS.encode(), ("--input-format", "csv")),
        ("-", REVIEWS.encode(), ("--input-format", "csv")),
    ],
    ids=["BOM", "CRLF", "gz", "tsv", "named", "stdin"],
)
async def test_a_table_may_come_in_any_shape(
    darkq: Darkq, name: str, content: bytes, arguments: tuple[str, ...]
) -> None:
    if name != "-":
        (darkq.home / name).write_bytes(content)
    words = (name, "--prompt-field", "text", "--id-field", "id", "--dry-run", *arguments)
    done = await run(darkq, "run", *words, stdin=content if name == "-" else b"")
    assert (done.code, done.err) == (0, "")
    assert done.line == "3 lines, all valid; nothing was sent"


@pytest.mark.parametrize(
    ("name", "content", "arguments", "said"),
    [
        ("in.csv", "a,b\n1,2\n", (), "in.csv has no column prompt; it has: a, b"),
        ("in.csv", "a,b\n1,2\n", ("--prompt", "Is {c}?"), "no column c; it has: a, b"),
        (
            "in.csv",
            "a,b\n1,2\n",
            ("--prompt-field", "a", "--id-field", "i"),
            "column of the ids: ",
        ),
        ("in.csv", "a,b\n1,2\n", ("--prompt", "{a.real}"), "no column a.real; it has: a, b"),
        ("in.csv", "a,a\n1,2\n", ("--prompt", "{a}"), "two have the same name, 'a'"),
        ("in.csv", "a,b\n1\n", ("--prompt", "{a}"), "line 2: row: has 1 cells; the columns are: a"),
        ("in.csv", 'a,b\n1,2\n3,"4\n5,6\n', ("--prompt", "{a}"), "line 3: row: unexpected end"),
        ("in.csv", "a,answer\n1,2\n", ("--prompt", "{a}"), "--answer-field NAME"),
        ("in.csv", "", (), "has no lines"),
        ("in.csv", "prompt\n", (), "has no lines"),
        ("in.csv", "prompt\n1\n", ("--prompt", "{a"), "names no field; {{ and }} are braces"),
        ("in.csv", "a,b\n1,2\n", ("--prompt", "x", "--prompt-field", "a"), "choose one"),
        ("in.txt", "why\n", ("--id-field", "a"), "not for text"),
        ("in.jsonl", '{"q": "1"}\n{}\n', ("--prompt", "{q}"), "line 2: q: is missing; there is: "),
        ("in.jsonl", '{"q": null}\n', ("--prompt-field", "q"), "line 1: q: is null"),
        ("in.jsonl", '{"q": "1", "n": 1.5}', ("--prompt", "{q}", "--id-field", "n"), "line 1: n: "),
        ("in.jsonl", '{"q": "1"}\n', (), "line 1: prompt: is missing; there is: q. See --prompt-f"),
        ("in.jsonl", '{"prompt": "1", "shop": 1}', (), "carry it through with --prompt-field"),
        ("in.jsonl", "id,text\n1,why\n", (), "add --input-format csv"),
    ],
)
async def test_a_wrong_table_is_refused_by_name_and_nothing_is_stored(
    darkq: Darkq, client: Client, name: str, content: str, arguments: tuple[str, ...], said: str
) -> None:
    """Red when a batch is created before the check, or the columns are not named."""
    (darkq.home / name).write_text(content)
    done = await run(darkq, "run", name, *arguments, "-o", "out.csv")
    assert (done.code, done.out) == (2, b""), done.err
    assert said in done.err
    assert "Traceback" not in done.err
    assert [batch async for batch in client.batches()] == []
    assert left_in(darkq.home) == []


async def test_json_with_names_of_its_own_is_joined_on_request(darkq: Darkq, echo: Any) -> None:
    rows = [{"id": n, "question": f"quick {n}", "tags": ["a"], "temperature": 9} for n in (1, 2)]
    (darkq.home / "in.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    words = ("in.jsonl", "--prompt-field", "question", "--id-field", "id", "--ordered")
    assert (await run(darkq, "run", *words, "--join", "-o", "out.jsonl")).code == 0
    assert lines(darkq.home / "out.jsonl") == [{**row, "answer": row["question"]} for row in rows]
    assert (await run(darkq, "run", *words, "--join", "-o", "out.tsv")).code == 0
    assert table(darkq.home / "out.tsv", "\t")[1] == {
        "id": "2",
        "question": "quick 2",
        "tags": '["a"]',
        "temperature": "9",
        "answer": "quick 2",
    }
    assert (await run(darkq, "run", *words, "-o", "alone.csv")).code == 0
    assert (darkq.home / "alone.csv").read_text() == "custom_id,answer\n1,quick 1\n2,quick 2\n"
    assert (await run(darkq, "run", *words, "-o", "envelope.jsonl")).code == 0
    assert [line["custom_id"] for line in lines(darkq.home / "envelope.jsonl")] == ["1", "2"]


async def test_options_for_all_lines_reach_each_job(
    darkq: Darkq, client: Client, redis: Any
) -> None:
    """Red when a line's own option is replaced, or both names of the length are sent."""
    rows = [{"prompt": "a"}, {"prompt": "b", "temperature": 1, "max_completion_tokens": 5}]
    (darkq.home / "in.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    words = ("--temperature", "0", "--max-tokens", "9", "--system", "Be brief.", "--name", "mine")
    running = darkq.start("batch", "run", "in.jsonl", "-o", "out.jsonl", *words)

    async def sent() -> bool:
        return any([batch.total == 2 async for batch in client.batches()])

    await wait_until("both lines in Redis", sent)
    running.send(signal.SIGINT)
    await asyncio.to_thread(running.done)
    (batch,) = [batch async for batch in client.batches()]
    assert batch.name == "mine"
    keys = BatchKeys.parse(batch.batch_id)
    jobs = [decode_job(await redis.get(keys.job(n).job)).job for n in (1, 2)]
    assert [job.options for job in jobs] == [
        Options(temperature=0, max_tokens=9),
        Options(temperature=1, max_completion_tokens=5),
    ]
    assert [job.prompt for job in jobs] == [
        (Message("system", "Be brief."), Message("user", text)) for text in ("a", "b")
    ]


async def test_ignored_options_are_named_in_the_summary(darkq: Darkq, echo: Any) -> None:
    (darkq.home / "in.csv").write_text("prompt\nquick a\n")
    words = ("run", "in.csv", "--temperature", "0")
    done = await run(darkq, *words, "-o", "out.csv", "--ignore-unsupported", "--json")
    assert done.code == 0, done.err
    assert done.objects[0]["ignored"] == ["temperature"]
    refused = await run(darkq, *words, "-o", "two.csv")
    assert refused.code == 1
    assert "The first is rejected: darkai cannot honour the option temperature" in refused.err
    assert refused.err.endswith(" --ignore-unsupported\n")
    retried = await run(darkq, "retry", "two.csv", "--ignore-unsupported", "--json")
    assert retried.code == 0, retried.err
    assert retried.objects[0]["ignored"] == ["temperature"]


async def test_text_goes_in_and_comes_out(darkq: Darkq, echo: Any) -> None:
    (darkq.home / "in.txt").write_text("quick a\nquick b\n")
    assert (await run(darkq, "run", "in.txt", "-o", "out.txt", "--ordered")).code == 0
    assert (darkq.home / "out.txt").read_text() == "quick a\nquick b\n"
    words = ("in.txt", "--prompt", "quick {prompt} too", "--ordered", "--answer-field", "said")
    assert (await run(darkq, "run", *words, "-o", "out.csv")).code == 0
    assert table(darkq.home / "out.csv")[1] == {"prompt": "quick b", "said": "quick quick b too"}


async def test_a_joined_batch_goes_on_after_a_kill(darkq: Darkq, client: Client, echo: Any) -> None:
    """Red when the cells of lines that were sent are only in memory, or the head is repeated."""
    count = 300
    text = "".join(f"{n},quick {n}\n" for n in range(1, count + 1))
    (darkq.home / "in.csv").write_text(f"id,prompt\n{text}")
    words = ("batch", "run", "in.csv", "-o", "out.csv", "--window", "40", "--id-field", "id")
    for written in (1, 100):
        running = darkq.start(*words)
        await wait_until("answers", partial(_has_lines, darkq.home / "out.csv", written))
        running.send(signal.SIGKILL)
        await asyncio.to_thread(running.done)
    done = await run(darkq, *words[1:])
    assert done.code == 0, done.err
    rows = table(darkq.home / "out.csv")
    assert sorted(int(row["id"]) for row in rows) == list(range(1, count + 1))
    assert all(row["answer"] == row["prompt"] == f"quick {row['id']}" for row in rows)
    assert left_in(darkq.home) == []


def _has_lines(path: Path, count: int) -> bool:
    return path.exists() and path.read_bytes().count(b"\n") > count


async def test_memory_does_not_grow_with_an_unclosed_quote(darkq: Darkq) -> None:
    with (darkq.home / "in.csv").open("w") as file:
        file.write('prompt\n"never closed\n')
        for _ in range(20):
            file.write("x" * (1 << 20) + "\n")
    done = await run(darkq, "run", "in.csv", "-o", "out.csv")
    assert done.code == 2
    assert "line 2: row: " in done.err
    assert "perhaps a quote is not closed" in done.err
