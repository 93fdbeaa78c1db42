"""What services say about how a text ended. No I/O.

    stop             the text is whole
    length           it has as many tokens as it may
    content_filter   the service held the rest back
    tool_calls       the model wants a tool
    broken           the service failed: the text is not whole

A word that is not in the table is kept as it is, and proves nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

BROKEN: Final = "broken"
MAX_WORD_CHARS = 40

_WORDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "stop": "stop eos eos_token eos_token_id end_token stop_token stop_sequence stop_str "
        "end_turn end done complete completed finish finished final success natural",
        "length": "length max_tokens max_length max_new_tokens max_output_tokens model_length "
        "max_completion_tokens max_context_length token_limit limit",
        "content_filter": "content_filter content_filtered sensitive safety recitation blocklist "
        "prohibited_content spii language image_safety blocked moderation guardrail_intervened "
        "refusal",
        "tool_calls": "tool_calls tool_call tool_use function_call function_calls",
        BROKEN: "error errored abort aborted network_error insufficient_system_resource cancel "
        "cancelled canceled timeout timed_out time_limit internal_error server_error failed "
        "failure fail interrupted disconnect disconnected overloaded engine_overloaded unavailable "
        "malformed_function_call rate_limit rate_limited pause_turn",
    }
)
_MEANINGS: Final = MappingProxyType(
    {word: meaning for meaning, words in _WORDS.items() for word in words.split()}
)
_NOTHING: Final = frozenset(("", "null", "none", "nil", "undefined", "unfinished", "in_progress"))
_CAPITAL: Final = re.compile(r"(?<=[a-z])(?=[A-Z])")


def find_meaning(word: str) -> str | None:
    """Return what a service's word means: of the table above, or None for an unknown word."""
    return _MEANINGS.get(word) or _MEANINGS.get(_plain(word))


def is_nothing(reason: object) -> bool:
    """Tell whether a service says that it goes on: null, and what some send for it."""
    if not reason or not isinstance(reason, str):
        return not reason
    return reason not in _MEANINGS and _plain(reason) in _NOTHING


def shown(word: str) -> str:
    """Return a word that is in no table as it may stand in an event and in a log."""
    return re.sub(r"[^\w.:/-]", "_", word.strip()[:MAX_WORD_CHARS], flags=re.ASCII)


def _plain(word: str) -> str:
    """`MAX_TOKENS`, `maxTokens`, `max-tokens` and `FINISH_REASON_MAX_TOKENS` are one word."""
    word = _CAPITAL.sub("_", word.strip()[: 2 * MAX_WORD_CHARS]).lower()
    return word.replace("-", "_").replace(" ", "_").removeprefix("finish_reason_")
