"""A toy, not a language model: a Markov chain over the words of the short text below.

It knows which words followed each pair of words, and picks one of them. The output looks like
sentences and needs no download. The same seed and conversation give the same answer on every
machine. A query with Cyrillic letters uses the Russian text.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import re
from collections import defaultdict
from collections.abc import AsyncGenerator, Iterator, Sequence

from darkq_local.models.base import Turn

ENGLISH = """
Spring comes to the city before anyone has finished the winter work. The snow leaves the roofs
first, and the water runs down the street as if it had somewhere to be. People wait for the
tram in the morning and hold their faces to the sun. A queue is a quiet agreement between
strangers. Nobody in the queue knows the others, and still everyone knows who came first. The
work of the day waits in a queue as well, and the worker takes one job at a time. A good worker
does not hurry, and a good queue does not forget. When the worker falls ill, another worker
takes the job and begins again from the first word. The river carries the ice under the bridge,
one piece after another, and no piece arrives before its time. In the garden behind the house
the first flowers stand in a row, as if they too were waiting for their turn 🌱. The gardener
does not pull at the flowers to make them grow. He waters the row from the first to the last,
and then he sits down and waits. Waiting is a kind of work, and in spring it is the best kind.
In the evening the light stays on the water a little longer than the day before. The children
count the days until the holidays, and the days pass one at a time, as days do. A letter that
was sent in winter arrives in spring, and the news in it is still good 😀. Someone reads the
letter aloud, and someone else asks to hear the end again. The end of a story is worth waiting
for. The city opens its windows, and the music of the street comes in without a ticket.
"""

RUSSIAN = """
Весна приходит в город раньше, чем заканчивается зимняя работа. Снег сходит с крыш, и вода
бежит по улице, как будто её где-то ждут. Люди стоят в очереди и подставляют лицо солнцу. В
очереди никто никого не знает, но все знают, кто пришёл первым. Работа тоже ждёт в очереди, и
мастер берёт одно дело за другим. Хороший мастер не спешит, и хорошая очередь ничего не
забывает. Река несёт лёд под мостом, и ни одна льдина не приходит раньше срока. В саду стоят
первые цветы 🌱, и садовник не тянет их вверх. Ждать тоже работа, и весной это лучшая работа.
"""

_CYRILLIC = re.compile("[а-яё]", re.IGNORECASE)


class Markov:
    """The chain: `chunks` words in an answer, `chunks_per_s` words a second (0: no limit)."""

    kind = "markov"
    name = "Markov chain (a toy, not a language model)"

    def __init__(self, *, chunks: int = 64, chunks_per_s: float = 20.0, seed: int = 0) -> None:
        self._chunks = chunks
        self._pause_s = 1 / chunks_per_s if chunks_per_s else 0.0
        self._seed = seed
        self._english = _Chain(ENGLISH)
        self._russian = _Chain(RUSSIAN)

    async def generate(self, query: str, history: Sequence[Turn] = ()) -> AsyncGenerator[str, None]:
        """Yield a word at a time; see `Model.generate`."""
        chain = self._russian if _CYRILLIC.search(query) else self._english
        words = chain.walk(random.Random(self._digest(query, history)))
        for index in range(self._chunks):
            await asyncio.sleep(self._pause_s)
            word = next(words)
            yield word if index == 0 else " " + word

    def _digest(self, query: str, history: Sequence[Turn]) -> bytes:
        """Return a seed that is equal on every machine, unlike `hash`."""
        parts = [str(self._seed), *(f"{turn.role}: {turn.content}" for turn in history), query]
        return hashlib.sha256("\0".join(parts).encode()).digest()

    async def aclose(self) -> None:
        """Nothing to free."""


class _Chain:
    def __init__(self, text: str) -> None:
        words = text.split()
        self._followers: dict[tuple[str, str], list[str]] = defaultdict(list)
        round_trip = [*words, *words[:2]]  # the last words lead back to the first
        for first, second, third in zip(round_trip, round_trip[1:], round_trip[2:], strict=False):
            self._followers[first, second].append(third)
        self._openings = [
            pair for pair in self._followers if pair[0][0].isupper() and pair[0][-1] not in ".,"
        ]

    def walk(self, rng: random.Random) -> Iterator[str]:
        """Yield words without end."""
        first, second = rng.choice(self._openings)
        yield first
        while True:
            yield second
            first, second = second, rng.choice(self._followers[first, second])
