"""OpenAI's Python SDK: chat."""

from __future__ import annotations

import json
from typing import Any, Literal

import openai
from openai import AsyncOpenAI, OpenAI
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


TOOL = openai.pydantic_function_tool(GetWeather, name="get_weather")
ASK: Any = [{"role": "user", "content": "What is the weather in Paris?"}]


@case("`chat.completions.parse` with a Pydantic class, real model")
def parse() -> None:
    answer = client.chat.completions.parse(
        model=REAL, messages=ASK, response_format=Weather, max_completion_tokens=100
    )
    weather = answer.choices[0].message.parsed
    assert isinstance(weather, Weather), answer
    assert weather.sky in ("clear", "cloudy")


@case("`chat.completions.stream` with a Pydantic class, real model")
def stream_parse() -> None:
    kinds = set()
    with client.chat.completions.stream(
        model=REAL, messages=ASK, response_format=Weather, max_completion_tokens=100
    ) as stream:
        for event in stream:
            kinds.add(event.type)
        answer = stream.get_final_completion()
    assert isinstance(answer.choices[0].message.parsed, Weather), answer
    assert {"content.delta", "content.done"} <= kinds, kinds


@case("`response_format` `json_object`")
def json_object() -> None:
    answer = client.chat.completions.create(
        model="scripted-text", messages=ASK, response_format={"type": "json_object"}
    )
    equal(json.loads(answer.choices[0].message.content or ""), {"city": "Paris", "days": 7})


@case("a tool, its result, and the answer")
def tool_whole() -> None:
    messages = list(ASK)
    answer = client.chat.completions.create(model="scripted-tools", messages=messages, tools=[TOOL])
    choice = answer.choices[0]
    equal(choice.finish_reason, "tool_calls")
    assert choice.message.tool_calls
    call: Any = choice.message.tool_calls[0]
    equal(json.loads(call.function.arguments), {"city": "Paris", "days": 7})
    messages += [
        choice.message,
        {"role": "tool", "tool_call_id": call.id, "content": "rain"},
    ]
    answer = client.chat.completions.create(model="scripted-tools", messages=messages, tools=[TOOL])
    equal(answer.choices[0].message.content, "The tool said: rain")
    equal(answer.choices[0].finish_reason, "stop")


@case("`chat.completions.parse` with a tool's class")
def tool_parsed() -> None:
    answer = client.chat.completions.parse(model="scripted-tools", messages=ASK, tools=[TOOL])
    assert answer.choices[0].message.tool_calls
    found = answer.choices[0].message.tool_calls[0].function.parsed_arguments
    equal(found, GetWeather(city="Paris", days=7))


@case("`chat.completions.stream` with tools, in parallel")
def tools_streamed() -> None:
    other = openai.pydantic_function_tool(GetWeather, name="get_tides")
    with client.chat.completions.stream(
        model="scripted-parallel", messages=ASK, tools=[TOOL, other]
    ) as stream:
        done = [
            (event.index, event.name, event.parsed_arguments)
            for event in stream
            if event.type == "tool_calls.function.arguments.done"
        ]
        answer = stream.get_final_completion()
    weather = GetWeather(city="Paris", days=7)
    equal(done, [(0, "get_weather", weather), (1, "get_tides", weather)])
    equal(answer.choices[0].finish_reason, "tool_calls")
    equal(answer.choices[0].message.content or None, None)


@case("`tool_choice` by name")
def tool_by_name() -> None:
    other = openai.pydantic_function_tool(GetWeather, name="get_tides")
    answer = client.chat.completions.create(
        model="scripted-tools",
        messages=ASK,
        tools=[TOOL, other],
        tool_choice={"type": "function", "function": {"name": "get_tides"}},
        parallel_tool_calls=False,
    )
    calls: Any = answer.choices[0].message.tool_calls
    equal([call.function.name for call in calls], ["get_tides"])


@case("reasoning, whole and streamed, and in the usage")
def reasoning() -> None:
    answer = client.chat.completions.create(
        model="scripted-reasoning", messages=ASK, reasoning_effort="low"
    )
    message: Any = answer.choices[0].message
    equal(message.reasoning_content, "The user wants a number. It is seven.")
    equal(message.content, "Seven.")
    assert answer.usage
    assert answer.usage.completion_tokens_details
    equal(answer.usage.completion_tokens_details.reasoning_tokens, 2)
    stream = client.chat.completions.create(model="scripted-reasoning", messages=ASK, stream=True)
    deltas: list[Any] = [chunk.choices[0].delta for chunk in stream if chunk.choices]
    thought = "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas)
    equal(thought, "The user wants a number. It is seven.")
    equal("".join(delta.content or "" for delta in deltas), "Seven.")


@case("a refusal, whole and streamed")
def refusal() -> None:
    answer = client.chat.completions.parse(
        model="scripted-refusal", messages=ASK, response_format=Weather
    )
    equal(answer.choices[0].message.refusal, "I cannot help with that.")
    equal(answer.choices[0].message.parsed, None)
    with client.chat.completions.stream(model="scripted-refusal", messages=ASK) as stream:
        final = stream.get_final_completion()
    equal(final.choices[0].message.refusal, "I cannot help with that.")


@case("an image in a message")
def image() -> None:
    url = "data:image/png;base64,iVBORw0KGgo="
    answer = client.chat.completions.create(
        model="scripted-text",
        messages=[
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is this? "},
                    {"type": "image_url", "image_url": {"url": url}},
                ],
            }
        ],
    )
    equal(
        answer.choices[0].message.content,
        "1 messages, the last one: What is this? [image_url]",
    )


@case("`extra_body` for the upstream")
def extra_body() -> None:
    client.chat.completions.create(
        model="scripted-text",
        messages=ASK,
        extra_body={"top_k": 3, "chat_template_kwargs": {"enable_thinking": False}},
    )


@case("`AsyncOpenAI`, streamed, `include_usage`")
async def asynchronous() -> None:
    async with AsyncOpenAI(max_retries=0) as asynchronous_client:
        stream = await asynchronous_client.chat.completions.create(
            model="scripted-text",
            messages=ASK,
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = [chunk async for chunk in stream]
    usage = chunks[-1].usage
    assert usage
    assert usage.prompt_tokens_details
    equal((usage.total_tokens, usage.prompt_tokens_details.cached_tokens), (18, 3))


@case("refused by name: `n=2`, audio")
def refused() -> None:
    audio = {"modalities": ["audio"], "audio": {"voice": "ash", "format": "mp3"}}
    for names, parameters in ((("n",), {"n": 2}), (("modalities", "audio"), audio)):
        message: Any = {"model": "scripted-text", "messages": ASK, **parameters}
        assert param_of_refusal(lambda m=message: client.chat.completions.create(**m)) in names


run()
