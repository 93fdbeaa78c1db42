"""Fixtures: settings of workers with a local DarkAI."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from darkq import Settings
from darkq_local.local_darkai import LocalDarkAI

MakeSettings = Callable[..., Settings]


@pytest.fixture
async def served(
    make_settings: MakeSettings, start_darkai: Callable[..., Awaitable[LocalDarkAI]]
) -> MakeSettings:
    """Make settings of workers whose upstream is there. They seldom look by themselves."""
    darkai = await start_darkai(chunks=3)

    def make(**changes: Any) -> Settings:
        defaults = {"darkai_url": darkai.url, "worker_poll_s": 60, "worker_lease_s": 1}
        return make_settings(**{**defaults, **changes})

    return make
