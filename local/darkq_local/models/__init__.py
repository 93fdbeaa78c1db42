"""The models of the local DarkAI."""

from __future__ import annotations

from darkq_local.models.base import MAX_CHUNKS, Model, ModelKind
from darkq_local.models.markov import Markov
from darkq_local.models.smollm2 import SmolLM2


async def load_model(
    kind: ModelKind, *, max_chunks: int = MAX_CHUNKS, chunks_per_s: float = 20.0
) -> Model:
    """Load a model; the caller closes it.

    `max_chunks` limits an answer: tokens of SmolLM2, words of the Markov chain.
    `chunks_per_s` is the rate of the Markov chain; 0 is without a limit.
    Raises `ModelNotInstalled`.
    """
    if kind == "markov":
        return Markov(chunks=max_chunks, chunks_per_s=chunks_per_s)
    return await SmolLM2.load(max_tokens=max_chunks)
