"""OpenAI's Python SDK: Responses."""

from __future__ import annotations

import json
from typing import Any, Literal

from openai import OpenAI
from pydantic import BaseModel
from reporting import REAL, case, equal, param_of_refusal, run

client = OpenAI(max_retries=0)


class Weather(BaseModel):
    """The weather in a city."""

    city: str
    sky: Literal["clear", "cloudy"]


class GetWeather(BaseModel):
    city: str
    days: int


TOOL: Any = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather of the next days.",
    "parameters": {**GetWeather.model_json_schema(), "additionalProperties": False},
    "strict": True,
}
ASK = "What is the weather in Paris?"


@case("`responses.parse` with a Pydantic class, real model")
def parse() -> None:
    answer = client.responses.parse(
        model=REAL, input=ASK, text_format=Weather, max_output_tokens=100
    )
    assert isinstance(answer.output_parsed, Weather), answer


@case("`responses.stream` with a Pydantic class, real model")
def stream_parse() -> None:
    with client.responses.stream(
        model=REAL, input=ASK, text_format=Weather, max_output_tokens=100
    ) as stream:
        kinds = {event.type for event in stream}
        answer = stream.get_final_response()
    assert isinstance(answer.output_parsed, Weather), answer
    assert "response.output_text.delta" in kinds, kinds


@case("a tool, its result, and the answer")
def tool_whole() -> None:
    answer = client.responses.create(model="scripted-tools", input=ASK, tools=[TOOL])
    (call,) = [item for item in answer.output if item.type == "function_call"]
    equal(json.loads(call.arguments), {"city": "Paris", "days": 7})
    following: Any = [{"role": "user", "content": ASK}, *answer.output]
    following.append({"type": "function_call_output", "call_id": call.call_id, "output": "rain"})
    answer = client.responses.create(model="scripted-tools", input=following, tools=[TOOL])
    equal(answer.output_text, "The tool said: rain")


@case("`responses.stream` with tools, in parallel")
def tools_streamed() -> None:
    arguments: dict[str, str] = {}
    other = {**TOOL, "name": "get_tides"}
    with client.responses.stream(
        model="scripted-parallel", input=ASK, tools=[TOOL, other]
    ) as stream:
        for event in stream:
            if event.type == "response.function_call_arguments.delta":
                arguments[event.item_id] = arguments.get(event.item_id, "") + event.delta
        answer = stream.get_final_response()
    calls = [item for item in answer.output if item.type == "function_call"]
    equal([call.name for call in calls], ["get_weather", "get_tides"])
    equal([arguments[call.id or ""] for call in calls], [call.arguments for call in calls])


@case("a tool in the background, left and resumed")
def background_tool() -> None:
    stream = client.responses.create(
        model="scripted-tools", input=ASK, tools=[TOOL], background=True, stream=True
    )
    first: Any = next(iter(stream))
    stream.close()
    rest: list[Any] = list(
        client.responses.retrieve(
            first.response.id, stream=True, starting_after=first.sequence_number
        )
    )
    (done,) = [each for each in rest if each.type == "response.function_call_arguments.done"]
    equal(json.loads(done.arguments), {"city": "Paris", "days": 7})
    equal(rest[-1].type, "response.completed")


@case("`previous_response_id`: a second turn, and a tool's result")
def previous_response() -> None:
    first = client.responses.create(model="scripted-text", input="One")
    second = client.responses.create(
        model="scripted-text", input="Two", previous_response_id=first.id
    )
    equal(second.output_text, "3 messages, the last one: Two")
    answer = client.responses.create(model="scripted-tools", input=ASK, tools=[TOOL])
    (call,) = [item for item in answer.output if item.type == "function_call"]
    result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}
    answer = client.responses.create(
        model="scripted-tools", input=[result], tools=[TOOL], previous_response_id=answer.id
    )
    equal(answer.output_text, "The tool said: rain")


@case("reasoning, whole and streamed, and in the usage")
def reasoning() -> None:
    answer = client.responses.create(
        model="scripted-reasoning", input=ASK, reasoning={"effort": "low"}
    )
    equal([item.type for item in answer.output], ["reasoning", "message"])
    thought: Any = answer.output[0]
    equal(thought.content[0].text, "The user wants a number. It is seven.")
    equal(answer.output_text, "Seven.")
    assert answer.usage
    equal(answer.usage.output_tokens_details.reasoning_tokens, 2)
    events: list[Any] = list(
        client.responses.create(model="scripted-reasoning", input=ASK, stream=True)
    )
    pieces = [each.delta for each in events if each.type == "response.reasoning_text.delta"]
    equal("".join(pieces), "The user wants a number. It is seven.")


@case("reasoning given back as input")
def reasoning_back() -> None:
    answer = client.responses.create(model="scripted-reasoning", input=ASK)
    following: Any = [{"role": "user", "content": ASK}, *answer.output]
    following.append({"role": "user", "content": "Again"})
    answer = client.responses.create(model="scripted-reasoning", input=following)
    equal(answer.output_text, "Seven.")


@case("a refusal")
def refusal() -> None:
    answer = client.responses.parse(model="scripted-refusal", input=ASK, text_format=Weather)
    message: Any = answer.output[0]
    equal(message.content[0].type, "refusal")
    equal(message.content[0].refusal, "I cannot help with that.")


@case("an image in the input")
def image() -> None:
    answer = client.responses.create(
        model="scripted-text",
        input=[
            {
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "What is this? "},
                    {
                        "type": "input_image",
                        "detail": "auto",
                        "image_url": "data:image/png;base64,iVBORw0KGgo=",
                    },
                ],
            }
        ],
    )
    equal(answer.output_text, "1 messages, the last one: What is this? [image_url]")


@case("refused by name: tools that OpenAI runs itself")
def refused() -> None:
    tools: Any = [{"type": "web_search_preview"}]
    param = param_of_refusal(
        lambda: client.responses.create(model="scripted-text", input=ASK, tools=tools)
    )
    assert param.startswith("tools"), param


run()
