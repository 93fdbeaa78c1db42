"""HTTP: the native API from its OpenAPI document, everything else from the gateway's routes."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from darkq_gateway.app import ROUTES
from darkq_gateway.native.openapi import make_document
from support.reference.words import joined, table

OTHERS = """## OpenAI's wire, the board, and what is for machines

What OpenAI's SDK sends and gets is described by OpenAI; what darkq honours of it, in
[openai.md](../openai.md)."""


def page() -> str:
    """All below the introduction."""
    document = make_document()
    return joined([*_paths(document), *_others(), *_schemas(document)])


def routes() -> dict[tuple[str, str], str]:
    """All that is served: method and path, and what the handler says of itself."""
    found = {}
    for route in ROUTES:
        said = inspect.getdoc(route.handler) or ""
        found[route.method, route.path] = " ".join(said.split("\n\n")[0].split())
    return found


def _paths(document: dict[str, Any]) -> Iterator[str]:
    operations = [
        (f"{method.upper()} {path}", {"parameters": [], **operation}, methods.get("parameters", []))
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if method != "parameters"
    ]
    common = set.intersection(*(
        {(code, answer["description"]) for code, answer in operation["responses"].items()}
        for name, operation, _ in operations
        if name.split()[1].startswith("/jobs")
    ))  # fmt: skip
    yield table(["status", ""], sorted(common))
    yield "## Jobs"
    for name, operation, shared in operations:
        yield f"### `{name}`"
        yield f"{operation['summary']}."
        yield operation.get("description", "")
        if body := operation.get("requestBody"):
            yield f"Body: {_type(body['content']['application/json']['schema'])}."
        yield table(["", "in", ""], map(_parameter, [*shared, *operation["parameters"]]))
        answers = [
            [code, answer["description"], _content(answer)]
            for code, answer in sorted(operation["responses"].items())
            if (code, answer["description"]) not in common
        ]
        yield table(["status", "", "body"], answers)


def _parameter(parameter: dict[str, Any]) -> list[str]:
    return [f"`{parameter['name']}`", parameter["in"], _type(parameter["schema"])]


def _content(answer: dict[str, Any]) -> str:
    content: dict[str, Any] = answer.get("content", {})
    return ", ".join(_type(of["schema"]) if of else f"`{kind}`" for kind, of in content.items())


def _others() -> Iterator[str]:
    documented = {
        (method.upper(), path)
        for path, methods in make_document()["paths"].items()
        for method in methods
    }
    rows = [
        [f"`{method} {path}`", said]
        for (method, path), said in routes().items()
        if (method, path) not in documented and not _is_page(path)
    ]
    rows.append(
        [
            "`GET /`, `GET /board/…`",
            "The board: a page, its files and its stream; not for programs.",
        ]
    )
    yield OTHERS
    yield table(["", ""], rows)


def _is_page(path: str) -> bool:
    return path == "/" or path.startswith("/board/")


def _schemas(document: dict[str, Any]) -> Iterator[str]:
    yield "## Objects"
    for name, schema in document["components"]["schemas"].items():
        if "properties" not in schema:
            continue
        yield f"### {name}"
        yield " ".join(schema.get("description", "").split())
        required = schema.get("required", [])
        yield table(
            ["field", "", ""],
            [
                [f"`{field}`", _type(kind), "needed" if field in required else _default(kind)]
                for field, kind in schema["properties"].items()
            ],
        )


def _default(kind: dict[str, Any]) -> str:
    default = kind.get("default")
    return f"default `{default}`" if default not in (None, "", {}, [], ()) else ""


def _type(schema: dict[str, Any]) -> str:
    if "prefixItems" in schema:
        return f"list of {' and '.join(map(_type, schema['prefixItems']))}"
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        return f"[{name}](#{name.lower()})"
    if "enum" in schema:
        return ", ".join(f"`{word}`" for word in schema["enum"])
    if "anyOf" in schema:
        return " or ".join(_type(kind) for kind in schema["anyOf"])
    if "prefixItems" in schema:
        return f"[{', '.join(_type(kind) for kind in schema['prefixItems'])}]"
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items') or {})}"
    kind = schema.get("type", "anything")
    bounds = [
        f"{word} {schema[name]}"
        for name, word in (("minimum", "from"), ("maximum", "to"), ("maxLength", "up to"))
        if name in schema
    ]
    return " ".join([" or ".join(kind) if isinstance(kind, list) else kind, *bounds])
