"""Limits as they are written, and which hold for which DarkAI."""

from __future__ import annotations

import pytest

from darkq.settings.parsing import MAX_WINDOWS, Window, parse_windows
from darkq.settings.settings import Settings

PUBLIC = (Window(4, 60), Window(30, 1800), Window(80, 21600))


@pytest.mark.parametrize(
    ("text", "windows"),
    [
        ("4/60,30/1800,80/21600", PUBLIC),
        ("80/21600, 4/60 ,30/1800", PUBLIC),
        ("5/0.25", (Window(5, 0.25),)),
        ("none", ()),
        (" NONE ", ()),
    ],
)
def test_it_is_read(text: str, windows: tuple[Window, ...]) -> None:
    assert parse_windows(text) == windows


@pytest.mark.parametrize(
    "text",
    [
        *("", "4", "4/", "/60", "4/60,", "4/60;30/1800", "0/60", "4/0", "-4/60", "4/-60", "4/1e3"),
        *("4/60,none", "4/nan", "4.5/60", "4/2592001", "1000001/1", "٤/60"),
        ",".join(["1/1"] * (MAX_WINDOWS + 1)),
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is none of|has "):
        parse_windows(text)


@pytest.mark.parametrize(
    ("url", "limits", "windows"),
    [
        ("https://darkai.foundation/chat", None, PUBLIC),
        ("https://www.DarkAI.foundation:443/chat", None, PUBLIC),
        ("https://darkai.foundation/chat", "none", ()),
        ("http://127.0.0.1:8000/chat", None, ()),
        ("https://notdarkai.foundation/chat", None, ()),
        ("http://127.0.0.1:8000/chat", "1/2", (Window(1, 2),)),
        ("none", None, ()),
    ],
)
def test_the_public_service_is_known(
    url: str, limits: str | None, windows: tuple[Window, ...]
) -> None:
    """Its limits hold without being asked for: it blocks who exceeds them."""
    settings = Settings.model_validate({"darkai_url": url, "darkai_limits": limits})
    assert settings.find_darkai_windows() == windows
