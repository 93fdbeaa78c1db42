"""OpenAI's agents, over chat and over Responses."""

from __future__ import annotations

from typing import Any, Literal

from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from openai import AsyncOpenAI
from pydantic import BaseModel
from reporting import REAL, case, equal, run

set_tracing_disabled(True)


class Weather(BaseModel):
    """The weather in a city."""

    city: str
    sky: Literal["clear", "cloudy"]


@function_tool
def get_weather(city: str, days: int) -> str:
    """Return the weather of the next days."""
    return f"rain in {city} for {days} days"


def models(name: str) -> list[Any]:
    client = AsyncOpenAI(max_retries=0)
    return [OpenAIChatCompletionsModel(name, client), OpenAIResponsesModel(name, client)]


@case("a tool, whole and streamed")
async def tool() -> None:
    for model in models("scripted-tools"):
        agent = Agent(name="weather", model=model, tools=[get_weather])
        result = await Runner.run(agent, "What is the weather in Paris?")
        equal(result.final_output, "The tool said: rain in Paris for 7 days")
        streamed = Runner.run_streamed(agent, "What is the weather in Paris?")
        kinds = {event.type async for event in streamed.stream_events()}
        equal(streamed.final_output, "The tool said: rain in Paris for 7 days")
        assert "raw_response_event" in kinds


@case("a handoff")
async def handoff() -> None:
    for model in models("scripted-tools"):
        spanish = Agent(name="Spanish", model=model, handoff_description="Speaks Spanish.")
        triage = Agent(name="Triage", model=model, handoffs=[spanish])
        result = await Runner.run(triage, "Hola")
        equal(result.last_agent.name, "Spanish")
        assert result.final_output.startswith("The tool said: "), result.final_output


@case("`output_type`, real model")
async def output_type() -> None:
    for model in models(REAL):
        agent = Agent(
            name="weather",
            model=model,
            output_type=Weather,
            model_settings=ModelSettings(max_tokens=100),
        )
        result = await Runner.run(agent, "What is the weather in Paris?")
        assert isinstance(result.final_output, Weather)


@case("a second turn by `to_input_list`, after a tool and after reasoning")
async def second_turn() -> None:
    for model in models("scripted-tools"):
        agent = Agent(name="weather", model=model, tools=[get_weather])
        first = await Runner.run(agent, "What is the weather in Paris?")
        again: Any = [*first.to_input_list(), {"role": "user", "content": "Again?"}]
        second = await Runner.run(agent, again)
        equal(second.final_output, "The tool said: rain in Paris for 7 days")
    for model in models("scripted-reasoning"):
        agent = Agent(name="numbers", model=model)
        first = await Runner.run(agent, "A number?")
        again = [*first.to_input_list(), {"role": "user", "content": "Again?"}]
        equal((await Runner.run(agent, again)).final_output, "Seven.")


@case("`previous_response_id`")
async def previous_response() -> None:
    agent = Agent(name="numbers", model=models("scripted-text")[1])
    first = await Runner.run(agent, "One")
    second = await Runner.run(agent, "Two", previous_response_id=first.last_response_id)
    equal(second.final_output, "3 messages, the last one: Two")


run()
