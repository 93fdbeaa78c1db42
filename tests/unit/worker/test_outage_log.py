"""An outage is logged at its beginning, once a minute, and at its end."""

from __future__ import annotations

import time

import pytest

from darkq.redis.connect_errors import CannotConnect
from darkq_worker.outage_log import REPEAT_S, OutageLog


def test_an_outage_is_logged_again_each_minute(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Red when only the first failure is logged: it scrolls away while the outage lasts."""
    now_s = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    outage = OutageLog("Redis unavailable", "Redis available")
    error = CannotConnect("wrong_password", "redis.internal:6379")
    caplog.set_level("INFO", "darkq.worker")
    for _ in range(120):
        outage.record_failure(error)
        now_s += REPEAT_S / 60
    outage.record_success()
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 3
    assert "Redis at redis.internal:6379 rejects the user or the password" in messages[0]
    assert "for_s=60 " in messages[1]
    assert messages[2].startswith("Redis available")
