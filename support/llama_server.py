"""llama.cpp's server in this process, with a real small model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from darkq_local.models.smollm2 import find_gguf


@contextmanager
def serving_llama(key: str, *, context: int = 512) -> Iterator[str]:
    """Serve SmolLM2 as `smollm2` and yield the URL. It writes one answer at a time."""
    xllamacpp: Any = import_module("xllamacpp")
    params = xllamacpp.CommonParams()
    params.model.path = str(find_gguf())
    params.model_alias = {"smollm2"}
    params.n_parallel, params.n_ctx = 1, context
    params.warmup = params.fit_params = params.ui = params.endpoint_slots = False
    params.cache_ram_mib = params.verbosity = params.port = 0
    params.api_keys = [key]
    server = xllamacpp.Server(params)
    yield f"{server.listening_address}/v1"
    del server  # it serves for as long as somebody holds it
