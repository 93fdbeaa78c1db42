"""The results as pictures: one PNG per benchmark, a group of bars per row.

Bars show medians, whiskers the lowest and the highest repetition. The scale is logarithmic if the
baselines differ by more than an order of magnitude.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.figures import Answer, Figures, Row, number

OURS, THEIRS = "#c2410c", "#64748b"
_ORDER_OF_MAGNITUDE = 10.0


def draw(answers: Mapping[str, Answer], directory: Path) -> list[Path]:
    """Write the pictures; return their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    mpl.rcParams.update({"font.size": 9, "svg.hashsalt": "darkq"})
    return [
        _picture(questions, directory / f"{name}.png")
        for name, answer in answers.items()
        if (questions := _compared(answer.rows))
    ]


def _compared(rows: Sequence[Row]) -> dict[tuple[str, str], dict[str, Figures]]:
    """Return the sides of each row that has more than one, darkq first."""
    questions: dict[tuple[str, str], dict[str, Figures]] = {}
    for row in rows:
        sides = questions.setdefault((row.question, row.unit), {"darkq": row.ours})
        if row.baseline is not None and math.isfinite(row.baseline.median):
            sides[row.baseline_name] = row.baseline
    return {question: sides for question, sides in questions.items() if len(sides) > 1}


def _picture(questions: Mapping[tuple[str, str], Mapping[str, Figures]], path: Path) -> Path:
    heights = [len(sides) + 1.6 for sides in questions.values()]
    figure = Figure(figsize=(7.5, 0.28 * sum(heights)), layout="constrained")
    panels = figure.subplots(len(questions), squeeze=False, height_ratios=heights)[:, 0]
    for axes, ((question, unit), sides) in zip(panels, questions.items(), strict=True):
        _bars(axes, sides)
        axes.set_title(f"{question}, {unit}", loc="left", fontsize=9, fontweight="bold")
    figure.savefig(path, dpi=110, metadata={"Software": None})
    return path


def _bars(axes: Axes, sides: Mapping[str, Figures]) -> None:
    names, figures = list(sides), list(sides.values())
    medians = [each.median for each in figures]
    spread = [
        [each.median - min(each.values) for each in figures],
        [max(each.values) - each.median for each in figures],
    ]
    colors = [OURS if name == "darkq" else THEIRS for name in names]
    axes.barh(names, medians, xerr=spread, color=colors, height=0.7, ecolor="#1e293b", capsize=2)
    if max(medians) > _ORDER_OF_MAGNITUDE * min(medians) > 0:
        axes.set_xscale("log")
    for place, each in enumerate(figures):
        label = f"  {number(each.median)}"
        axes.annotate(label, (max(each.values), place), va="center", fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.14)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
