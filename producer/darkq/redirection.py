"""Where a command of a cluster belongs, and what a server answers that cannot run it. No I/O.

MOVED  the key is elsewhere for good      ask who has what, go there
ASK    this key has been moved already    go there once, by special leave
TRYAGAIN, CLUSTERDOWN, and no answer      wait a moment, ask who has what, try again
NOREPLICAS, where that is minded          the same
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from redis.crc import key_slot
from redis.exceptions import ResponseError

from darkq.redis_url import Address
from darkq.transport import UNAVAILABLE

ANYWHERE = ""
"""Stands for the key of a command that any server can answer."""

_KEYLESS = {"PING", "TIME", "INFO", "WAIT", "SCRIPT LOAD", "CONFIG GET"}
_SCRIPTS = {"EVAL", "EVALSHA"}
# In a transaction redis-py puts the command before the server's words.
_WORDS = re.compile(
    r"(?:^|caused error: \(')(MOVED|ASK|TRYAGAIN|CLUSTERDOWN|MASTERDOWN|NOREPLICAS)\b"
    r"(?: \d+ (\S*):(\d+))?"
)


class Redirection(NamedTuple):
    """Why a server did not do what it was asked: a word, and who would."""

    word: str
    target: Address | None


def read_redirection(error: Exception, asked: Address) -> Redirection | None:
    """Tell what an error says of the cluster; None for any other error."""
    if isinstance(error, UNAVAILABLE):
        return Redirection("", None)
    found = _WORDS.search(str(error)) if isinstance(error, ResponseError) else None
    if found is None:
        return None
    word, host, port = found.groups()
    return Redirection(word, Address(host or asked.host, int(port)) if port else None)


def key_of(args: Sequence[Any]) -> str | bytes:
    """Return the first key of a command; none for what any server can answer."""
    name = str(args[0])
    if name in _SCRIPTS:
        return args[3]  # type: ignore[no-any-return]
    return ANYWHERE if name in _KEYLESS else args[1]


def slot_of(key: str | bytes) -> int:
    """Return the slot of a key."""
    return key_slot(key if isinstance(key, bytes) else key.encode())
