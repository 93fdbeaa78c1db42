"""What a worker hears of a partition: there are jobs, or one is to be cancelled."""

from __future__ import annotations

from collections.abc import Callable

_CANCEL = b"cancel "


class Wakeups:
    """The sink of a partition's wake channel."""

    def __init__(
        self,
        *,
        on_jobs: Callable[[], None],
        on_cancel: Callable[[bytes], None],
        on_gap: Callable[[], None],
    ) -> None:
        self._on_jobs = on_jobs
        self._on_cancel = on_cancel
        self._on_gap = on_gap

    def deliver(self, message: bytes) -> None:
        """Tell what a message says; an id in it is of anybody's, and may be no text."""
        if message.startswith(_CANCEL):
            self._on_cancel(message.removeprefix(_CANCEL))
        else:
            self._on_jobs()

    def gap(self) -> None:
        """Tell that messages were lost."""
        self._on_gap()
