"""Errors of a command, as a message for its user and a hint about what to do."""

from __future__ import annotations

from importlib.util import find_spec

from darkq_cli.terminal import messages, program

USAGE_EXIT_CODE = 2

MODULES = {
    "worker": ("arq", "aiohttp", "obstore"),
    "gateway": ("aiohttp", "obstore", "prometheus_client", "python_multipart"),
    "local": ("aiohttp",),
    "zstd": ("zstandard",),
}
"""The modules that each extra installs, without those that have a substitute."""


class Problem(Exception):
    """A command failed for a known reason. `hint` says what to do about it."""

    def __init__(
        self, message: str, hint: str = "", *, exit_code: int = 1, cause: Exception | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.exit_code = exit_code
        self.cause = cause or self

    def report(self) -> None:
        """Write the problem to stderr."""
        if not messages.as_json:
            messages.say(f"darkq: {self.message}", style="red")
            if self.hint:
                messages.say(self.hint)
            return
        data = {} if self.cause is self else vars(self.cause)
        error = {
            name: value for name, value in data.items() if isinstance(value, str | int | float)
        }
        error |= {"type": type(self.cause).__name__, "message": self.message}
        error |= {"hint": self.hint} if self.hint else {}
        messages.write_json({"error": error})


def wrong_usage(message: str, hint: str = "") -> Problem:
    """Return the problem of a command that was typed wrongly."""
    return Problem(message, hint, exit_code=USAGE_EXIT_CODE)


def require(extra: str) -> None:
    """Raise a `Problem` that names all modules of an extra that are not installed."""
    if missing := find_missing(extra):
        raise Problem(
            f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed",
            f"To install: pip install 'darkq[{extra}]'",
        )


def find_missing(*extras: str) -> list[str]:
    """Return the modules of extras that are not installed."""
    modules = dict.fromkeys(module for extra in extras for module in MODULES[extra])
    return [module for module in modules if find_spec(module) is None]


def explain(error: Exception) -> Problem | None:
    """Return the problem that an error means for the user; None for a bug in this command."""
    from darkq.errors import DarkqError, InvalidJob

    if isinstance(error, Problem):
        return error
    if isinstance(error, DarkqError):
        exit_code = USAGE_EXIT_CODE if isinstance(error, InvalidJob) else 1
        return Problem(str(error), _find_hint(error), exit_code=exit_code, cause=error)
    return None


def refuses_option(message: str) -> bool:
    """Tell whether a failure is that of an option which the upstream does not support.

    The id of the line and the code may precede the message.
    """
    from darkq.protocol.options import OPTIONS, parse_refusal

    return parse_refusal(message.rpartition("rejected: ")[2]) in OPTIONS


def _find_hint(error: Exception) -> str:
    from darkq import errors
    from darkq.settings.settings import Settings

    darkq = program.command()
    match error:
        case errors.JobNotFound():
            settings = Settings.load()
            if settings.redis_url is not None:
                return "Looked in the Redis of DARKQ_REDIS_URL."
            return f"Looked in the embedded Redis of {settings.state_dir} (DARKQ_STATE_DIR)."
        case errors.CursorGone(job_id=job_id):
            return f"To print the text when it is complete: {darkq} result {job_id} --wait"
        case errors.ResultTimeout(job_id=job_id):
            return f"To print the text as it arrives: {darkq} tail {job_id}"
        case errors.JobFailed(code="upstream_unreachable" | "protocol_violation"):
            return f"To see which upstreams work now: {darkq} upstreams"
        case errors.JobFailed(message=message) if refuses_option(message):
            return "Leave the option out, or send the prompt again with --ignore-unsupported."
    return ""
