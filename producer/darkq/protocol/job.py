"""A job: a prompt and how to run it.

A `Job` is plain frozen data. `Job.create` validates all fields, before anything is stored. The
`repr` contains neither prompt nor proxy nor metadata, so that they cannot get into a log record.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias, TypedDict
from urllib.parse import urlsplit

import msgspec
from msgspec.structs import asdict

from darkq.errors import InvalidJob
from darkq.protocol.options import Options, check_options
from darkq.protocol.parameters import check_parameters
from darkq.protocol.plain import to_plain
from darkq.protocol.prompt import Message, Prompt, check_prompt, measure

Priority: TypeAlias = Literal["interactive", "bulk"]

MAX_IDEMPOTENCY_KEY_CHARS = 255
MAX_METADATA_BYTES = 16 << 10
MAX_METADATA_PAIRS = 256
"""Each pair has an overhead: thousands of tiny pairs take far more memory than their bytes."""
RESERVED_METADATA = "_openai"
"""Clients cannot set metadata whose name has this prefix. A gateway stores there the request fields
that a Response repeats, and a client that could write it could forge a Response."""
MAX_NAME_CHARS = 200
MAX_TRIES = 100
MAX_TIMEOUT_S = 24 * 3600.0


NOT_PLAIN = "contains values that are not plain data: make it with Job.create"


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
    parameters: Mapping[str, Any] | None
    keeps_request: bool
    ignore_unsupported: bool


class Job(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A prompt and how to run it. None means: as the worker is configured.

    `parameters` are fields of a chat request that the upstream receives unchanged, such as `tools`
    and `response_format`. With `keeps_request` the prompt and the parameters are kept with the
    result; without, they are deleted when the job has ended. With `ignore_unsupported`, options and
    parameters that the upstream does not support are left out, and named in the result. `tenant` is
    the owner of the job, where several share a Redis. Callers check access by it.
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
    keeps_request: bool = False
    ignore_unsupported: bool = False
    # The last fields may be large: the head of a record then contains all others.
    prompt: str | tuple[Message, ...]
    parameters: dict[str, Any] = {}

    @property
    def prompt_bytes(self) -> int:
        """The size of the prompt in UTF-8. Raises `InvalidJob` for an invalid prompt."""
        try:
            return measure(self.prompt)
        except (AttributeError, TypeError, ValueError):
            raise InvalidJob("job", NOT_PLAIN) from None

    @property
    def question(self) -> str:
        """The text of the prompt; of several messages the user's last one."""
        if isinstance(self.prompt, str):
            return self.prompt
        asked = [message.text for message in self.prompt if message.role == "user"]
        return (asked or [message.text for message in self.prompt] or [""])[-1]

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
        parameters: Mapping[str, Any] | None = None,
        keeps_request: bool = False,
        ignore_unsupported: bool = False,
    ) -> Job:
        """Validate every field and return the job.

        Options may be among the parameters. Subclasses of strings and numbers are converted to the
        built-in types. Raises `InvalidJob`, which names the field.
        """
        options, parameters = check_parameters(options, parameters)
        priority = to_plain(priority)
        if priority not in ("interactive", "bulk"):
            raise InvalidJob("priority", "must be 'interactive' or 'bulk'")
        return cls(
            prompt=check_prompt(prompt),
            model=check_name("model", model),
            upstream=check_name("upstream", upstream),
            priority=priority,
            timeout_s=_check_timeout_s(timeout_s),
            tries=None if tries is None else check_whole("tries", tries, MAX_TRIES),
            metadata={} if metadata is None else check_metadata(metadata),
            proxy=_check_proxy(proxy),
            tenant=check_name("tenant", tenant),
            options=check_options(options),
            parameters=parameters,
            keeps_request=bool(keeps_request),
            ignore_unsupported=bool(ignore_unsupported),
        )

    def with_metadata(self, **more: str) -> Job:
        """Return the job with more metadata, whose names may be reserved.

        Only for darkq's own metadata. Raises `InvalidJob` if all of it exceeds the limit.
        """
        return msgspec.structs.replace(self, metadata=_check_size({**self.metadata, **more}))

    def verify(self) -> None:
        """Validate a job read from Redis, which another program may have written.

        Unlike `create` it accepts reserved names in the metadata. Raises `InvalidJob`.
        """
        Job.create(**{**asdict(self), "metadata": None})
        _check_size(self.metadata)


def check_name(field: str, name: str | None) -> str | None:
    """Return the name as a plain string. Raises `InvalidJob`."""
    if name is None:
        return None
    if not isinstance(name, str):
        raise InvalidJob(field, f"must be a string, not {type(name).__name__}")
    if not name or len(name) > MAX_NAME_CHARS or not name.isprintable():
        raise InvalidJob(field, f"must be 1 to {MAX_NAME_CHARS} printable characters")
    return str(to_plain(name))


def _check_timeout_s(timeout_s: float | None) -> float | None:
    timeout_s = to_plain(timeout_s)
    if timeout_s is None:
        return None
    if isinstance(timeout_s, bool) or not isinstance(timeout_s, int | float):
        name = type(timeout_s).__name__
        raise InvalidJob("timeout_s", f"must be a number of seconds, not {name}")
    if not 0 < timeout_s <= MAX_TIMEOUT_S:  # rejects NaN too
        raise InvalidJob("timeout_s", f"must be above 0 and at most {MAX_TIMEOUT_S:g}")
    return float(timeout_s)


def check_whole(field: str, number: int, most: int) -> int:
    """Return a whole number from 1 to `most` as a plain one. Raises `InvalidJob`."""
    plain = to_plain(number)
    if isinstance(plain, bool) or not isinstance(plain, int) or not 1 <= plain <= most:
        raise InvalidJob(field, f"must be a whole number from 1 to {most:,}")
    return plain


def check_idempotency_key(key: str) -> str:
    """Return an idempotency key as a plain string. Raises `InvalidJob`."""
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
    """Return a client's metadata for a job or a batch. Raises `InvalidJob`."""
    checked = _check_size(metadata)
    if len(checked) > MAX_METADATA_PAIRS:
        reason = f"has {len(checked):,} entries; the limit is {MAX_METADATA_PAIRS:,}"
        raise InvalidJob("metadata", reason)
    if any(key.startswith(RESERVED_METADATA) for key in checked):
        raise InvalidJob("metadata", f"names that begin with {RESERVED_METADATA} are reserved")
    return checked


def _check_size(metadata: Mapping[str, str]) -> dict[str, str]:
    if not isinstance(metadata, Mapping) or not all(
        isinstance(key, str) and isinstance(value, str) for key, value in metadata.items()
    ):
        raise InvalidJob("metadata", "must map strings to strings")
    checked: dict[str, str] = to_plain(metadata, 1)
    try:
        size = sum(len(f"{key}{value}".encode()) for key, value in checked.items())
    except UnicodeEncodeError:
        reason = "has a lone surrogate, which is not valid in UTF-8"
        raise InvalidJob("metadata", reason) from None
    if size > MAX_METADATA_BYTES:
        raise InvalidJob("metadata", f"has {size:,} bytes; the limit is {MAX_METADATA_BYTES:,}")
    return checked


def _check_proxy(proxy: str | None) -> str | None:
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
