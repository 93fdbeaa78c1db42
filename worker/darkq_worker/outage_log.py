"""Log records for operations that are repeated: one when they start to fail, one on recovery.

A worker calls Redis several times a second. A record per failure would fill a disk during an
outage, and hide the other records.
"""

from __future__ import annotations

import logging

from redis.exceptions import RedisError

from darkq.errors import DarkqError
from darkq.redis.pool import brief
from darkq.telemetry.logging import LogEvent, describe_error

logger = logging.getLogger("darkq.worker")

OUTAGE_PAUSE_S = 0.25
"""The pause between two calls while Redis is unavailable."""


def name_error(error: Exception) -> str:
    """Describe an error without its text; an unexpected one with its stack frames."""
    is_expected = isinstance(error, RedisError | OSError | DarkqError)
    return brief(error) if is_expected else describe_error(error)


class OutageLog:
    """The log of one repeated operation. `failed` and `recovered` are its two log events."""

    def __init__(self, failed: str, recovered: str, **fields: object) -> None:
        self._failed = failed
        self._recovered = recovered
        self._fields = fields
        self._last_error: str | None = None

    def record_failure(self, error: Exception) -> None:
        """Log the failure, unless the previous call failed too."""
        if self._last_error is None:
            logger.warning(LogEvent(self._failed, **self._fields, error=name_error(error)))
        self._last_error = name_error(error)

    def record_success(self) -> None:
        """Log the recovery, if the previous call failed."""
        if self._last_error is not None:
            logger.info(LogEvent(self._recovered, **self._fields, after=self._last_error))
        self._last_error = None
