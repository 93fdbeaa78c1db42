"""What a producer asks for: a prompt and how to run it.

A `Job` is plain frozen data, valid by construction: `Job.create` is the edge where bad input
is refused, before anything is stored. Its `repr` shows neither prompt nor proxy nor metadata,
so that no log line can.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any, Literal, TypeAlias, TypedDict
from urllib.parse import urlsplit

import msgspec
from msgspec.structs import asdict

from darkq.errors import InvalidJob
from darkq.protocol.options import Options, check_options
from darkq.protocol.plain import to_plain
from darkq.protocol.validation import NOT_ALLOWED, Problem, explain_error

Priority: TypeAlias = Literal["interactive", "bulk"]
Role: TypeAlias = Literal["system", "developer", "user", "assistant"]

MAX_IDEMPOTENCY_KEY_CHARS = 255
MAX_PROMPT_BYTES = 1 << 20
MAX_MESSAGES = 10_000
"""Of messages, and of their parts: the empty ones take room too."""
MAX_METADATA_BYTES = 16 << 10
MAX_METADATA_PAIRS = 256
"""A pair takes memory of its own: thousands of tiny ones would take far more than their bytes."""
RESERVED_METADATA = "_openai"
"""Metadata whose name begins so is written by darkq alone: a gateway notes there what a Response
repeats of its request. If clients could write it, they could forge a Response."""
MAX_NAME_CHARS = 200
MAX_TRIES = 100
MAX_TIMEOUT_S = 24 * 3600.0


class TextPart(msgspec.Struct, frozen=True, tag_field="type", tag="text"):
    """One part of a message's content, as on OpenAI's wire."""

    text: str

    def __repr__(self) -> str:
        return "TextPart(…)"


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One message of a chat."""

    role: Role
    content: str | tuple[TextPart, ...]

    @property
    def text(self) -> str:
        """The content as one string."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content)

    def __repr__(self) -> str:
        return f"Message(role={self.role!r})"


Prompt: TypeAlias = str | Iterable[Message | Mapping[str, Any]]

NOT_PLAIN = "holds something else than plain data: make it with Job.create"


class JobArguments(TypedDict, total=False):
    """How a job is run: the keyword arguments of `Job.create` and `Client.enqueue`."""

    model: str | None
    upstream: str | None
    priority: Priority
    timeout_s: float | None
    tries: int | None
    metadata: Mapping[str, str] | None
    proxy: str | None
    tenant: str | None
    options: Options | Mapping[str, Any] | None


class Job(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A prompt and how to run it. None means: as the worker is configured.

    `tenant` names whose job it is, where several share a Redis; who asks after it decides by that.
    """

    model: str | None = None
    upstream: str | None = None
    priority: Priority = "interactive"
    timeout_s: float | None = None
    tries: int | None = None
    metadata: dict[str, str] = {}
    proxy: str | None = None
    tenant: str | None = None
    options: Options | None = None
    # The last, so that the head of a record says all but the prompt (`record.job_head`).
    prompt: str | tuple[Message, ...]

    @property
    def prompt_bytes(self) -> int:
        """The size of the prompt's text, in UTF-8. Raises `InvalidJob` for what is no prompt."""
        try:
            if isinstance(self.prompt, str):
                return len(self.prompt.encode())
            return sum(len(message.text.encode()) for message in self.prompt)
        except (AttributeError, TypeError, UnicodeEncodeError):
            raise InvalidJob("job", NOT_PLAIN) from None

    def __repr__(self) -> str:
        return f"Job(model={self.model!r}, upstream={self.upstream!r}, priority={self.priority!r})"

    @classmethod
    def create(
        cls,
        prompt: Prompt,
        *,
        model: str | None = None,
        upstream: str | None = None,
        priority: Priority = "interactive",
        timeout_s: float | None = None,
        tries: int | None = None,
        metadata: Mapping[str, str] | None = None,
        proxy: str | None = None,
        tenant: str | None = None,
        options: Options | Mapping[str, Any] | None = None,
    ) -> Job:
        """Check every field and return the job.

        Strings and numbers may be of subclasses, and become Python's own. Raises `InvalidJob`,
        which names the field.
        """
        priority = to_plain(priority)
        if priority not in ("interactive", "bulk"):
            raise InvalidJob("priority", "must be 'interactive' or 'bulk'")
        return cls(
            prompt=_prompt(prompt),
            model=check_name("model", model),
            upstream=check_name("upstream", upstream),
            priority=priority,
            timeout_s=_timeout_s(timeout_s),
            tries=_tries(tries),
            metadata={} if metadata is None else check_metadata(metadata),
            proxy=_proxy(proxy),
            tenant=check_name("tenant", tenant),
            options=check_options(options),
        )

    def with_metadata(self, **more: str) -> Job:
        """Return the job with more metadata, which may have a reserved name.

        For darkq's own notes, not for what a client sends. Raises `InvalidJob` when it is too much.
        """
        return msgspec.structs.replace(self, metadata=_bounded({**self.metadata, **more}))

    def verify(self) -> None:
        """Check a job that was read from Redis, where anybody may have written it.

        Unlike `create` it takes what darkq itself notes in the metadata. Raises `InvalidJob`.
        """
        Job.create(**{**asdict(self), "metadata": None})
        _bounded(self.metadata)


def _prompt(prompt: Prompt) -> str | tuple[Message, ...]:
    """A string that is not blank, or at least one message; UTF-8 of bounded size."""
    check_options: str | tuple[Message, ...]
    texts: tuple[str, ...]
    if isinstance(prompt, str):
        text: str = to_plain(prompt)
        check_options, texts = text, (text,)
    elif isinstance(prompt, Mapping) or not isinstance(prompt, Iterable):
        raise InvalidJob("prompt", f"must be a string or a list of messages, not {_type(prompt)}")
    else:
        check_options = tuple(
            _message(n, m) for n, m in enumerate(islice(prompt, MAX_MESSAGES + 1))
        )
        texts = tuple(message.text for message in check_options)
        parts = sum(1 if isinstance(m.content, str) else len(m.content) for m in check_options)
        if max(len(check_options), parts) > MAX_MESSAGES:
            raise InvalidJob("prompt", f"has more than {MAX_MESSAGES:,} messages or parts")
    if not any(map(str.strip, texts)):
        raise InvalidJob("prompt", "is empty")
    size = sum(_utf8_bytes("prompt", text) for text in texts)
    if size > MAX_PROMPT_BYTES:
        raise InvalidJob("prompt", f"has {size:,} bytes; the limit is {MAX_PROMPT_BYTES:,}")
    return check_options


def _message(index: int, message: object) -> Message:
    field = f"prompt[{index}]"
    try:
        check_options = msgspec.convert(_builtins(message), Message)
        _utf8_bytes(field, check_options.text)
    except msgspec.ValidationError as error:
        raise InvalidJob(field, _of_message(explain_error(error))) from None
    return check_options


def _builtins(message: object) -> object:
    """Take a message apart: one made by hand may hold anything, and so may its parts."""
    if isinstance(message, Message):
        message = {"role": message.role, "content": message.content}
    fields = to_plain(message, 3)  # its fields, the list of its parts, the fields of a part
    if isinstance(fields, dict) and isinstance(parts := fields.get("content"), list):
        fields["content"] = [
            {"type": "text", "text": to_plain(part.text)} if isinstance(part, TextPart) else part
            for part in parts
        ]
    return fields


def _of_message(wrong: Problem) -> str:
    if wrong.path == "role" and wrong.reason == NOT_ALLOWED:
        return "role must be system, developer, user or assistant"
    reason = "must be text" if wrong.field.endswith("].type") else wrong.reason
    return f"`{wrong.field}` {reason}" if wrong.field else reason


def _utf8_bytes(field: str, text: str) -> int:
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        raise InvalidJob(field, "has a lone surrogate, which is no text in UTF-8") from None


def check_name(field: str, name: str | None) -> str | None:
    """Return what something may be called. Raises `InvalidJob`."""
    if name is None:
        return None
    if not isinstance(name, str):
        raise InvalidJob(field, f"must be a string, not {_type(name)}")
    if not name or len(name) > MAX_NAME_CHARS or not name.isprintable():
        raise InvalidJob(field, f"must be 1 to {MAX_NAME_CHARS} printable characters")
    return str(to_plain(name))


def _timeout_s(timeout_s: float | None) -> float | None:
    timeout_s = to_plain(timeout_s)
    if timeout_s is None:
        return None
    if isinstance(timeout_s, bool) or not isinstance(timeout_s, int | float):
        raise InvalidJob("timeout_s", f"must be a number of seconds, not {_type(timeout_s)}")
    if not 0 < timeout_s <= MAX_TIMEOUT_S:  # not a number is not, either
        raise InvalidJob("timeout_s", f"must be above 0 and at most {MAX_TIMEOUT_S:g}")
    return float(timeout_s)


def _tries(tries: int | None) -> int | None:
    tries = to_plain(tries)
    if tries is None:
        return None
    if isinstance(tries, bool) or not isinstance(tries, int) or not 1 <= tries <= MAX_TRIES:
        raise InvalidJob("tries", f"must be a whole number from 1 to {MAX_TRIES}")
    return tries


def check_idempotency_key(key: str) -> str:
    """Return an idempotency key as plain text. Raises `InvalidJob` for one that can be none."""
    key = to_plain(key)
    if not isinstance(key, str) or not 0 < len(key) <= MAX_IDEMPOTENCY_KEY_CHARS:
        reason = f"must be a string of 1 to {MAX_IDEMPOTENCY_KEY_CHARS} characters"
        raise InvalidJob("idempotency_key", reason)
    try:
        key.encode()
    except UnicodeEncodeError:
        raise InvalidJob("idempotency_key", "has a lone surrogate") from None
    return key


def check_metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return a client's notes for a job or a batch. Raises `InvalidJob`."""
    check_options = _bounded(metadata)
    if len(check_options) > MAX_METADATA_PAIRS:
        reason = f"has {len(check_options):,} entries; the limit is {MAX_METADATA_PAIRS:,}"
        raise InvalidJob("metadata", reason)
    if any(key.startswith(RESERVED_METADATA) for key in check_options):
        raise InvalidJob("metadata", f"names that begin with {RESERVED_METADATA} are reserved")
    return check_options


def _bounded(metadata: Mapping[str, str]) -> dict[str, str]:
    if not isinstance(metadata, Mapping) or not all(
        isinstance(key, str) and isinstance(value, str) for key, value in metadata.items()
    ):
        raise InvalidJob("metadata", "must map strings to strings")
    check_options: dict[str, str] = to_plain(metadata, 1)
    size = sum(
        _utf8_bytes("metadata", key) + _utf8_bytes("metadata", value)
        for key, value in check_options.items()
    )
    if size > MAX_METADATA_BYTES:
        raise InvalidJob("metadata", f"has {size:,} bytes; the limit is {MAX_METADATA_BYTES:,}")
    return check_options


def _proxy(proxy: str | None) -> str | None:
    proxy = to_plain(proxy)
    if proxy is None:
        return None
    reason = "must be a URL like http://[user:password@]host:port"
    if not isinstance(proxy, str) or not proxy.isprintable():
        raise InvalidJob("proxy", reason)
    try:
        parts = urlsplit(proxy)
        usable = parts.scheme == "http" and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise InvalidJob("proxy", reason)
    return proxy


def _type(value: object) -> str:
    return type(value).__name__
