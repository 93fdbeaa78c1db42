"""The prompt and the options of one job: what `darkq run` and `darkq enqueue` share."""

from __future__ import annotations

import base64
import inspect
import json
import mimetypes
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from darkq_cli.terminal import messages
from darkq_cli.terminal import options as opt
from darkq_cli.terminal.problems import wrong_usage

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from darkq import Client, JobHandle
    from darkq.protocol.prompt import Prompt


@dataclass(frozen=True)
class JobOptions:
    """One job. Each field is an argument or an option of the commands; see `takes_job_options`."""

    prompt: Annotated[
        str, typer.Argument(metavar="PROMPT", help="The prompt; - reads standard input.")
    ]
    model: Annotated[
        str | None, typer.Option("--model", metavar="NAME", help="Default: the upstream's own.")
    ] = None
    upstream: opt.UpstreamOption = None
    system: opt.SystemOption = None
    temperature: opt.TemperatureOption = None
    max_tokens: opt.MaxTokensOption = None
    options: opt.OtherOption = None
    ignore_unsupported: opt.IgnoreUnsupportedOption = False
    schema: Annotated[
        str | None,
        typer.Option("--schema", metavar="FILE", help="A JSON schema that the answer follows."),
    ] = None
    images: Annotated[
        list[str] | None,
        typer.Option("--image", metavar="FILE", help="An image, or its URL; may be repeated."),
    ] = None
    priority: opt.PriorityOption = "interactive"
    tries: opt.TriesOption = None
    timeout_s: opt.TimeoutOption = None
    idempotency_key: Annotated[
        str | None,
        typer.Option("--idempotency-key", metavar="KEY", help="The same key gives the same job."),
    ] = None
    metadata: Annotated[
        list[str] | None,
        typer.Option(
            "--metadata", metavar="KEY=VALUE", help="Stored with the job; may be repeated."
        ),
    ] = None

    def prepare(self) -> Callable[[Client], Awaitable[JobHandle]]:
        """Read all files, and return a function that enqueues the job.

        Raises `Problem`, `typer.BadParameter`.
        """
        from darkq.protocol.prompt import add_system

        prompt: Prompt = read_prompt(self.prompt)
        if self.images:
            parts = [{"type": "text", "text": prompt}, *map(_build_image, self.images)]
            prompt = [{"role": "user", "content": parts}]
        prompt = add_system(prompt, self.system)
        metadata = opt.parse_pairs(self.metadata)
        parameters = opt.parse_options(self.temperature, self.max_tokens, self.options)
        if self.schema is not None:
            parameters["response_format"] = _read_schema(self.schema)
        return lambda client: client.enqueue(
            prompt,
            idempotency_key=self.idempotency_key,
            model=self.model,
            upstream=self.upstream,
            priority=self.priority,
            tries=self.tries,
            timeout_s=self.timeout_s,
            metadata=metadata,
            parameters=parameters,
            ignore_unsupported=self.ignore_unsupported,
        )


def takes_job_options(command: Callable[..., None]) -> Callable[..., None]:
    """Replace the first parameter of a command, its `JobOptions`, by a parameter for each field."""
    fields = inspect.signature(JobOptions, eval_str=True).parameters
    _, *others = inspect.signature(command, eval_str=True).parameters.values()

    def call(**given: Any) -> None:
        job = JobOptions(**{name: given.pop(name) for name in fields})
        command(job, **given)

    call.__name__, call.__doc__ = command.__name__, command.__doc__
    # Typer reads the parameters of a command from its signature.
    call.__signature__ = inspect.Signature([*fields.values(), *others])  # type: ignore[attr-defined]
    return call


def read_prompt(argument: str) -> str:
    """Return the prompt. The argument `-` means all of standard input."""
    from darkq.protocol.prompt import MAX_PROMPT_BYTES

    if argument != "-":
        return argument
    if sys.stdin.isatty():
        messages.say("Type the prompt. Ctrl-D on an empty line ends it.", style="dim")
    try:
        # One byte more than the limit is enough for the prompt to be refused.
        return sys.stdin.buffer.read(MAX_PROMPT_BYTES + 1).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise wrong_usage("standard input is not UTF-8") from None


def _build_image(source: str) -> dict[str, Any]:
    url = source  # which the upstream fetches
    if not source.startswith(("http://", "https://", "data:")):
        kind = mimetypes.guess_type(source)[0] or ""
        if not kind.startswith("image/"):
            raise wrong_usage(f"--image: {source} has no ending of an image, such as .png or .jpg")
        url = f"data:{kind};base64,{base64.b64encode(_read(source, '--image')).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def _read_schema(path: str) -> dict[str, Any]:
    """Return the `response_format` for a file with a JSON schema, or with such a format itself."""
    from darkq.protocol.output import build_response_format

    try:
        schema = json.loads(_read(path, "--schema"))
    except ValueError as error:
        raise wrong_usage(f"--schema: {path} is not JSON: {error}") from None
    if not isinstance(schema, dict):
        raise wrong_usage(f"--schema: {path} is not a JSON object")
    return schema if "json_schema" in schema else build_response_format(schema)


def _read(path: str, option: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise wrong_usage(f"{option}: {path} cannot be read: {error.strerror}") from None
