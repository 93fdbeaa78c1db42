"""What was found, for people: a line for each check, and below it what to do.

Checks that were skipped one after the other, for the same reason, share a line.
"""

from __future__ import annotations

from textwrap import wrap

from rich.text import Text

from darkq_cli.doctor.findings import Finding
from darkq_cli.terminal import messages

_STYLES = {"ok": "green", "warning": "bold yellow", "problem": "bold red", "skipped": "dim"}
_NAME_CHARS = 17
_BEFORE_CHARS = 9 + _NAME_CHARS + 1


class Report:
    """Prints findings as they come. `end()` prints the last of them."""

    def __init__(self) -> None:
        self._console = messages.stdout_console()
        self._skipped: list[Finding] = []
        self._of = ""

    def show(self, finding: Finding) -> None:
        """Print a finding, or keep it until the next if that may share its line."""
        if self._skipped and finding.verdict == "skipped" and _same(self._skipped[0], finding):
            self._skipped.append(finding)
            return
        self.end()
        if finding.verdict == "skipped":
            self._skipped = [finding]
        else:
            self._print(finding, finding.check)

    def end(self) -> None:
        """Print what was kept."""
        skipped, self._skipped = self._skipped, []
        if len(skipped) == 1:
            self._print(skipped[0], skipped[0].check)
        elif skipped:
            first, last = skipped[0], skipped[-1]
            names = ", ".join(finding.check for finding in skipped[1:-1])
            also = f"; so are {names}{' and ' * bool(names)}{last.check}"
            self._print(first, first.check, also)

    def _print(self, finding: Finding, name: str, also: str = "") -> None:
        where = f"{finding.of}: " if finding.of not in ("", self._of) else ""
        self._of = finding.of
        lines = [*self._lines(f"{where}{finding.found}{also}"), *self._lines(finding.do, "→ ")]
        style = _STYLES[finding.verdict]
        head = Text.assemble((f"{finding.verdict:<9}", style), f"{name:<{_NAME_CHARS}} ")
        self._console.print(head + Text(lines[0]))
        for line in lines[1:]:
            self._console.print(Text(" " * _BEFORE_CHARS + line))

    def _lines(self, text: str, mark: str = "") -> list[str]:
        width = max(20, self._console.width - _BEFORE_CHARS)
        text = " ".join(messages.harmless(text).split())
        return wrap(
            f"{mark}{text}" if text else "",
            width,
            subsequent_indent=" " * len(mark),
            break_on_hyphens=False,
        )


def _same(one: Finding, other: Finding) -> bool:
    return (one.of, one.found, one.do) == (other.of, other.found, other.do)
