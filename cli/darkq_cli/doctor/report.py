"""Prints check results: one line for each check, and below it what to do.

Consecutive checks that were skipped for the same reason share a line.
"""

from __future__ import annotations

from textwrap import wrap

from rich.text import Text

from darkq_cli.doctor.checks import CheckResult
from darkq_cli.terminal import messages

_STYLES = {"ok": "green", "warning": "bold yellow", "problem": "bold red", "skipped": "dim"}
_NAME_CHARS = 17
_INDENT_CHARS = 9 + _NAME_CHARS + 1


class Report:
    """Prints results as they arrive. `end()` prints the last of them."""

    def __init__(self) -> None:
        self._console = messages.stdout_console()
        self._skipped: list[CheckResult] = []
        self._of = ""

    def show(self, result: CheckResult) -> None:
        """Print a result, or hold it back if the next may share its line."""
        first = self._skipped[0] if self._skipped else None
        if first is None or first.label(result.check, first.of) != result:
            self.end()
        if result.verdict == "skipped":
            self._skipped.append(result)
        else:
            self._print(result)

    def end(self) -> None:
        """Print the results that were held back."""
        skipped, self._skipped = self._skipped, []
        if not skipped:
            return
        _, *others = [result.check for result in skipped]
        names = " and ".join(filter(None, (", ".join(others[:-1]), *others[-1:])))
        self._print(skipped[0], f"; also {names}" if names else "")

    def _print(self, result: CheckResult, also: str = "") -> None:
        where = f"{result.of}: " if result.of not in ("", self._of) else ""
        self._of = result.of
        lines = [*self._lines(f"{where}{result.found}{also}"), *self._lines(result.do, "→ ")]
        style = _STYLES[result.verdict]
        head = Text.assemble((f"{result.verdict:<9}", style), f"{result.check:<{_NAME_CHARS}} ")
        self._console.print(head + Text(lines[0]))
        for line in lines[1:]:
            self._console.print(Text(" " * _INDENT_CHARS + line))

    def _lines(self, text: str, mark: str = "") -> list[str]:
        width = max(20, self._console.width - _INDENT_CHARS)
        text = " ".join(messages.replace_controls(text).split())
        return wrap(
            f"{mark}{text}" if text else "",
            width,
            subsequent_indent=" " * len(mark),
            break_on_hyphens=False,
        )
