"""The models that a service on OpenAI's wire lists, and the names that people give them. No I/O."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Final

from darkq_worker.upstreams.base import ProtocolViolation
from darkq_worker.upstreams.http_errors import clean

MAX_MODELS = 1000
_MAX_NAME_CHARS = 200
_NO_CHAT: Final = re.compile(
    r"embed|rerank|whisper|\btts\b|dall-e|moderation|transcri|speech|\bbge\b|minilm|"
    r"stable-diffusion|\bsdxl?\b|\bflux\b|imagen|gpt-image|\bsora\b|\bveo\b",
    re.IGNORECASE,
)
_VARIANTS: Final = frozenset(
    ("nitro", "online", "free", "floor", "thinking", "extended", "exacto", "beta")
)


def parse_models(body: bytes) -> list[str]:
    """Return the ids in a list of models. Raises `ProtocolViolation`.

    The list is in `data`, in `models`, or alone; its entries are objects or names.
    """
    try:
        listing: Any = json.loads(body)
    except (ValueError, RecursionError):
        raise ProtocolViolation("the list of models is no JSON", status=200) from None
    if isinstance(listing, dict):
        if "data" not in listing and "models" not in listing:
            raise ProtocolViolation("the list of models is none", status=200)
        listing = listing.get("data") or listing.get("models") or []  # Ollama has null for none
    if not isinstance(listing, list):
        raise ProtocolViolation("the list of models is none", status=200)
    ids = [_id_of(model) for model in listing]
    if ids and not any(ids):
        raise ProtocolViolation("the list of models names none", status=200)
    names = [name for name in dict.fromkeys(ids) if name.isprintable()]
    return [name for name in names if 0 < len(name) <= _MAX_NAME_CHARS][:MAX_MODELS]


def _id_of(model: object) -> str:
    if isinstance(model, dict):
        return clean(model.get("id") or model.get("name") or model.get("model"))
    return clean(model)


def default_model(names: Sequence[str]) -> str:
    """Return the first model of a list that is not for embeddings, speech or images, or ""."""
    return next((name for name in names if not _NO_CHAT.search(name)), "")


def find_listed(name: str, listed: Sequence[str]) -> str | None:
    """Return what to ask for by a name that is not listed to the letter, or None.

    `llama3.2` is Ollama's `llama3.2:latest`; `gemini-2.5-flash` is `models/gemini-2.5-flash`, and
    any other name may lack its prefix where only one listed model ends with it. A variant of a
    listed model, `…:nitro`, is asked for as it is.
    """
    for other in (f"{name}:latest", f"models/{name}", name.removeprefix("models/")):
        if other in listed:
            return other
    base, _, variant = name.rpartition(":")
    if base in listed and variant in _VARIANTS:
        return name
    ends = [other for other in listed if other.endswith(f"/{name}")]
    return ends[0] if len(ends) == 1 else None
