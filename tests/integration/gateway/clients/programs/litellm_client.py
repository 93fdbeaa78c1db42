"""litellm's client."""

from __future__ import annotations

import json
from typing import Any, Literal

import litellm
from pydantic import BaseModel
from reporting import API_KEY, BASE_URL, REAL, case, equal, run

COMMON: Any = {"api_base": BASE_URL, "api_key": API_KEY, "max_retries": 0}
ASK: Any = [{"role": "user", "content": "What is the weather in Paris?"}]
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city", "days"],
}
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": PARAMETERS}}


class Weather(BaseModel):
    """The weather in a city."""

    city: str
    sky: Literal["clear", "cloudy"]


@case("`completion` with a Pydantic class, real model")
def structured() -> None:
    answer: Any = litellm.completion(
        f"openai/{REAL}", messages=ASK, response_format=Weather, max_tokens=100, **COMMON
    )
    Weather.model_validate_json(answer.choices[0].message.content)


@case("a tool, its result, and the answer")
def tool() -> None:
    messages = list(ASK)
    model = "openai/scripted-tools"
    answer: Any = litellm.completion(model, messages=messages, tools=[TOOL], **COMMON)
    message = answer.choices[0].message
    (call,) = message.tool_calls
    equal(json.loads(call.function.arguments), {"city": "Paris", "days": 7})
    messages += [message, {"role": "tool", "tool_call_id": call.id, "content": "rain"}]
    answer = litellm.completion(model, messages=messages, tools=[TOOL], **COMMON)
    equal(answer.choices[0].message.content, "The tool said: rain")


@case("a tool, streamed, by `stream_chunk_builder`")
def tool_streamed() -> None:
    stream: Any = litellm.completion(
        "openai/scripted-parallel", messages=ASK, tools=[TOOL], stream=True, **COMMON
    )
    answer: Any = litellm.stream_chunk_builder(list(stream), messages=ASK)
    (call,) = answer.choices[0].message.tool_calls
    equal(json.loads(call.function.arguments), {"city": "Paris", "days": 7})


@case("reasoning, whole and streamed")
def reasoning() -> None:
    model = "openai/scripted-reasoning"
    answer: Any = litellm.completion(model, messages=ASK, **COMMON)
    equal(answer.choices[0].message.reasoning_content, "The user wants a number. It is seven.")
    stream: Any = litellm.completion(model, messages=ASK, stream=True, **COMMON)
    deltas = [chunk.choices[0].delta for chunk in stream]
    thought = "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas)
    equal(thought, "The user wants a number. It is seven.")


@case("`responses` with a tool")
def responses() -> None:
    tool: Any = {"type": "function", "name": "get_weather", "parameters": PARAMETERS}
    answer: Any = litellm.responses(
        input="Weather?", model="openai/scripted-tools", tools=[tool], **COMMON
    )
    (call,) = [item for item in answer.output if item.type == "function_call"]
    equal(json.loads(call.arguments), {"city": "Paris", "days": 7})


run()
