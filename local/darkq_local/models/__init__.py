"""The models that the local DarkAI can answer with, by the name that chooses them."""

from __future__ import annotations

from darkq_local.models.base import Model, ModelKind
from darkq_local.models.markov import Markov
from darkq_local.models.smollm2 import SmolLM2


async def load_model(
    kind: ModelKind, *, max_chunks: int = 256, chunks_per_s: float = 20.0
) -> Model:
    """Load a model; the caller closes it.

    `max_chunks` bounds an answer: tokens of SmolLM2, words of the Markov chain.
    `chunks_per_s` is the Markov chain's pace, 0 for as fast as it can; SmolLM2 has its own.
    Raises `ModelNotInstalled`.
    """
    if kind == "markov":
        return Markov(chunks=max_chunks, chunks_per_s=chunks_per_s)
    return await SmolLM2.load(max_tokens=max_chunks)
