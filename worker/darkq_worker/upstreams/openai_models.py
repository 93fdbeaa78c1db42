"""Model lists of services with OpenAI's API, and the short names of models. No I/O."""

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

    The list is in `data`, in `models`, or the whole body; its entries are objects or names.
    """
    try:
        listed: Any = json.loads(body)
    except (ValueError, RecursionError):
        raise ProtocolViolation("the list of models is not JSON", status=200) from None
    if isinstance(listed, dict):
        if "data" not in listed and "models" not in listed:
            raise ProtocolViolation("the list of models is not a list", status=200)
        listed = listed.get("data") or listed.get("models") or []  # Ollama has null for none
    if not isinstance(listed, list):
        raise ProtocolViolation("the list of models is not a list", status=200)
    ids = [
        clean(model.get("id") or model.get("name") or model.get("model"))
        if isinstance(model, dict)
        else clean(model)
        for model in listed
    ]
    if ids and not any(ids):
        raise ProtocolViolation("the list of models has no names", status=200)
    names = [name for name in dict.fromkeys(ids) if name.isprintable()]
    return [name for name in names if 0 < len(name) <= _MAX_NAME_CHARS][:MAX_MODELS]


def default_model(names: Sequence[str]) -> str:
    """Return the first model that is not for embeddings, speech or images, or ""."""
    return next((name for name in names if not _NO_CHAT.search(name)), "")


def find_listed(name: str, listed: Sequence[str]) -> str | None:
    """Return the model that a name means which is not listed exactly, or None.

    `llama3.2` means Ollama's `llama3.2:latest`, and `gemini-2.5-flash` means
    `models/gemini-2.5-flash`. Any other name may lack its prefix if only one listed model ends with
    it. A variant of a listed model, such as `…:nitro`, is not changed.
    """
    for other in (f"{name}:latest", f"models/{name}", name.removeprefix("models/")):
        if other in listed:
            return other
    base, _, variant = name.rpartition(":")
    if base in listed and variant in _VARIANTS:
        return name
    ends = [other for other in listed if other.endswith(f"/{name}")]
    return ends[0] if len(ends) == 1 else None
