"""A job's prompt: a string, or the messages of a chat as on OpenAI's wire. No I/O.

The parts of a message are kept as the caller gave them, because an upstream receives them
unchanged. Only what every upstream needs is checked: roles, text, and sizes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any, Literal, TypeAlias

import msgspec

from darkq.errors import InvalidJob
from darkq.protocol.plain import check_json, to_plain
from darkq.protocol.validation import NOT_ALLOWED, explain_error

Role: TypeAlias = Literal["system", "developer", "user", "assistant", "tool"]

MAX_PROMPT_BYTES = 64 << 20
"""The highest value of `DARKQ_MAX_PROMPT_BYTES`."""
MAX_MESSAGES = 10_000
"""The limit of messages, and of their parts in all: empty ones take memory too."""
MAX_DEPTH = 64

REASONING_FIELDS = ("reasoning_content", "reasoning_details", "reasoning", "thinking_blocks")


class Message(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """One message of a chat.

    `content` is a string, None, or a list of parts: objects with a `type`, such as
    `{"type": "text", "text": …}` and `{"type": "image_url", "image_url": {"url": …}}`. An
    assistant's message may have `tool_calls`, a `refusal` and reasoning instead of content. A
    message of the role `tool` answers the call `tool_call_id`.
    """

    role: Role
    content: str | tuple[dict[str, Any], ...] | None = None
    name: str | None = None
    tool_call_id: str | None = None
    tool_calls: tuple[dict[str, Any], ...] = ()
    function_call: dict[str, Any] | None = None
    refusal: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    reasoning_details: tuple[dict[str, Any], ...] = ()
    thinking_blocks: tuple[dict[str, Any], ...] = ()

    @property
    def text(self) -> str:
        """The text of the content as one string."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.get("text") or "" for part in self.content or ())

    @property
    def beyond_text(self) -> str:
        """The path of the first field that a text could not replace; empty if there is none.

        A name and the reasoning of earlier answers can be left out.
        """
        for name in ("tool_call_id", "tool_calls", "function_call", "refusal"):
            if getattr(self, name):
                return name
        if isinstance(self.content, tuple):
            for number, part in enumerate(self.content):
                if part.get("type") != "text":
                    return f"content[{number}].{part.get('type')}"
        return ""

    @property
    def is_plain(self) -> bool:
        """True if it is a role and text, and nothing else."""
        has_more = any(getattr(self, name) for name in self.__struct_fields__[2:])
        return self.content is not None and not has_more and not self.beyond_text

    def fields(self) -> dict[str, Any]:
        """Return the message as on OpenAI's wire: fields that are not set are absent."""
        given = msgspec.structs.asdict(self)
        return {
            name: value
            for name, value in given.items()
            if name in ("role", "content") or value not in (None, ())
        }

    def __repr__(self) -> str:
        return f"Message(role={self.role!r})"


Prompt: TypeAlias = str | Iterable[Message | Mapping[str, Any]]


def add_system(prompt: Prompt, system: str | None) -> Prompt:
    """Return a prompt after a system message, if there is one."""
    if system is None:
        return prompt
    asked = [Message("user", prompt)] if isinstance(prompt, str) else prompt
    return [Message("system", system), *asked]


def measure(prompt: str | tuple[Message, ...]) -> int:
    """Return the size of a prompt in UTF-8: of its texts, and of all else as JSON.

    Raises `AttributeError`, `TypeError` or `ValueError` for a prompt that is not validated.
    """
    if isinstance(prompt, str):
        return len(prompt.encode())
    return sum(
        len(message.text.encode())
        if message.is_plain
        else len(msgspec.json.encode(message.fields())) - len('{"role":"","content":}')
        for message in prompt
    )


def check_prompt(prompt: Prompt) -> str | tuple[Message, ...]:
    """Return the prompt as plain data: not blank, valid UTF-8, of bounded size.

    Raises `InvalidJob`, which names the message.
    """
    checked: str | tuple[Message, ...]
    if isinstance(prompt, str):
        checked = str(to_plain(prompt))
        is_blank = not checked.strip()
    elif isinstance(prompt, Mapping) or not isinstance(prompt, Iterable):
        reason = f"must be a string or a list of messages, not {type(prompt).__name__}"
        raise InvalidJob("prompt", reason)
    else:
        messages = islice(prompt, MAX_MESSAGES + 1)
        checked = tuple(_check_message(number, message) for number, message in enumerate(messages))
        parts = sum(len(m.content) for m in checked if isinstance(m.content, tuple))
        if max(len(checked), parts) > MAX_MESSAGES:
            raise InvalidJob("prompt", f"has more than {MAX_MESSAGES:,} messages or parts")
        is_blank = not any(m.text.strip() or m.beyond_text for m in checked)
    if is_blank:
        raise InvalidJob("prompt", "is empty")
    try:
        size = measure(checked)
    except UnicodeEncodeError:
        raise InvalidJob("prompt", "has a lone surrogate, which is not valid in UTF-8") from None
    if size > MAX_PROMPT_BYTES:
        raise InvalidJob("prompt", f"has {size:,} bytes; the limit is {MAX_PROMPT_BYTES:,}")
    return checked


def _check_message(index: int, message: object) -> Message:
    field = f"prompt[{index}]"
    try:
        checked = msgspec.convert(_to_builtins(message, field), Message)
        _check_parts(checked, field)
        measure((checked,))
    except msgspec.ValidationError as error:
        wrong = explain_error(error)
        reason = f"`{wrong.field}` {wrong.reason}" if wrong.field else wrong.reason
        if wrong.path == "role" and wrong.reason == NOT_ALLOWED:
            reason = "role must be system, developer, user, assistant or tool"
        raise InvalidJob(field, reason) from None
    except UnicodeEncodeError:
        raise InvalidJob(field, "has a lone surrogate, which is not valid in UTF-8") from None
    return checked


def _to_builtins(message: object, field: str) -> object:
    """Convert a message to built-in types: a `Message` made by hand is not validated."""
    if isinstance(message, Message):
        message = message.fields()
    if not isinstance(message, Mapping):
        return message
    fields = to_plain(message, MAX_DEPTH)
    # null means an absent field, as SDKs write whole messages with every field.
    fields = {name: value for name, value in fields.items() if value is not None}
    for name in fields.keys() - {"role", "content"}:
        check_json(f"{field}.{name}", fields[name], MAX_DEPTH)
    if isinstance(fields.get("content"), list):
        check_json(f"{field}.content", fields["content"], MAX_DEPTH)
    return fields


def _check_parts(message: Message, field: str) -> None:
    """Check that there is content, that each part has a type, and each text part a text."""
    if message.content is None and message.role != "assistant":
        raise InvalidJob(field, "`content` is missing")
    if message.role == "tool" and not message.tool_call_id:
        raise InvalidJob(field, "`tool_call_id` is missing")
    if isinstance(message.content, str):
        return
    for number, part in enumerate(message.content or ()):
        kind = part.get("type")
        if not isinstance(kind, str) or not kind.isidentifier():
            raise InvalidJob(field, f"`content[{number}].type` must be the name of a kind of part")
        if kind == "text" and not isinstance(part.get("text"), str):
            raise InvalidJob(field, f"`content[{number}].text` must be a string")
