"""Log records for operations that are repeated: at the first failure, each minute, on recovery.

A worker calls Redis several times a second. A record per failure would fill a disk during an
outage, and hide the other records. A single one would scroll away while the outage lasts.
"""

from __future__ import annotations

import logging
import time

from redis.exceptions import RedisError

from darkq.errors import DarkqError
from darkq.redis.pool import brief
from darkq.telemetry.logging import LogEvent, describe_error

logger = logging.getLogger("darkq.worker")

OUTAGE_PAUSE_S = 0.25
"""The pause between two calls while Redis is unavailable."""

REPEAT_S = 60.0
"""An outage is logged again after this time."""


def name_error(error: Exception) -> str:
    """Describe an error without its text; an unexpected one with its stack frames."""
    is_expected = isinstance(error, RedisError | OSError | DarkqError)
    return brief(error) if is_expected else describe_error(error)


class OutageLog:
    """The log of one repeated operation. `failed` and `recovered` are its two log events.

    A repeated failure has `for_s`, the seconds since the first one.
    """

    def __init__(self, failed: str, recovered: str, **fields: object) -> None:
        self._failed = failed
        self._recovered = recovered
        self._fields = fields
        self._last_error: str | None = None
        self._began_s = self._logged_s = 0.0

    def record_failure(self, error: Exception) -> None:
        """Log the failure if the previous call succeeded, or if a minute has passed."""
        now_s = time.monotonic()
        fields = dict(self._fields)
        if self._last_error is None:
            self._began_s = now_s
        else:
            fields["for_s"] = round(now_s - self._began_s)
        if self._last_error is None or now_s - self._logged_s >= REPEAT_S:
            self._logged_s = now_s
            logger.warning(LogEvent(self._failed, **fields, error=name_error(error)))
        self._last_error = name_error(error)

    def record_success(self) -> None:
        """Log the recovery, if the previous call failed."""
        if self._last_error is not None:
            logger.info(LogEvent(self._recovered, **self._fields, after=self._last_error))
        self._last_error = None
