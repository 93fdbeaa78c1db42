"""The LLM services that a worker can call. `base` defines what each of them guarantees."""

from __future__ import annotations

from darkq_worker.upstreams.darkai import DarkAI as DarkAI
