"""The lines of a batch's input: bytes as lines, and a line as a job. No I/O.

A line is a request of OpenAI's batch format, a prompt as JSON, or in a text file the prompt itself:

    {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": …}}
    {"custom_id": "a", "prompt": "Why do people queue?"}
    Why do people queue?

Errors name the line and the field, and never quote the value.

`InputLines` splits bytes into lines. Byte order marks at the beginning of any line (of joined
files) and the line ends of any system are accepted. A file that is no UTF-8 text is refused as a
whole, at its first line, with a remedy.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from darkq.errors import InvalidJob, InvalidLine
from darkq.openai.body import CHAT, RESPONSES, Asked, Endpoint, read_body, refuse, take_options
from darkq.openai.response import parse_repeated
from darkq.protocol.job import Job, Priority
from darkq.protocol.options import LENGTHS, Options

MAX_LINE_BYTES = 12 << 20
"""A prompt of the default limit fits, with images as data URLs."""
MAX_CUSTOM_ID_CHARS = 512
_BREAKS_OFF = "JSON is incomplete: each line must hold one whole object (jq -c . FILE)"
_ARRAY = "is a JSON array, or begins one: each line must hold one object (jq -c '.[]' FILE)"
_ENDPOINTS: Mapping[str, Endpoint] = {
    CHAT: CHAT,
    RESPONSES: RESPONSES,
    CHAT.removeprefix("/v1"): CHAT,  # as in Azure's files
    RESPONSES.removeprefix("/v1"): RESPONSES,
}

BOM = b"\xef\xbb\xbf"
_NUL_REASON = "holds NUL bytes: the file is damaged or no UTF-8; save it as UTF-8"
_LOOKED_AT_BYTES = 1 << 10
_OTHERS = (
    (re.compile(rb"\xff\xfe\0\0|\0\0\xfe\xff"), "UTF-32", "save it as UTF-8"),
    (re.compile(rb"\xff\xfe|\xfe\xff"), "UTF-16", "save it as UTF-8"),
    (re.compile(rb"\x1f\x8b"), "packed with gzip", "unpack it first"),
    (re.compile(rb"\x28\xb5\x2f\xfd"), "packed with zstd", "unpack it first"),
    (re.compile(rb"\xfd7zXZ\0"), "packed with xz", "unpack it first"),
    (re.compile(rb"BZh[1-9]1AY&SY"), "packed with bzip2", "unpack it first"),
    (re.compile(rb"PK\x03\x04"), "a zip archive or a spreadsheet", "export it as JSON lines"),
)


class ForAllLines(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How to run the jobs of a batch. `model` and `options` are for lines without their own."""

    model: str | None = None
    upstream: str | None = None
    priority: Priority = "bulk"
    tries: int | None = None
    timeout_s: float | None = None
    options: Options | None = None
    ignore_unsupported: bool = False


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One line, parsed. `endpoint` determines the object that its answer is."""

    number: int
    custom_id: str
    job: Job
    endpoint: Endpoint = CHAT


def endpoint_of(url: object) -> Endpoint | None:
    """Return the endpoint of a URL, also without `/v1`; None for an unknown one."""
    return _ENDPOINTS.get(url) if isinstance(url, str) else None


def text_line(text: bytes, number: int, common: ForAllLines) -> Line:
    """Parse a line that is a prompt. `number` is from 1. Raises `InvalidLine`."""
    try:
        job = _job(Asked("prompt", text.decode(), None, {}, {}), common)
    except UnicodeDecodeError:
        raise InvalidLine(number, "prompt", "is not UTF-8") from None
    except InvalidJob as error:
        raise InvalidLine(number, error.field, error.reason) from None
    return Line(number=number, custom_id=_default_id(number), job=job)


def json_line(
    text: bytes,
    number: int,
    common: ForAllLines,
    *,
    needs_custom_id: bool = False,
    takes_numbers: bool = False,
) -> Line:
    """Parse a line of JSON. `number` is from 1. Raises `InvalidLine`.

    With `takes_numbers`, its `custom_id` may be a whole number.
    """
    fields = decode_object(text, number)
    given = fields.pop("custom_id", None)
    if given is None and needs_custom_id:
        raise InvalidLine(number, "custom_id", "is missing", "missing_required_parameter")
    if takes_numbers and isinstance(given, int) and not isinstance(given, bool):
        given = str(given)
    custom_id = _custom_id(given, number)
    if "body" not in fields and "prompt" in fields:
        return _plain(fields, number, custom_id, common)
    return _request(fields, number, custom_id, common)


def decode_object(text: bytes, number: int) -> dict[str, Any]:
    """Return the fields of a line of JSON. Raises `InvalidLine`."""
    try:
        fields = msgspec.json.decode(text)
    except UnicodeDecodeError:
        raise InvalidLine(number, "line", "is not UTF-8", "invalid_json_line") from None
    except msgspec.DecodeError as error:  # its text names an offset, and never quotes the input
        reason = str(error).replace("Input data was truncated", _BREAKS_OFF)
        reason = _ARRAY if text.lstrip().startswith(b"[") else reason
        raise InvalidLine(number, "line", reason, "invalid_json_line") from None
    except RecursionError:
        raise InvalidLine(number, "line", "is nested too deep", "invalid_json_line") from None
    if not isinstance(fields, dict):
        reason = _ARRAY if isinstance(fields, list) else "must be a JSON object"
        raise InvalidLine(number, "line", reason, "invalid_json_line")
    return fields


def _custom_id(value: object, number: int) -> str:
    if value is None:
        return _default_id(number)
    if not isinstance(value, str) or not 0 < len(value) <= MAX_CUSTOM_ID_CHARS:
        reason = f"must be a string of 1 to {MAX_CUSTOM_ID_CHARS} characters"
        raise InvalidLine(number, "custom_id", reason)
    return value


def _default_id(number: int) -> str:
    return f"line-{number}"


def _plain(fields: dict[str, Any], number: int, custom_id: str, common: ForAllLines) -> Line:
    prompt, model = fields.pop("prompt"), fields.pop("model", None)
    try:
        options = take_options(fields)
        for name in fields:
            refuse(name)
        job = _job(Asked("prompt", prompt, model, options, {}), common)
    except InvalidJob as error:
        raise InvalidLine(number, error.field, error.reason, custom_id=custom_id) from None
    return Line(number=number, custom_id=custom_id, job=job)


def _request(fields: dict[str, Any], number: int, custom_id: str, common: ForAllLines) -> Line:
    if fields.pop("method", "POST") != "POST":
        raise InvalidLine(number, "method", "must be POST", "invalid_method")
    endpoint = endpoint_of(fields.pop("url", CHAT))
    if endpoint is None:
        raise InvalidLine(number, "url", f"must be {CHAT} or {RESPONSES}", "invalid_url")
    body = fields.pop("body", None)
    if not isinstance(body, dict):
        reason = "must be an object" if body is not None else "is missing, and so is prompt"
        raise InvalidLine(number, "body", reason)
    try:
        for name in fields:
            refuse(name)
    except InvalidJob as error:
        raise InvalidLine(number, error.field, error.reason) from None
    try:
        job = _job(read_body(body, endpoint), common)
        if endpoint == RESPONSES:
            repeated = parse_repeated(body)
            job = msgspec.structs.replace(repeated, background=False).beside(job)
            # The answer repeats the tools and the like. Without these no request is kept.
            job = msgspec.structs.replace(job, keeps_request=repeated.repeats_parameters)
    except InvalidJob as error:
        field = f"body.{error.field}"
        raise InvalidLine(number, field, error.reason, custom_id=custom_id) from None
    return Line(number=number, custom_id=custom_id, job=job, endpoint=endpoint)


def _job(asked: Asked, common: ForAllLines) -> Job:
    """Return the job. Raises `InvalidJob`."""
    options = asked.options
    if common.options is not None:
        given = common.options.given()
        if LENGTHS & options.keys():  # both names at once would contradict each other
            given = {name: value for name, value in given.items() if name not in LENGTHS}
        options = {**given, **options}
    return asked.job(
        options=options,
        model=common.model if asked.model is None else asked.model,
        upstream=common.upstream,
        priority=common.priority,
        tries=common.tries,
        timeout_s=common.timeout_s,
        ignore_unsupported=common.ignore_unsupported,
    )


class Text(NamedTuple):
    """A line that is not blank, without its line end. `number` counts all lines, from 1."""

    number: int
    text: bytes


class InputLines:
    """Splits one input into lines. Keeps at most one line, of a bounded length."""

    def __init__(self) -> None:
        self._number = 0
        self._parts: list[bytes] = []  # of the line that has not ended
        self._bytes = 0
        self._refused = False

    def feed(self, data: bytes) -> Iterator[Text | InvalidLine]:
        """Yield the lines that end in this piece, or an error instead of an invalid line."""
        *ends, rest = data.split(b"\n")
        for end in ends:
            self._keep(end)
            yield from self._line()
        self._keep(rest)

    def end(self) -> Iterator[Text | InvalidLine]:
        """Yield the last line, if it has no line end."""
        if self._bytes:
            yield from self._line()

    def _keep(self, part: bytes) -> None:
        self._bytes += len(part)
        if self._bytes <= MAX_LINE_BYTES:
            self._parts.append(part)

    def _line(self) -> Iterator[Text | InvalidLine]:
        text, size = b"".join(self._parts), self._bytes
        self._parts.clear()
        self._bytes = 0
        self._number += 1
        if self._refused:
            return
        if self._number == 1 and (reason := find_other_format(text)):
            self._refused = True
            yield self._wrong(reason)
        elif size > MAX_LINE_BYTES:
            yield self._wrong(f"is longer than {MAX_LINE_BYTES:,} bytes")
        elif b"\0" in text:
            yield self._wrong(_NUL_REASON)
        else:
            while text.startswith(BOM):
                text = text.removeprefix(BOM)
            if text.strip(b" \t\r"):
                yield Text(self._number, text.rstrip(b"\r"))

    def _wrong(self, reason: str) -> InvalidLine:
        return InvalidLine(self._number, "line", reason, "invalid_json_line")


def find_other_format(first_line: bytes) -> str:
    """Return the format of a file that is no UTF-8 text, with a remedy; "" if it may be one."""
    for pattern, kind, remedy in _OTHERS:
        if pattern.match(first_line):
            return f"the file is {kind}: {remedy}"
    head = first_line[:_LOOKED_AT_BYTES]
    nuls = [n for n, byte in enumerate(head) if byte == 0]
    # Western letters in UTF-16: each second byte is 0, on one side.
    if 4 * len(nuls) > len(head) > 1 and len({n % 2 for n in nuls}) == 1:
        return "the file is UTF-16: save it as UTF-8"
    return ""
