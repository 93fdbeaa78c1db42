"""LangChain's client, over chat and over Responses."""

from __future__ import annotations

from typing import Any, Literal

from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, SecretStr
from reporting import API_KEY, BASE_URL, REAL, case, equal, run


class Weather(BaseModel):
    """The weather in a city."""

    city: str
    sky: Literal["clear", "cloudy"]


class Trip(BaseModel):
    """A trip."""

    city: str
    days: int


@tool
def get_weather(city: str, days: int) -> str:
    """Return the weather of the next days."""
    return f"rain in {city} for {days} days"


def chat(model: str, **options: Any) -> ChatOpenAI:
    return ChatOpenAI(
        model=model, base_url=BASE_URL, api_key=SecretStr(API_KEY), max_retries=0, **options
    )


def call_a_tool(model: ChatOpenAI) -> None:
    """Call, run the tool, send its result, and check the answer."""
    messages: list[Any] = [HumanMessage("What is the weather in Paris?")]
    bound = model.bind_tools([get_weather])
    answer = bound.invoke(messages)
    (call,) = answer.tool_calls
    equal((call["name"], call["args"]), ("get_weather", {"city": "Paris", "days": 7}))
    result = get_weather.invoke(call)
    assert isinstance(result, ToolMessage)
    answer = bound.invoke([*messages, answer, result])
    equal(answer.text, "The tool said: rain in Paris for 7 days")


@case("`with_structured_output`: `json_schema`, real model")
def json_schema() -> None:
    model = chat(REAL, max_completion_tokens=100).with_structured_output(Weather)
    assert isinstance(model.invoke("What is the weather in Paris?"), Weather)


@case("`with_structured_output`: `function_calling`")
def function_calling() -> None:
    model = chat("scripted-tools").with_structured_output(Trip, method="function_calling")
    equal(model.invoke("A week in Paris"), Trip(city="Paris", days=7))


@case("`with_structured_output`: `json_mode`")
def json_mode() -> None:
    model = chat("scripted-text").with_structured_output(Trip, method="json_mode")
    equal(model.invoke("A week in Paris, as JSON"), Trip(city="Paris", days=7))


@case("`bind_tools`, the tool's result, and the answer")
def tools() -> None:
    call_a_tool(chat("scripted-tools"))


@case("`bind_tools`, streamed")
def tools_streamed() -> None:
    bound = chat("scripted-parallel").bind_tools([get_weather])
    whole: Any = None
    for chunk in bound.stream("What is the weather in Paris?"):
        whole = chunk if whole is None else whole + chunk
    (call,) = whole.tool_calls
    equal(call["args"], {"city": "Paris", "days": 7})


@case("the same over Responses (`use_responses_api`)")
def responses() -> None:
    model = chat(REAL, use_responses_api=True, max_completion_tokens=100)
    found = model.with_structured_output(Weather).invoke("What is the weather in Paris?")
    assert isinstance(found, Weather)
    call_a_tool(chat("scripted-tools", use_responses_api=True))
    bound = chat("scripted-tools", use_responses_api=True).bind_tools([get_weather])
    whole: Any = None
    for chunk in bound.stream("What is the weather in Paris?"):
        whole = chunk if whole is None else whole + chunk
    equal(whole.tool_calls[0]["args"], {"city": "Paris", "days": 7})


@case("reasoning over Responses, given back in the next turn")
def reasoning() -> None:
    model = chat("scripted-reasoning", use_responses_api=True, reasoning={"effort": "low"})
    messages: list[Any] = [HumanMessage("A number?")]
    answer = model.invoke(messages)
    equal(answer.text, "Seven.")
    answer = model.invoke([*messages, answer, HumanMessage("Again?")])
    equal(answer.text, "Seven.")


run()
