"""instructor."""

from __future__ import annotations

from typing import Any, Literal

import instructor
from openai import OpenAI
from pydantic import BaseModel
from reporting import REAL, case, equal, run

ASK: Any = [{"role": "user", "content": "What is the weather in Paris?"}]


class Weather(BaseModel):
    """The weather in a city."""

    city: str
    sky: Literal["clear", "cloudy"]


class Trip(BaseModel):
    """A trip."""

    city: str
    days: int


def client(mode: instructor.Mode) -> Any:
    return instructor.from_openai(OpenAI(max_retries=0), mode=mode)


@case("`TOOLS`, whole and partial")
def tools() -> None:
    trip = client(instructor.Mode.TOOLS).create(
        model="scripted-tools", messages=ASK, response_model=Trip, max_retries=0
    )
    equal(trip.model_dump(), {"city": "Paris", "days": 7})
    partial = client(instructor.Mode.TOOLS).create_partial(
        model="scripted-tools", messages=ASK, response_model=Trip
    )
    last = list(partial)[-1]
    equal((last.city, last.days), ("Paris", 7))


@case("`JSON_SCHEMA`, real model")
def json_schema() -> None:
    weather = client(instructor.Mode.JSON_SCHEMA).create(
        model=REAL, messages=ASK, response_model=Weather, max_tokens=100, max_retries=0
    )
    assert isinstance(weather, Weather)


@case("`JSON`")
def json_object() -> None:
    trip = client(instructor.Mode.JSON).create(
        model="scripted-text", messages=ASK, response_model=Trip, max_retries=0
    )
    equal(trip.model_dump(), {"city": "Paris", "days": 7})


@case("`RESPONSES_TOOLS`")
def responses_tools() -> None:
    trip = client(instructor.Mode.RESPONSES_TOOLS).create(
        model="scripted-tools", messages=ASK, response_model=Trip, max_retries=0
    )
    equal(trip.model_dump(), {"city": "Paris", "days": 7})


run()
