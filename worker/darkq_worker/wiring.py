"""Makes the parts of a worker from its settings."""

from __future__ import annotations

import aiohttp
from pydantic import SecretStr

from darkq.errors import ConfigurationError
from darkq.settings.settings import Settings
from darkq.settings.upstreams import DARKAI
from darkq_worker.attempts.generate import Upstreams
from darkq_worker.limits.calls import Rule
from darkq_worker.upstreams.base import Upstream
from darkq_worker.upstreams.darkai import DarkAIUpstream
from darkq_worker.upstreams.http import make_session as make_session
from darkq_worker.upstreams.openai import OpenAIUpstream


def make_upstreams(settings: Settings, session: aiohttp.ClientSession) -> Upstreams:
    """Make the upstreams of the settings. The caller keeps the session.

    Raises `ConfigurationError`.
    """
    upstreams: dict[str, Upstream] = {}
    if settings.uses_darkai:
        upstreams[DARKAI] = DarkAIUpstream(
            session,
            url=settings.darkai_url,
            proxy=_reveal(settings.darkai_proxy),
            timeout_s=settings.darkai_timeout_s,
            idle_timeout_s=settings.darkai_idle_timeout_s,
            sends_trace=settings.darkai_sends_trace,
        )
    for name, each in sorted(settings.upstreams.items()):
        models = each.find_models()
        upstreams[name] = OpenAIUpstream(
            session,
            name=name,
            url=each.url,
            api_key=_reveal(each.api_key),
            models=models.names,
            aliases=models.aliases,
            proxy=_reveal(each.proxy),
            timeout_s=each.timeout_s,
            idle_timeout_s=each.idle_timeout_s,
            keeps_connections=each.keeps_connections,
            sends_trace=each.sends_trace,
        )
    if not upstreams:
        raise ConfigurationError("DARKQ_DARKAI_URL", "is none, and there is no other upstream")
    default = settings.default_upstream or next(iter(upstreams))
    if default not in upstreams:
        known = ", ".join(upstreams)
        raise ConfigurationError("DARKQ_DEFAULT_UPSTREAM", f"must be one of: {known}")
    return Upstreams([upstreams.pop(default), *upstreams.values()], make_rules(settings))


def make_rules(settings: Settings) -> dict[str, Rule]:
    """Return the limits of each upstream, by name."""
    darkai = Rule(settings.find_darkai_windows(), settings.darkai_concurrency)
    others = {
        name: Rule(each.find_windows(), each.concurrency)
        for name, each in settings.upstreams.items()
    }
    return {DARKAI: darkai, **others}


def _reveal(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() if secret else None
