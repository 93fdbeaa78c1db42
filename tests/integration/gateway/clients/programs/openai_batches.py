"""OpenAI's Python SDK: files and batches."""

from __future__ import annotations

import json
import time
from typing import Any

from openai import OpenAI
from reporting import REAL, case, equal, run

client = OpenAI(max_retries=0)
SCHEMA = {
    "type": "object",
    "properties": {"sky": {"enum": ["clear", "cloudy"]}, "windy": {"type": "boolean"}},
    "required": ["sky", "windy"],
    "additionalProperties": False,
}
TOOL = {"name": "get_weather", "parameters": SCHEMA}


def run_batch(endpoint: Any, bodies: dict[str, Any]) -> dict[str, Any]:
    """Return the body of each answer, by its line's `custom_id`."""
    lines = [
        {"custom_id": custom_id, "method": "POST", "url": endpoint, "body": body}
        for custom_id, body in bodies.items()
    ]
    content = "\n".join(map(json.dumps, lines)).encode()
    stored = client.files.create(file=("requests.jsonl", content), purpose="batch")
    batch = client.batches.create(
        input_file_id=stored.id, endpoint=endpoint, completion_window="24h"
    )
    deadline_s = time.monotonic() + 200
    while batch.status not in ("completed", "failed", "expired", "cancelled"):
        assert time.monotonic() < deadline_s, batch
        time.sleep(0.2)
        batch = client.batches.retrieve(batch.id)
    assert batch.output_file_id, batch
    output = client.files.content(batch.output_file_id).text.splitlines()
    answers = [json.loads(line) for line in output]
    return {each["custom_id"]: each["response"]["body"] for each in answers}


@case("a batch of chats by files: a schema with a real model, a tool, reasoning")
def chats() -> None:
    messages = [{"role": "user", "content": "How is the weather?"}]
    json_schema = {"name": "weather", "schema": SCHEMA, "strict": True}
    structured = {
        "model": REAL,
        "messages": messages,
        "max_tokens": 60,
        "response_format": {"type": "json_schema", "json_schema": json_schema},
    }
    tool = {"type": "function", "function": TOOL}
    answers = run_batch(
        "/v1/chat/completions",
        {
            **{f"schema-{number}": {**structured, "seed": number} for number in range(3)},
            "tool": {"model": "scripted-tools", "messages": messages, "tools": [tool]},
            "reasoning": {"model": "scripted-reasoning", "messages": messages},
        },
    )
    equal(len(answers), 5)
    for number in range(3):
        content = answers[f"schema-{number}"]["choices"][0]["message"]["content"]
        equal(set(json.loads(content)), {"sky", "windy"})
    choice = answers["tool"]["choices"][0]
    equal(choice["finish_reason"], "tool_calls")
    arguments = choice["message"]["tool_calls"][0]["function"]["arguments"]
    equal(json.loads(arguments), {"sky": "clear", "windy": True})
    message = answers["reasoning"]["choices"][0]["message"]
    equal(message["reasoning_content"], "The user wants a number. It is seven.")


@case("a batch of Responses by files: a tool, reasoning")
def responses() -> None:
    tool = {"type": "function", **TOOL}
    answers = run_batch(
        "/v1/responses",
        {
            "tool": {"model": "scripted-tools", "input": "Weather?", "tools": [tool]},
            "reasoning": {"model": "scripted-reasoning", "input": "Weather?"},
        },
    )
    equal([item["type"] for item in answers["tool"]["output"]], ["function_call"])
    equal([item["type"] for item in answers["reasoning"]["output"]], ["reasoning", "message"])


run()
