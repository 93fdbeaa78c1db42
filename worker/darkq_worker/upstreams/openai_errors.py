"""Errors of services with OpenAI's API. No I/O.

Their shapes differ. An error may be the body of a refusal, the body of a 200, or a frame inside a
stream. All three are read here, by meaning:

    {"error": {"message", "code", "type"}}      OpenAI, and most
    {"error": "…"}  [{"error": …}]              Ollama; Gemini
    {"object": "error", "message", "code"}      vLLM of old
    {"text", "error_code"}                      FastChat
    {"code", "message"}  {"success": false, …}  DashScope, Mistral; Zhipu and relays
    {"detail": "…" or [{"loc", "msg"}, …]}      FastAPI
    {"base_resp": {"status_code", "status_msg"}}    MiniMax

A `message` may contain such an object again, as JSON.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from darkq_worker.upstreams.base import Overloaded, RateLimited, Rejected, UpstreamError
from darkq_worker.upstreams.http_errors import MAX_RETRY_AFTER_S, clean, find_kind

_MAX_DEPTH = 4
_MAX_FAULTS = 20
_INNER: Final = ("error", "errors", "error_msg", "detail", "base_resp", "data", "response", "body")
_WORDS: Final = (
    *("message", "msg", "error_message", "error_msg", "errmsg", "errorMessage", "status_msg"),
    *("error_description", "description", "reason", "title", "text", "content"),
)
_CODES: Final = ("code", "error_code", "status_code", "errcode", "type", "status")
_CODES_BESIDE_WORDS: Final = (("code", "message"), ("code", "msg"), ("status_code", "message"))
_FINE_CODES: Final = frozenset(("", "0", "200", "ok", "success", "none"))
_CODE_KINDS: tuple[tuple[type[UpstreamError], re.Pattern[str]], ...] = (
    (RateLimited, re.compile(r"ratelimit|toomanyrequests|throttl|quota|resourceexhausted")),
    (
        Rejected,
        re.compile(
            r"context(length|size|window)|(invalid|bad|malformed)(request|parameter|argument)|"
            r"authentication|unauthorized|permission|forbidden|notfound|contentfilter|"
            r"contentpolicy|validation|unprocessable|unsupported|arrearage|datainspection"
        ),
    ),
    (
        Overloaded,
        re.compile(
            r"servererror|internalerror|systemresource|overload|unavailable|timeout|capacity"
        ),
    ),
)
_UNKNOWN_MODEL = re.compile(
    r"not a valid model|(invalid|unknown|unsupported) model|"
    r"model.{0,120}(not found|not exist|does not exist|is not available)",
    re.IGNORECASE | re.DOTALL,
)
_TRY_AGAIN_IN = re.compile(r"(?:try again|retry) (?:in|after) ((?:[\d.]+\s*(?:ms|[smh]\w*)\s*)+)")
_DURATION = re.compile(r"([\d.]+)\s*(ms|[smh])")
_UNIT_S: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_WAITS: Final = {
    "retry_after": 1.0,
    "retry-after": 1.0,
    "retry_after_seconds": 1.0,
    "retry_after_ms": 0.001,
    "retry-after-ms": 0.001,
    "retryDelay": 1.0,
}


class Reported(msgspec.Struct, frozen=True):
    """A reported error. `wait_s` is the delay that the service asks for, if any."""

    detail: str = ""
    codes: tuple[str | int, ...] = ()
    wait_s: float | None = None

    @property
    def kind(self) -> type[UpstreamError]:
        """The class of error by the first known code, otherwise by the text."""
        for code in self.codes:
            if (kind := _find_code_kind(code)) is not None:
                return kind
        return find_kind(" ".join((*map(str, self.codes), self.detail)))

    @property
    def status(self) -> int:
        """The HTTP status among the codes, or 0."""
        texts = map(str, self.codes)
        return next((int(text) for text in texts if text.isdecimal() and len(text) == 3), 0)

    def is_about_model(self, status: int) -> bool:
        """Return True if a refusal with this status means that the model does not exist."""
        if any(str(code).lower() in ("model_not_found", "invalid_model") for code in self.codes):
            return True
        if status == 404:
            return "model" in self.detail.lower()
        return status in (400, 422) and bool(_UNKNOWN_MODEL.search(self.detail))


def find_error(frame: dict[str, Any], *, beside_choices: bool = False) -> Reported | None:
    """Return the error in a JSON object of a stream, or None.

    Beside `choices`, only fields that always mean an error are used.
    """
    if frame.get("error") or frame.get("error_code"):
        return read_error(frame)
    if beside_choices:
        return None
    get = frame.get
    if (
        "error" in (get("object"), get("type"))
        or any(get(name) for name in ("errors", "detail", "error_msg", "error_message"))
        or any(get(name) is False for name in ("success", "ok"))
        or any(words in frame and _is_bad(get(code)) for code, words in _CODES_BESIDE_WORDS)
        or any(_is_bad_status(get(name)) for name in ("status", "status_code"))
    ):
        return read_error(frame)
    base = get("base_resp")
    if isinstance(base, dict) and _is_bad(base.get("status_code")):
        return read_error(base)
    inner = (get(name) for name in ("data", "response", "body", "result"))
    found = (each for each in inner if isinstance(each, dict) and each.get("error"))
    return next(map(read_error, found), None)


def read_error(error: object) -> Reported:
    """Read a value that is known to be an error: an object, a list of them, or a string."""
    if isinstance(error, str):
        inner = _parsed(error)
        return Reported(clean(error)) if inner is None else read_error(inner)
    layers = list(_layers(error))
    detail = next((words for layer in layers if (words := _words(layer))), "")
    codes = (layer.get(name) for name in _CODES for layer in layers)
    known = tuple(code for code in codes if code and type(code) in (str, int))
    waits = (wait_s for layer in layers if (wait_s := _wait_in(layer)) is not None)
    wait_s = next(waits, None)
    return Reported(detail, known, _find_wait_in_text(detail) if wait_s is None else wait_s)


def refusal_detail(body: bytes) -> Reported:
    """Return the error in the body of a refusal, in any shape; plain text is its message."""
    text = body.decode(errors="replace").strip().removeprefix("data:").strip()
    value = _parsed(text)
    if value is not None:
        return read_error(value)
    for line in text.splitlines():  # an event stream, maybe after a line `event: error`
        if line.startswith("data:") and (value := _parsed(line[5:])) is not None:
            return read_error(value)
    return Reported() if text.startswith(("<", "{", "[")) else Reported(clean(text))


def hide_secret(detail: str, secret: str) -> str:
    """Return a message of a service, unless it quotes the API key."""
    return "(a message that quotes a key is left out)" if secret and secret in detail else detail


def _parsed(text: str) -> Any:
    text = text.strip()
    if not text.startswith(("{", "[")):
        return None
    try:
        return json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return None


def _layers(error: object, depth: int = 0) -> Iterator[dict[str, Any]]:
    """Yield the nested objects of an error, the innermost first."""
    if depth > _MAX_DEPTH:
        return
    if isinstance(error, str):
        error = _parsed(error)
    if isinstance(error, list):
        error = next((each for each in error if isinstance(each, dict)), None)
    if isinstance(error, dict):
        for name in (*_INNER, "message"):
            if not isinstance(error.get(name), list):  # `_words` reads lists of faults
                yield from _layers(error.get(name), depth + 1)
        yield error


def _words(error: dict[str, Any]) -> str:
    """Return the message of one object; of a list of faults, their locations and messages."""
    for name in ("detail", "errors"):
        if isinstance(faults := error.get(name), list):
            return "; ".join(filter(None, map(_fault, faults[:_MAX_FAULTS])))
    for name in (*_WORDS, "error", "detail", "errors"):
        value = error.get(name)
        if isinstance(value, str) and value.strip() and _parsed(value) is None:
            return clean(value)
    return ""


def _fault(fault: object) -> str:
    """Return one fault of a validation, without the input that it quotes."""
    if not isinstance(fault, dict):
        return clean(fault)
    words, place = _words({**fault, "detail": fault.get("detail")}), fault.get("loc")
    if isinstance(place, list):
        place = ".".join(str(step) for step in place if isinstance(step, str | int))
    return f"{clean(place)}: {words}" if isinstance(place, str) and place else words


def _is_bad(code: object) -> bool:
    if isinstance(code, bool) or not isinstance(code, str | int):
        return False
    return str(code).strip().lower() not in _FINE_CODES


def _is_bad_status(status: object) -> bool:
    if isinstance(status, str):
        return status.lower() in ("error", "failed", "failure")
    return isinstance(status, int) and 400 <= status < 600


def _find_code_kind(code: str | int) -> type[UpstreamError] | None:
    if isinstance(code, str) and code.strip().isdecimal() and len(code) < 10:
        code = int(code)
    if isinstance(code, str):
        plain = re.sub("[^a-z]", "", code[:100].lower())
        return next((kind for kind, pattern in _CODE_KINDS if pattern.search(plain)), None)
    if 40_000 <= code < 60_000:  # FastChat's: a status and two more digits
        code //= 100
    if code == 429:
        return RateLimited
    if code == 408 or 500 <= code < 600:
        return Overloaded
    return Rejected if 400 <= code < 500 else None


def _wait_in(error: dict[str, Any]) -> float | None:
    """Return the delay in a field of an object, in seconds."""
    for name, unit_s in _WAITS.items():
        if (wait_s := _seconds(error.get(name), unit_s)) is not None:
            return wait_s
    for detail in error["details"] if isinstance(error.get("details"), list) else ():
        if isinstance(detail, dict) and "retryDelay" in detail:  # Gemini's
            return _seconds(detail["retryDelay"], 1.0)
    metadata = error.get("metadata")
    headers = metadata.get("headers") if isinstance(metadata, dict) else None
    if isinstance(headers, dict):  # OpenRouter's: epoch milliseconds
        reset_s = _number(headers.get("X-RateLimit-Reset"))
        return None if reset_s is None else _bounded(reset_s / 1000 - time.time())
    return None


def _seconds(value: object, unit_s: float) -> float | None:
    if isinstance(value, str):
        value = value.removesuffix("s")
    number = _number(value)
    return None if number is None else _bounded(number * unit_s)


def _find_wait_in_text(words: str) -> float | None:
    """Return the seconds in "Please try again in 1m6.5s", a text of OpenAI and Groq."""
    found = _TRY_AGAIN_IN.search(words[:2000])
    if found is None:
        return None
    parts = _DURATION.findall(found[1])
    numbers = [(_number(number), _UNIT_S[unit]) for number, unit in parts]
    return _bounded(sum((number or 0.0) * unit_s for number, unit_s in numbers))


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _bounded(wait_s: float) -> float:
    return min(max(wait_s, 0.0), MAX_RETRY_AFTER_S)
