"""Responses, chats and their events against the types of Open Responses and of OpenAI's SDK."""

from __future__ import annotations

from typing import Any

import openresponses_types
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

_SDK_EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)

EVENTS = {
    "response.created": "ResponseCreatedStreamingEvent",
    "response.queued": "ResponseQueuedStreamingEvent",
    "response.in_progress": "ResponseInProgressStreamingEvent",
    "response.output_item.added": "ResponseOutputItemAddedStreamingEvent",
    "response.content_part.added": "ResponseContentPartAddedStreamingEvent",
    "response.output_text.delta": "ResponseOutputTextDeltaStreamingEvent",
    "response.output_text.annotation.added": "ResponseOutputTextAnnotationAddedStreamingEvent",
    "response.output_text.done": "ResponseOutputTextDoneStreamingEvent",
    "response.refusal.delta": "ResponseRefusalDeltaStreamingEvent",
    "response.refusal.done": "ResponseRefusalDoneStreamingEvent",
    "response.reasoning_text.delta": "ResponseReasoningDeltaStreamingEvent",
    "response.reasoning_text.done": "ResponseReasoningDoneStreamingEvent",
    "response.function_call_arguments.delta": "ResponseFunctionCallArgumentsDeltaStreamingEvent",
    "response.function_call_arguments.done": "ResponseFunctionCallArgumentsDoneStreamingEvent",
    "response.content_part.done": "ResponseContentPartDoneStreamingEvent",
    "response.output_item.done": "ResponseOutputItemDoneStreamingEvent",
    "response.completed": "ResponseCompletedStreamingEvent",
    "response.incomplete": "ResponseIncompleteStreamingEvent",
    "response.failed": "ResponseFailedStreamingEvent",
}


def check_response(response: dict[str, Any]) -> None:
    """Raise pydantic's `ValidationError`."""
    Response.model_validate(_with_known_code(response))
    text = response["text"]
    if "schema" in text["format"]:  # the package requires null here, OpenAI's SDK the schema
        text = {**text, "format": {**text["format"], "schema": None}}
    openresponses_types.types.ResponseResource.model_validate({**response, "text": text})


def check_event(event: dict[str, Any]) -> None:
    """Raise pydantic's `ValidationError`."""
    known = event
    if "response" in event:
        known = {**event, "response": _with_known_code(event["response"])}
    assert _SDK_EVENT.validate_python(known).type == event["type"]
    model = getattr(openresponses_types.types, EVENTS[event["type"]])
    if "response" in event:
        check_response(event["response"])
        text = {"format": {"type": "text"}}
        event = {**event, "response": {**event["response"], "text": text}}
    # The specification's name of these events is older than OpenAI's.
    name = event["type"].replace("reasoning_text", "reasoning")
    model.model_validate({**event, "type": name})


def _with_known_code(response: dict[str, Any]) -> dict[str, Any]:
    """Return a Response without a code of darkq's own: the SDK lists OpenAI's, and takes any."""
    error = response["error"]
    return response if error is None else {**response, "error": {**error, "code": "server_error"}}


def check_completion(completion: dict[str, Any]) -> ChatCompletion:
    """Return a completion as the SDK has it. Raises pydantic's `ValidationError`."""
    return ChatCompletion.model_validate(completion)


def check_chunk(chunk: dict[str, Any]) -> ChatCompletionChunk:
    """Return a chunk as the SDK has it. Raises pydantic's `ValidationError`."""
    return ChatCompletionChunk.model_validate(chunk)
