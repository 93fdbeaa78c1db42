"""Does anything grow with a file of prompts: of 10,000 lines, 50,000, 100,000?

Like `batches`, once for each length.
"""

from __future__ import annotations

from benchmarks.batches import batch, growth
from benchmarks.figures import Answer, Figures, Row
from benchmarks.systems import darkq

LENGTHS = (10_000, 50_000, 100_000)


async def answer(url: str, _: int, scale: float) -> Answer:
    first, *others = (int(lines * scale) for lines in LENGTHS)
    rows = []
    async with darkq(url) as system:
        short = await batch(system, first)
        for lines in others:
            long = await batch(system, lines)
            rate, baseline = Figures.of([long.per_s]), Figures.of([short.per_s])
            rows.append(
                Row(f"a file of {lines:,} lines", "1/s", rate, baseline, f"{first:,} lines")
            )
            rows += growth([short], first, long, lines)
    return Answer(rows, [])
