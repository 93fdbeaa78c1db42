"""A tenant that calls a gateway in every way there is, leaves at random, comes back, and listens
for what is not its own.

Whatever it asks holds its canary, and the upstream says that again. Some bodies are the same for
all tenants on purpose: there the ids tell whose an answer is.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from typing import Any, NamedTuple

from darkq.sse import EventDecoder, ServerSentEvent
from support.http_api import Api

CANARY = re.compile(rb"canary-\w+")
ID = re.compile(rb'"(?:id|job_id)":"(?:resp_|chatcmpl-)?(0-[0-9a-f]{32})"')
MODEL = "llama-3-70b"
TERMINAL = ("completed", "failed", "cancelled")


class Asked(NamedTuple):
    """One request's body and headers."""

    prompt: str
    body: dict[str, Any]
    headers: dict[str, str]


class Tenant:
    """One tenant. `texts`: what jobs must have answered; `cancelled`: those that must have been."""

    def __init__(self, name: str, api: Api) -> None:
        self.name = name
        self.canary = f"canary-{name}"
        self.texts: dict[str, str] = {}
        self.cancelled: set[str] = set()
        self.ids: set[str] = set()
        self._api = api

    def hear(self, data: bytes) -> None:
        """Look at what has been received, every byte of it."""
        foreign = {word.decode() for word in CANARY.findall(data)} - {self.canary}
        assert not foreign, f"{self.name} has received what is {foreign}'s"
        self.ids |= _ids(data)

    async def storm(self, rng: random.Random, number: int) -> None:
        """Make one request of any kind, and see it through."""
        await rng.choice(KINDS)(self, rng, number)

    async def native(self, rng: random.Random, number: int) -> None:
        """A job, read by a reader that is cut off again and again."""
        is_doomed = rng.random() < 0.3
        prompt = self._prompt(rng, "slow" if is_doomed else rng.choice(("quick", "paced")), number)
        order = {"prompt": prompt, "metadata": {"pace": prompt.split()[0]}}
        key = {"Idempotency-Key": f"order-{number}"}  # the same for every tenant
        job_id = (await self._call("POST", "/jobs", order, key))["job_id"]
        if rng.random() < 0.3:
            assert (await self._call("POST", "/jobs", order, key))["job_id"] == job_id
        if is_doomed:
            await self._call("POST", f"/jobs/{job_id}/cancel")
            self.cancelled.add(job_id)
        events = await self._native_events(rng, job_id)
        assert events[-1]["type"] == ("cancelled" if is_doomed else "completed")
        if not is_doomed:
            self.texts[job_id] = prompt
            assert "".join(e["text"] for e in events if e["type"] == "chunk") == prompt

    async def chat(self, rng: random.Random, number: int) -> None:
        """A chat: read, left for good, or left and asked again."""
        await self._foreground(rng, "/v1/chat/completions", self._chat_body, _chat_text, number)

    async def response(self, rng: random.Random, number: int) -> None:
        """A Response in the foreground: the same."""
        await self._foreground(rng, "/v1/responses", self._response_body, _response_text, number)

    async def background(self, rng: random.Random, number: int) -> None:
        """A Response in the background, resumed by number until it has ended."""
        is_doomed = rng.random() < 0.3
        prompt = self._prompt(rng, "slow" if is_doomed else rng.choice(("quick", "paced")), number)
        body = self._response_body(prompt) | {"background": True, "stream": rng.random() < 0.5}
        key = {"Idempotency-Key": f"response-{number}"}
        if body["stream"]:
            async with aclosing(self._stream("POST", "/v1/responses", body, key)) as events:
                first = json.loads((await anext(events)).data)
            made = first["response"]["id"]
        else:
            made = (await self._call("POST", "/v1/responses", body, key))["id"]
        if is_doomed:
            await self._call("POST", f"/v1/responses/{made}/cancel")
        text, end = await self._response_events(rng, made)
        job_id = made.removeprefix("resp_")
        if is_doomed:
            self.cancelled.add(job_id)
            assert end["response"]["status"] == "cancelled"
        else:
            self.texts[job_id] = prompt
            assert text == prompt

    async def steal(self, job_id: str) -> None:
        """Ask for a job of another tenant: to us there is none."""
        for method, path in (
            ("GET", f"/jobs/{job_id}"),
            ("GET", f"/jobs/{job_id}/events"),
            ("GET", f"/jobs/{job_id}/result"),
            ("POST", f"/jobs/{job_id}/cancel"),
            ("GET", f"/v1/responses/resp_{job_id}"),
            ("GET", f"/v1/responses/resp_{job_id}?stream=true"),
            ("POST", f"/v1/responses/resp_{job_id}/cancel"),
            ("DELETE", f"/v1/responses/resp_{job_id}"),
        ):
            async with self._api.http.request(method, self._api.url + path) as answer:
                self.hear(await answer.read())
                assert answer.status == 404, f"{method} {path} is not {self.name}'s"

    async def _foreground(
        self,
        rng: random.Random,
        path: str,
        body_of: Callable[[str], dict[str, Any]],
        text_of: Callable[[Any], str],
        number: int,
    ) -> None:
        fate = rng.choice(("stay", "leave", "return"))
        pace = {"stay": rng.choice(("quick", "paced")), "leave": "slow", "return": "paced"}[fate]
        prompt = self._prompt(rng, pace, number)
        body = body_of(prompt) | {"stream": rng.random() < 0.6}
        before = await self._leave(rng, path, body) if fate != "stay" else set()
        if fate == "leave":
            self.cancelled |= before
            return
        retry = {"x-stainless-retry-count": "1"} if fate == "return" else {}
        if body["stream"]:
            stream = self._stream("POST", path, body, retry)
            answers = [json.loads(e.data) async for e in stream if e.data != b"[DONE]"]
        else:
            answers = [await self._call("POST", path, body, retry)]
        assert "".join(map(text_of, answers)) == prompt, (fate, path, answers[-1])
        (job_id,) = _ids(json.dumps(answers, separators=(",", ":")).encode())
        assert before <= {job_id}, "the second try must find the job of the first"
        self.texts[job_id] = prompt

    async def _leave(self, rng: random.Random, path: str, body: dict[str, Any]) -> set[str]:
        """Ask, leave at a random moment, and return the id of the job if it was said before."""
        heard = b""
        with suppress(TimeoutError):
            async with asyncio.timeout(rng.choice((0.002, 0.02, 0.1, 0.3)) * rng.random()):
                async with self._api.http.post(self._api.url + path, json=body) as answer:
                    async for data in answer.content.iter_any():
                        heard += data
        self.hear(heard)
        return _ids(heard)

    async def _native_events(self, rng: random.Random, job_id: str) -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = []
        while not (events and events[-1]["type"] in TERMINAL):
            headers = {"Last-Event-ID": events[-1]["id"]} if events else {}
            until = rng.choice((1, 2, 5, 99))
            async with aclosing(
                self._stream("GET", f"/jobs/{job_id}/events", None, headers)
            ) as stream:
                async for event in stream:
                    events.append(json.loads(event.data))
                    until -= 1
                    if not until:
                        break
        ids = [tuple(map(int, e["id"].split("-"))) for e in events]
        assert ids == sorted(set(ids)), "each event once, in order"
        return events

    async def _response_events(self, rng: random.Random, made: str) -> tuple[str, dict[str, Any]]:
        events: list[dict[str, Any]] = []
        while not (events and "response" in events[-1] and events[-1]["type"] in _ENDS):
            path = f"/v1/responses/{made}?stream=true"
            path += f"&starting_after={len(events) - 1}" if events else ""
            until = rng.choice((1, 2, 5, 99))
            async with aclosing(self._stream("GET", path)) as stream:
                async for event in stream:
                    events.append(json.loads(event.data))
                    until -= 1
                    if not until:
                        break
        assert [e["sequence_number"] for e in events] == list(range(len(events)))
        return "".join(map(_response_text, events[:-1])), events[-1]

    async def _call(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> Any:
        url = self._api.url + path
        async with self._api.http.request(method, url, json=body, headers=headers) as answer:
            data = await answer.read()
            self.hear(data)
            assert answer.status < 300, (method, path, answer.status, data)
            return json.loads(data)

    async def _stream(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> AsyncGenerator[ServerSentEvent, None]:
        decoder, heard = EventDecoder(), b""
        url = self._api.url + path
        try:
            async with self._api.http.request(method, url, json=body, headers=headers) as answer:
                assert answer.status == 200, (path, answer.status, await answer.read())
                async for data in answer.content.iter_any():
                    heard += data
                    for event in decoder.feed(data):
                        yield event
        finally:
            self.hear(heard)

    def _prompt(self, rng: random.Random, pace: str, number: int) -> str:
        who = rng.choice((self.canary, self.canary, "everybody"))
        return f"{pace} {who} would like to have order {number}"

    @staticmethod
    def _chat_body(prompt: str) -> dict[str, Any]:
        message = {"role": "user", "content": prompt}
        return {"model": MODEL, "messages": [message], "metadata": {"pace": prompt.split()[0]}}

    @staticmethod
    def _response_body(prompt: str) -> dict[str, Any]:
        return {"model": MODEL, "input": prompt, "metadata": {"pace": prompt.split()[0]}}


_ENDS = ("response.completed", "response.incomplete", "response.failed")
KINDS = (Tenant.native, Tenant.native, Tenant.chat, Tenant.response, Tenant.background)


def _chat_text(answer: Any) -> str:
    choice = answer["choices"][0]
    said = choice.get("delta") or choice.get("message") or {}
    return said.get("content") or ""


def _response_text(answer: Any) -> str:
    if answer.get("object") == "response":
        return "".join(p["text"] for item in answer["output"] for p in item["content"])
    return answer["delta"] if answer["type"] == "response.output_text.delta" else ""


def _ids(data: bytes) -> set[str]:
    return {found.decode() for found in ID.findall(data)}
