"""pydantic-ai, over chat and over Responses."""

from __future__ import annotations

from typing import Any, Literal

from openai import AsyncOpenAI
from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput, PromptedOutput
from pydantic_ai.messages import ThinkingPart
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider
from reporting import REAL, case, equal, run


class Weather(BaseModel):
    """The weather in a city."""

    city: str
    sky: Literal["clear", "cloudy"]


class Trip(BaseModel):
    """A trip."""

    city: str
    days: int


def models(name: str) -> list[Any]:
    # A client of its own: its connections belong to the event loop of one case.
    provider = OpenAIProvider(openai_client=AsyncOpenAI(max_retries=0))
    return [
        OpenAIChatModel(name, provider=provider),
        OpenAIResponsesModel(name, provider=provider),
    ]


def get_weather(city: str, days: int) -> str:
    """Return the weather of the next days."""
    return f"rain in {city} for {days} days"


@case("`output_type` as a tool")
async def output_tool() -> None:
    for model in models("scripted-tools"):
        result = await Agent(model, output_type=Trip).run("A week in Paris")
        equal(result.output, Trip(city="Paris", days=7))


@case("`NativeOutput`, real model")
async def native_output() -> None:
    for model in models(REAL):
        agent = Agent(model, output_type=NativeOutput(Weather), model_settings={"max_tokens": 100})
        result = await agent.run("What is the weather in Paris?")
        assert isinstance(result.output, Weather), result


@case("`PromptedOutput`")
async def prompted_output() -> None:
    for model in models("scripted-text"):
        result = await Agent(model, output_type=PromptedOutput(Trip)).run("A week in Paris")
        equal(result.output, Trip(city="Paris", days=7))


@case("a tool, its result, and the answer, whole and streamed")
async def tools() -> None:
    for model in models("scripted-tools"):
        agent = Agent(model, tools=[get_weather])
        result = await agent.run("What is the weather in Paris?")
        equal(result.output, "The tool said: rain in Paris for 7 days")
        async with agent.run_stream("What is the weather in Paris?") as stream:
            equal(await stream.get_output(), "The tool said: rain in Paris for 7 days")


@case("a tool, then `output_type` as a tool")
async def tool_then_output() -> None:
    for model in models("scripted-tools"):
        agent = Agent(model, tools=[get_weather], output_type=Trip)
        result = await agent.run("A week in Paris")
        equal(result.output, Trip(city="Paris", days=7))


@case("thinking, and `message_history`")
async def thinking() -> None:
    for model in models("scripted-reasoning"):
        agent = Agent(model)
        first = await agent.run("A number?")
        parts = [p for p in first.new_messages()[-1].parts if isinstance(p, ThinkingPart)]
        assert parts, first.new_messages()
        second = await agent.run("Again?", message_history=first.all_messages())
        equal(second.output, "Seven.")


run()
