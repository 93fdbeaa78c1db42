"""An upstream that resets, stalls, dribbles, truncates, refuses, floods and lies.

Each job reaches its own scripted server, by way of its `proxy`. An upstream that fails once
must cost a try and nothing else; one that always fails must end the job as `failed`, with the
code that says why. `completed` needs the whole answer, always.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from random import Random
from typing import NamedTuple

from darkq.event import Completed, Failed
from faults.check import Tally, Watch, judge
from faults.stage import Setup, Stage
from faults.suite import Fault
from support.darkai_frames import BEGIN, END, chunk, error, final
from support.scripted_http import (
    NEXT_REQUEST,
    RESET,
    STALL,
    Repeat,
    ScriptedServer,
    Step,
    chunked,
    head,
)

TRIES = 3
IDLE_TIMEOUT_S = 0.4
TIMEOUT_S = 1.5
MAX_GROWTH_BYTES = 96 << 20
SIDE_BY_SIDE = 50
SHORT_STRIDE = 41
_RECORDED = Path(__file__).parents[1] / "tests" / "data" / "darkai_stream.txt"

_TOUCHY = Setup(
    worker={
        "darkai_idle_timeout_s": IDLE_TIMEOUT_S,
        "darkai_timeout_s": TIMEOUT_S,
        "retry_base_s": 0.02,
        "retry_max_s": 0.05,
    }
)
_HASTY = Setup(worker={"retry_base_s": 0.02, "retry_max_s": 0.05})
_WORDS = ["One ", "two, ", "three 🌱 ", "four."]
_TEXT = "".join(_WORDS)
_GOOD = [head(), BEGIN, *map(chunk, _WORDS), END, final(_TEXT)]
_BLOCK = b"x" * (64 << 10)
_PAGE = b"<!DOCTYPE html><h1>502 Bad gateway</h1>"


class Case(NamedTuple):
    """How an upstream misbehaves, and the code of a job for which it always does."""

    name: str
    script: Sequence[Step]
    code: str


def _after(words: int, *steps: Step) -> list[Step]:
    """So many words of a good answer, then something else."""
    return [head(), BEGIN, *map(chunk, _WORDS[:words]), *steps]


def _bomb() -> bytes:
    """256 MB of zeros, without the checksum that follows: a worker must stop before it."""
    packer = zlib.compressobj(9, wbits=31)
    first, second = (
        packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH) for _ in range(2)
    )
    return first + second * 255  # after a full flush, equal text has equal bytes


_DRIBBLE = Repeat(b"d", every_s=0.02)
CASES = [
    Case("stalls before its answer", [STALL], "timeout"),
    Case("stalls in its answer", _after(2, STALL), "timeout"),
    Case("dribbles a byte at a time", _after(2, _DRIBBLE), "timeout"),
    Case("only pings", _after(2, Repeat(b": ping\r\n\r\n", every_s=0.05)), "timeout"),
    Case("ends in mid-answer", _after(3), "truncated"),
    Case("ends in mid-frame", _after(2, chunk("three")[:-9]), "truncated"),
    Case("ends a chunked answer early", [head(transfer_encoding="chunked"),
        chunked(BEGIN, chunk("One "))], "truncated"),
    Case("says error after n words", _after(3, error("Model is at capacity.")),
        "upstream_overloaded"),
    Case("says 'rate limit' in a 200", [head(), error("Rate limit exceeded: 4 per 1 minute")],
        "rate_limited"),
    Case("says 429", [head("429 Too Many Requests"), error("Rate limit exceeded")],
        "rate_limited"),
    Case("says 429 with Retry-After", [head("429 Too Many Requests", retry_after="1"),
        error("Rate limit exceeded")], "rate_limited"),
    Case("sends an HTML page, 502", [head("502 Bad Gateway", "text/html"), _PAGE],
        "upstream_overloaded"),
    Case("sends an HTML page, 200", [head(content_type="text/html"), _PAGE],
        "protocol_violation"),
    Case("completes an empty answer", [head(), BEGIN, END, final("")], "empty_answer"),
    Case("sends a line of 100 MB", [head(), BEGIN, b"data: ", *[_BLOCK] * 1600],
        "protocol_violation"),
    Case("sends a gzip bomb", [head(content_encoding="gzip"), _bomb()], "protocol_violation"),
    Case("is not there: resets at once", [RESET], "upstream_unreachable"),
]  # fmt: skip


async def misbehaving(case: Case, stage: Stage, rng: Random) -> Tally:
    """Once, and then a good answer; always, and then the job has failed; the worker stays small.

    Red when `DarkAIUpstream.stream` takes EOF for the end.
    """
    (worker,) = await stage.crew(1)
    before_bytes = worker.peak_bytes
    tally = Tally()
    async with (
        ScriptedServer(case.script, _GOOD) as once,
        ScriptedServer(case.script) as always,
    ):
        saved = await stage.submit(tries=TRIES, proxy=once.url)
        doomed = await stage.submit(tries=2, proxy=always.url)
        await _completes(saved, _TEXT, tally)
        _retried(saved, once, tally)
        await doomed.to_the_end()
        tally.add(await judge(doomed, lambda _prompt, _text: False))
        last = doomed.events[-1]
        code = last.code if isinstance(last, Failed) else last
        tally.require(code == case.code, f"fails with {case.code}, not {code}")
        tally.require(len(always.requests) == 2, f"its tries are 2, not {len(always.requests)}")
    growth = worker.peak_bytes - before_bytes
    tally.require(growth < MAX_GROWTH_BYTES, f"the worker grew by {growth >> 20} MB")
    return tally


async def _completes(watch: Watch, text: str, tally: Tally) -> None:
    await watch.to_the_end()
    tally.add(await judge(watch, lambda _, answer: answer == text))
    completed = bool(watch.events) and isinstance(watch.events[-1], Completed)
    tally.require(completed, f"a later try completes {watch.prompt}: {watch.events[-1:]}")


def _retried(watch: Watch, server: ScriptedServer, tally: Tally) -> None:
    tally.require(len(server.requests) == 2, f"one more call, not {len(server.requests) - 1}")
    tally.require(len(watch.retries) == 1, "one event reports the retry")
    for retry in watch.retries:
        tally.require(bool(retry.reason), "a retry has a reason")
        tally.recoveries_s.append(_gap_s(watch))


def _gap_s(watch: Watch) -> float:
    """From `retrying` to the next `started`."""
    times = dict(zip((event.id for event in watch.events), watch.seen_s, strict=True))
    return times["2-0"] - times[watch.retries[0].id]


async def redirected(stage: Stage, rng: Random) -> Tally:
    """A redirect to another host is not followed: no other host gets the prompt.

    Red when the session follows redirects.
    """
    await stage.crew(1)
    tally = Tally()
    elsewhere = "http://elsewhere.test/chat"
    status = rng.choice(["302 Found", "307 Temporary Redirect"])
    away: list[Step] = [head(status, location=elsewhere, content_length="0")]
    async with ScriptedServer(away, _GOOD) as server:
        watch = await stage.submit(tries=TRIES, proxy=server.url)
        await _completes(watch, _TEXT, tally)
        asked = {request.target for request in server.requests}
    tally.require(elsewhere not in asked, "no other host is called")
    return tally


async def reset_everywhere(stage: Stage, rng: Random) -> Tally:
    """A recorded stream, reset at every byte: completed with the whole text, in two tries.

    Red when `DarkAIUpstream.stream` takes EOF for the end.
    """
    await stage.crew(1)
    recorded = head() + _RECORDED.read_bytes()
    async with ScriptedServer([recorded]) as server:
        whole = await stage.submit(proxy=server.url)
        await whole.to_the_end()
    step = 1 if stage.full else SHORT_STRIDE
    offsets = range(0 if stage.full else rng.randrange(step), len(recorded), step)
    room = asyncio.Semaphore(SIDE_BY_SIDE)

    async def at(offset: int) -> Tally:
        async with room, ScriptedServer([recorded[:offset], RESET], [recorded]) as server:
            tally = Tally()
            watch = await stage.submit(tries=2, proxy=server.url)
            await _completes(watch, whole.text, tally)
            return tally

    total = Tally()
    for tally in await asyncio.gather(*map(at, offsets)):
        total.add(tally)
    return total


async def closed_when_reused(stage: Stage, rng: Random) -> Tally:
    """A kept connection, closed or reset at every byte of the next answer that comes over it.

    Before the first byte the call is sent once more, unnoticed; after it, it costs a try. Red when
    `CallConnection.is_unheard` is always true: a call is made twice; always false: a try is burnt.
    """
    await stage.crew(1)
    body = b"".join([BEGIN, *map(chunk, _WORDS), END, final(_TEXT)])
    answer = head(transfer_encoding="chunked") + chunked(body) + b"0\r\n\r\n"
    kept: list[Step] = [answer, NEXT_REQUEST]
    step = 1 if stage.full else SHORT_STRIDE
    offsets = [0, *range(1 + rng.randrange(step), len(answer), step)]
    room = asyncio.Semaphore(SIDE_BY_SIDE)

    async def at(offset: int, end: list[Step]) -> Tally:
        cut: list[Step] = [answer[:offset]] if offset else []
        async with room, ScriptedServer(kept, [*cut, *end], kept) as server:
            tally = Tally()
            for _ in range(2):
                watch = await stage.submit(tries=2, proxy=server.url)
                await _completes(watch, _TEXT, tally)
            repeated = len(server.requests) - 2 - len(watch.retries)
            unheard = offset == 0 or (bool(end) and repeated == 1)  # it may overtake bytes
            tally.require(repeated == int(unheard), f"{repeated} calls repeated at byte {offset}")
            tally.require(not (unheard and watch.retries), "an unheard call burns no try")
            shared = server.requests[0].connection == server.requests[1].connection
            tally.require(shared, "the second call is sent over the kept connection")
            return tally

    total = Tally()
    ends: list[list[Step]] = [[], [RESET]]
    for tally in await asyncio.gather(*(at(offset, end) for offset in offsets for end in ends)):
        total.add(tally)
    return total


FAULTS = [
    Fault("upstream closes a kept connection", closed_when_reused, 1, _HASTY),
    Fault("upstream: reset at every byte", reset_everywhere, 1, _TOUCHY),
    *(Fault(f"upstream {case.name}", partial(misbehaving, case), 2, _TOUCHY) for case in CASES),
    Fault("upstream redirects elsewhere", redirected, 2, _TOUCHY),
]
