"""A conversation as one string, for services that take one: their public clients' format."""

from __future__ import annotations

from collections.abc import Sequence

from darkq.protocol.job import Message
from darkq_worker.upstreams.base import Rejected


def format_prompt(prompt: str | Sequence[Message]) -> str:
    """Return a string as it is, and messages as `join_turns` does.

    Raises `Rejected` when there is no message.
    """
    if isinstance(prompt, str):
        return prompt
    return join_turns([(message.role, message.text) for message in prompt])


def join_turns(turns: Sequence[tuple[str, str]]) -> str:
    """Return the text of one turn verbatim, whatever its role; of several, the dialogue.

    Raises `Rejected` when there is none.
    """
    if not turns:
        raise Rejected("the prompt has no messages")
    if len(turns) == 1:
        return turns[0][1]
    dialogue = "\n".join(f"{role.capitalize()}: {text}" for role, text in turns)
    return f"{dialogue}\nAssistant:"
