"""Lengths of time, in words."""

from __future__ import annotations


def span(seconds: float) -> str:
    """Write a length of time: `12 s`, `3 min 04 s`, `2 h 05 min`, `3 d 04 h`."""
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    if not hours:
        return f"{minutes} min {rest:02} s"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours:02} h" if days else f"{hours} h {minutes:02} min"


def whole_span(seconds: float) -> str:
    """Write a length of time that somebody chose, in the largest unit that divides it."""
    for unit, length_s in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length_s and seconds % length_s == 0:
            return f"{seconds / length_s:g} {unit}"
    return f"{seconds:g} s"
