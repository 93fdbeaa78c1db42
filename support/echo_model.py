"""A model that says the prompt again, a word at a time: so an answer tells whose it is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence

from darkq_local.models.base import Turn

PAUSES_S: Mapping[str, float] = {"quick": 0.0, "paced": 0.04, "slow": 5.0}
"""How long before each word, by the prompt's first."""


class EchoModel:
    """Answers with the prompt itself; one that begins with `slow` takes longer than any test."""

    kind = "echo"
    name = "echo"

    async def generate(self, query: str, history: Sequence[Turn] = ()) -> AsyncGenerator[str, None]:
        """Yield a word at a time; see `Model.generate`."""
        words = query.split(" ")
        for number, word in enumerate(words):
            if number > 1:
                await asyncio.sleep(PAUSES_S[words[0]])
            yield word if number == 0 else " " + word

    async def aclose(self) -> None:
        """Nothing to free."""
