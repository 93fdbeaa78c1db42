"""What can go wrong with a command, in words for the person who called it."""

from __future__ import annotations

from importlib.util import find_spec

from darkq_cli.terminal import messages, program

USAGE_EXIT_CODE = 2


class Problem(Exception):
    """A command failed in a way that was foreseen. `hint` is what to do next."""

    def __init__(
        self, message: str, hint: str = "", *, exit_code: int = 1, cause: Exception | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.exit_code = exit_code
        self.cause = cause or self

    def report(self) -> None:
        """Say it on stderr."""
        if messages.as_json:
            messages.write_json({"error": self._fields()})
            return
        messages.say(f"darkq: {self.message}", style="red")
        if self.hint:
            messages.say(self.hint)

    def _fields(self) -> dict[str, str | int | float]:
        data = {} if self.cause is self else vars(self.cause)
        facts = {
            name: value for name, value in data.items() if isinstance(value, str | int | float)
        }
        fields = {**facts, "type": type(self.cause).__name__, "message": self.message}
        return {**fields, "hint": self.hint} if self.hint else fields


def require(extra: str, *packages: str) -> None:
    """Raise a `Problem` unless the packages that come with an extra are installed."""
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise Problem(
            f"{', '.join(missing)} is not installed",
            f"To install it: pip install 'darkq[{extra}]'",
        )


def problem_of(error: Exception) -> Problem | None:
    """Return what there is to say of an error; None for one that nobody foresaw."""
    from darkq.errors import DarkqError, InvalidJob

    if isinstance(error, Problem):
        return error
    if isinstance(error, DarkqError):
        wrong_usage = isinstance(error, InvalidJob)
        return Problem(
            str(error),
            _hint(error),
            exit_code=USAGE_EXIT_CODE if wrong_usage else 1,
            cause=error,
        )
    return None


def _hint(error: Exception) -> str:
    from darkq import errors

    darkq = program.command()
    match error:
        case errors.JobNotFound():
            return f"Looked in {_place()}."
        case errors.CursorGone(job_id=job_id):
            return f"The text, when it is complete: {darkq} result {job_id} --wait"
        case errors.ResultTimeout(job_id=job_id):
            return f"Read it as it comes: {darkq} tail {job_id}"
        case errors.JobFailed(code="upstream_unreachable" | "protocol_violation"):
            return f"Which upstreams work now: {darkq} upstreams"
    return ""


def _place() -> str:
    from darkq.settings.settings import Settings

    settings = Settings.load()
    if settings.redis_url is not None:
        return "the Redis of DARKQ_REDIS_URL"
    return f"the embedded Redis of {settings.state_dir} (DARKQ_STATE_DIR)"
