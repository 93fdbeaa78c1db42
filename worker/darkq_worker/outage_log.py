"""What fails again and again: a line in the log when that begins, and one when it is over.

A worker asks Redis several times a second. A line for each try would fill a disk during an outage,
and hide what else is said.
"""

from __future__ import annotations

import logging

from redis.exceptions import RedisError

from darkq.errors import DarkqError
from darkq.redis.pool import brief
from darkq.telemetry.logging import LogEvent, describe_error

logger = logging.getLogger("darkq.worker")


def kind_of(error: Exception) -> str:
    """Name an error, without its text; an unforeseen one with the places that it passed."""
    foreseen = isinstance(error, RedisError | OSError | DarkqError)
    return brief(error) if foreseen else describe_error(error)


class Trouble:
    """Whether one thing works, as far as its log says. `failing` and `works` are its two lines."""

    def __init__(self, failing: str, works: str) -> None:
        self._failing = failing
        self._works = works
        self._met: str | None = None

    def met(self, error: Exception) -> None:
        """Say that it fails, unless that was the last thing said."""
        if self._met is None:
            logger.warning(LogEvent(self._failing, error=kind_of(error)))
        self._met = kind_of(error)

    def over(self) -> None:
        """Say that it works again, if it did not."""
        if self._met is not None:
            logger.info(LogEvent(self._works, after=self._met))
        self._met = None
