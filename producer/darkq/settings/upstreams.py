"""The settings of an OpenAI-compatible upstream: `DARKQ_UPSTREAMS__<NAME>__…`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Annotated, NamedTuple
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr

from darkq.settings.parsing import Window, parse_windows, parses

Seconds = Annotated[float, Field(gt=0, le=30 * 24 * 3600)]

DARKAI = "darkai"
_NAME = re.compile(r"[a-z0-9]+(?:[_-][a-z0-9]+)*")
_MAX_NAME_CHARS = 40


def to_json(upstreams: Mapping[str, UpstreamSettings]) -> str:
    """Return upstreams as the value of `DARKQ_UPSTREAMS`, with their secrets in plain text."""
    plain = {
        name: {
            field: value.get_secret_value() if isinstance(value, SecretStr) else value
            for field, value in upstream
        }
        for name, upstream in upstreams.items()
    }
    return json.dumps(plain)


class Models(NamedTuple):
    """The models of an upstream, and aliases for them."""

    names: tuple[str, ...] = ()
    aliases: Mapping[str, str] = {}


def parse_models(text: str) -> Models:
    """Read `name, alias=name, …`; the first is the default. Raises `ValueError`."""
    names: dict[str, None] = {}
    aliases: dict[str, str] = {}
    for part in text.split(",") if text.strip() else ():
        alias, is_alias, name = (word.strip() for word in part.rpartition("="))
        if not name or bool(alias) != bool(is_alias) or not part.isprintable():
            raise ValueError("is none of: name, alias=name, several with commas")
        names[name] = None
        if alias:
            aliases[alias] = name
    return Models(tuple(names), aliases)


def check_name(name: str) -> str:
    """Return the name of an upstream, which is part of keys and variables. Raises `ValueError`."""
    if not _NAME.fullmatch(name) or len(name) > _MAX_NAME_CHARS or name == DARKAI:
        raise ValueError(
            f"a name has up to {_MAX_NAME_CHARS} of a-z, 0-9, _ and -, and is not {DARKAI}"
        )
    return name


def _check_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.username:
        raise ValueError("must be a URL like http://127.0.0.1:11434/v1")
    return text.rstrip("/")


class UpstreamSettings(BaseModel):
    """One upstream. Times are in seconds; `limits` is count/seconds, several with commas."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    url: Annotated[str, AfterValidator(_check_url)]
    api_key: SecretStr | None = None
    models: Annotated[str, parses(parse_models)] = ""
    limits: Annotated[str, parses(parse_windows)] = "none"
    concurrency: Annotated[int, Field(ge=0)] = 0
    timeout_s: Seconds = 600.0
    idle_timeout_s: Seconds = 120.0
    proxy: SecretStr | None = None
    keeps_connections: bool = True
    sends_trace: bool = False

    def find_models(self) -> Models:
        """Return the configured models."""
        return parse_models(self.models)

    def find_windows(self) -> tuple[Window, ...]:
        """Return the limits."""
        return parse_windows(self.limits)
