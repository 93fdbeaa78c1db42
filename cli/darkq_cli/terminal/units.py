"""Durations, times and sizes, as people read and type them."""

from __future__ import annotations

import re
import time

from darkq_cli.terminal.problems import wrong_usage

_UNITS_S = {"s": 1, "min": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"([0-9]{1,7})(s|min|h|d)")
_RATE = re.compile(r"([0-9]{1,7}(?:\.[0-9]{1,3})?)/(s|min|h|d)")


def format_duration(seconds: float) -> str:
    """Write a measured duration: `12 s`, `3 min 04 s`, `2 h 05 min`, `3 d 04 h`."""
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    if not hours:
        return f"{minutes} min {rest:02} s"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours:02} h" if days else f"{hours} h {minutes:02} min"


def format_setting(seconds: float) -> str:
    """Write a configured duration exactly, in the largest unit that divides it."""
    for unit in ("d", "h", "min"):
        length_s = _UNITS_S[unit]
        if seconds >= length_s and seconds % length_s == 0:
            return f"{seconds / length_s:g} {unit}"
    return f"{seconds:g} s"


def format_time(epoch_ms: float) -> str:
    """Write a time as the local date and time."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(epoch_ms / 1000))


def format_time_briefly(epoch_ms: float) -> str:
    """Write a time in at most 11 characters: of today `22:00:53`, else `11-30 22:00`, or a date."""
    then, now = time.localtime(epoch_ms / 1000), time.localtime()
    if then[:3] == now[:3]:
        return time.strftime("%H:%M:%S", then)
    return time.strftime("%m-%d %H:%M" if then.tm_year == now.tm_year else "%Y-%m-%d", then)


def format_megabytes(size: int) -> str:
    """Write a number of bytes in MB."""
    return f"{size / (1 << 20):,.0f} MB"


def parse_duration(text: str, option: str, *, allow_zero: bool = False) -> float:
    """Return the seconds of a duration such as `12h` or `30d`. Raises `Problem`."""
    match = _DURATION.fullmatch(text)
    if match is None or not (allow_zero or int(match[1])):
        raise wrong_usage(f"{option}: {text!r} is not a duration, such as 12h or 30d")
    return float(int(match[1]) * _UNITS_S[match[2]])


def parse_rate(text: str, option: str) -> float:
    """Return how many per second a rate such as `100/min` allows. Raises `Problem`."""
    match = _RATE.fullmatch(text)
    if match is None or float(match[1]) == 0:
        raise wrong_usage(f"{option}: {text!r} is not a rate, such as 5/s, 100/min or 1000/h")
    return float(match[1]) / _UNITS_S[match[2]]
