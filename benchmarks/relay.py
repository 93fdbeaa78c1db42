"""How old is a chunk when a reader has it?

20 streams of 20 chunks a second. Each chunk has the time at which the upstream wrote it. They are
read through darkq's tail; from its bare channel; from naive arq's channel; and, as the lower bound
of one of the two hops, from a publisher that only publishes timestamps at the same pace.
"""

from __future__ import annotations

from benchmarks.answers import ages_us, paced
from benchmarks.figures import Answer, Figures, Row, Target, percentile
from benchmarks.hop import CHANNELS
from benchmarks.processes import child, go, module, read_line, redis_server
from benchmarks.systems import Darkq, Naive, Seen, darkq, listening, naive_arq

STREAMS = 20
PER_S = 20.0


async def answer(url: str, repetitions: int, scale: float) -> Answer:
    chunks = int(100 * scale)
    prompt = paced(chunks, PER_S)
    tail, channel, theirs, hop = _Ages(), _Ages(), _Ages(), _Ages()
    async with darkq(url) as us, naive_arq(url) as them:
        for _ in range(repetitions):
            await _repeat(us, them, prompt, chunks, (tail, channel, theirs))
            await _hop(chunks, hop.begin())
    rows = []
    for how, ours in (("the tail", tail), ("the channel", channel)):
        for percent, bound, bound_naive in ((50, 1.7, 0.65), (99, 2.5, None)):
            question, figures = f"relay p{percent}, through {how}", ours.figures(percent)
            against_naive = Target("≤", bound_naive) if bound_naive else None
            rows += [
                Row(question, "µs", figures, hop.figures(percent), "raw hop", Target("≤", bound)),
                Row(question, "µs", figures, theirs.figures(percent), "naive arq", against_naive),
            ]
    return Answer(rows, [])


class _Ages:
    """The ages of the chunks of each repetition."""

    def __init__(self) -> None:
        self._repetitions: list[list[float]] = []

    def begin(self) -> Seen:
        ages: list[float] = []
        self._repetitions.append(ages)
        return lambda text, _: ages.extend(ages_us(text))

    def figures(self, percent: float) -> Figures:
        return Figures.of([percentile(ages, percent) for ages in self._repetitions])


async def _repeat(
    us: Darkq, them: Naive, prompt: str, chunks: int, ages: tuple[_Ages, _Ages, _Ages]
) -> None:
    tail, channel, theirs = ages
    await us.consume(prompt, STREAMS, chunks, tail.begin())
    await us.consume_channel(prompt, STREAMS, chunks, channel.begin())
    await them.consume(prompt, STREAMS, chunks, theirs.begin())


async def _hop(chunks: int, seen: Seen) -> None:
    def decoded(message: bytes) -> int:
        seen(message.decode(), 1)
        return 1

    with redis_server() as url, child(*module("hop", url, STREAMS, chunks, PER_S)) as publisher:
        read_line(publisher)
        async with listening(url, CHANNELS + "*", decoded, STREAMS * chunks):
            go(publisher)
