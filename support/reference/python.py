"""The Python library: every public name, its signature and what it says of itself."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from functools import cached_property
from typing import Any, get_origin

import msgspec

import darkq
import darkq.sync
from support.reference.words import joined, paragraphs

GROUPS = {
    "Client and jobs": ("Client", "JobHandle", "Job", "Message", "Options", "Status", "Result"),
    "Events": (),
    "Batches": (
        "Batch", "Columns", "ForAllLines", "Line", "Finished", "LineEnded", "LineEvent",
        "BatchStatus",
    ),
    "Errors": (),
}  # fmt: skip
HANDED_OUT = {
    "JobHandle": "`Client.enqueue` and `Client.job` hand it out.",
    "Batch": "`Client.batch` hands it out.",
}
OTHERS = "For operators and servers"


def page() -> str:
    """All below the introduction."""
    return joined(_groups())


def _groups() -> Iterator[str]:
    left = dict.fromkeys(darkq.__all__)
    for title, names in {**GROUPS, OTHERS: ()}.items():
        yield f"## {title}"
        if title == "Errors":
            yield _tree()
        for name in names or [name for name in left if _belongs(title, name)]:
            left.pop(name)
            yield from _described(name, getattr(darkq, name))
    assert not left, left


def _belongs(title: str, name: str) -> bool:
    thing = getattr(darkq, name)
    is_error = isinstance(thing, type) and issubclass(thing, BaseException)
    is_event = getattr(thing, "__module__", "") == "darkq.event" or get_origin(thing) is not None
    is_event = is_event or name in ("AnyEvent", "Event")
    if title == "Errors":
        return is_error
    return is_event if title == "Events" else title == OTHERS


def _tree() -> str:
    """The tree at the beginning of `darkq.errors`, as it stands there."""
    said = inspect.getdoc(darkq.errors) or ""
    tree = said[said.index("DarkqError\n") :]
    return "    " + tree.replace("\n", "\n    ")


def _described(name: str, thing: Any) -> Iterator[str]:
    yield f"### `{name}`"
    if not callable(thing) or not hasattr(thing, "__module__") or get_origin(thing) is not None:
        yield _alias(thing)
        return
    if not isinstance(thing, type):
        yield _code(_signature(name, thing))
        yield paragraphs(inspect.getdoc(thing) or "")
        return
    yield HANDED_OUT.get(name) or _code(_constructor(name, thing))
    yield paragraphs(inspect.getdoc(thing) or "")
    if thing is not darkq.Settings:
        yield from _methods(thing)
    else:
        yield "Its fields: [settings.md](settings.md)."


def _alias(thing: Any) -> str:
    if isinstance(thing, tuple):
        return "A tuple of `Measure`."
    names = re.sub(r"[\w.]+\.(\w+)", r"\1", str(thing)).replace("typing.", "")
    return f"`{names}`"


def _constructor(name: str, thing: type) -> str:
    if issubclass(thing, msgspec.Struct):
        fields = msgspec.structs.fields(thing)
        hints = {n: t for base in reversed(thing.__mro__) for n, t in _hints(base).items()}
        parts = [f"{field.name}: {hints[field.name]}{_default(field)}" for field in fields]
        kinds = {parameter.kind for parameter in inspect.signature(thing).parameters.values()}
        keyword_only = "*, " if kinds == {inspect.Parameter.KEYWORD_ONLY} else ""
        return f"{name}({keyword_only}{', '.join(parts)})" if parts else f"{name}()"
    if issubclass(thing, tuple) and hasattr(thing, "_fields"):
        return f"{name}({', '.join(f'{n}: {t}' for n, t in _hints(thing).items())})"
    if thing is darkq.Settings or "__init__" not in thing.__dict__:
        return f"{name}(…)"
    return _signature(name, thing.__init__, skip=1)


def _hints(thing: type) -> dict[str, str]:
    found = inspect.get_annotations(thing)
    return {name: str(getattr(hint, "__forward_arg__", hint)) for name, hint in found.items()}


def _default(field: Any) -> str:
    if field.default is not msgspec.NODEFAULT:
        return f" = {field.default!r}"
    if field.default_factory is not msgspec.NODEFAULT:
        return f" = {field.default_factory()!r}"
    return ""


def _methods(thing: type) -> Iterator[str]:
    for name, member in thing.__dict__.items():
        if name.startswith("_"):
            continue
        kind = "property" if isinstance(member, property | cached_property) else ""
        function = member.func if isinstance(member, cached_property) else member
        function = member.fget if isinstance(member, property) else function
        function = getattr(function, "__func__", function)
        if not inspect.isfunction(function):
            continue
        said = paragraphs(inspect.getdoc(function) or "")
        skip = 0 if isinstance(member, staticmethod) else 1
        shown = name if kind else _signature(name, function, skip=skip)
        if kind:
            shown += f": {inspect.signature(function).return_annotation}"
        yield f"{_code(shown)}\n\n{said}"


def _signature(name: str, function: Any, *, skip: int = 0) -> str:
    signature = inspect.signature(function)
    parameters = list(signature.parameters.values())[skip:]
    if parameters and "JobArguments" in str(parameters[-1].annotation):  # spelt out, for readers
        created = inspect.signature(darkq.Job.create).parameters.values()
        spelt_out = [each for each in created if each.kind is inspect.Parameter.KEYWORD_ONLY]
        parameters = [*parameters[:-1], *spelt_out]
    kept = signature.replace(parameters=parameters)
    text = re.sub(r"""(: |-> )(['"])(.*?)\2(?=[,)]| =|$)""", r"\1\3", str(kept))
    if name == function.__name__ or "->" not in text:
        prefix = "await " if inspect.iscoroutinefunction(function) else ""
        return f"{prefix}{name}{text}"
    return f"{name}{text.split(' -> ')[0]}"


def _code(text: str) -> str:
    """Python that nobody runs: it is indented, not fenced."""
    if len(text) <= 92:
        return f"    {text}"
    head, _, rest = text.partition("(")
    inner, _, tail = rest.rpartition(")")
    parts = _split(inner)
    return "\n".join([f"    {head}(", *(f"        {part}," for part in parts), f"    ){tail}"])


def _split(text: str) -> list[str]:
    """The parameters: what commas part that are in no brackets."""
    parts, depth, start = [], 0, 0
    for place, char in enumerate(text):
        depth += (char in "([{") - (char in ")]}")
        if char == "," and depth == 0:
            parts.append(text[start:place].strip())
            start = place + 1
    return [*parts, text[start:].strip()]
