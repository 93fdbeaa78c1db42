"""The LLM services that a worker can ask. `base` says what each of them promises."""

from __future__ import annotations

from darkq_worker.upstreams.darkai_compat import DarkAI as DarkAI
