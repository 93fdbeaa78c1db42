"""Files that go with a prompt: images, and the JSON schema of the answer."""

from __future__ import annotations

import base64
import json
import mimetypes
from pathlib import Path
from typing import TYPE_CHECKING, Any

from darkq_cli.terminal.problems import wrong_usage

if TYPE_CHECKING:
    from darkq.protocol.prompt import Prompt


def add_images(prompt: Prompt, images: list[str] | None) -> Prompt:
    """Return a prompt with images: files, or URLs that the upstream fetches. Raises `Problem`."""
    if not images:
        return prompt
    parts = [{"type": "text", "text": prompt}, *map(_build_image, images)]
    return [{"role": "user", "content": parts}]


def _build_image(source: str) -> dict[str, Any]:
    url = source
    if not source.startswith(("http://", "https://", "data:")):
        kind = mimetypes.guess_type(source)[0] or ""
        if not kind.startswith("image/"):
            reason = f"--image: {source} has no ending of an image, such as .png or .jpg"
            raise wrong_usage(reason)
        url = f"data:{kind};base64,{base64.b64encode(_read(source, '--image')).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def read_schema(path: str) -> dict[str, Any]:
    """Return the `response_format` for a file with a JSON schema, or with such a format itself.

    Raises `Problem`.
    """
    from darkq.protocol.output import build_response_format

    try:
        schema = json.loads(_read(path, "--schema"))
    except ValueError as error:
        reason = f"--schema: {path} is not JSON: {error}"
        raise wrong_usage(reason) from None
    if not isinstance(schema, dict):
        raise wrong_usage(f"--schema: {path} is not a JSON object")
    if "json_schema" in schema:
        return schema
    return build_response_format(schema)


def _read(path: str, option: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        reason = f"{option}: {path} cannot be read: {error.strerror}"
        raise wrong_usage(reason) from None
