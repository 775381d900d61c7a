"""How values look on the pages."""

import re
from datetime import UTC, datetime, timedelta
from importlib.resources import files

import pytest
from jinja2 import UndefinedError
from markupsafe import Markup

from api.extras.console.rendering import (
    format_duration,
    render,
    show_invisible,
    style_sheet,
)
from api.views.document import format_time


_BACKGROUNDS = {
    "ink": ("paper", "panel"),
    "soft": ("paper", "panel"),
    "link": ("paper",),
    "on-button": ("button",),
    "good": ("good-paper",),
    "warn": ("warn-paper",),
    "bad": ("bad-paper", "paper"),
    "info": ("info-paper",),
    "softhsm": ("softhsm-paper",),
}
"""The colours of text, and of what it is written on."""


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (-1, "0 s"),
        (0.4, "0 s"),
        (59, "59 s"),
        (3_600, "1 h"),
        (3_725, "1 h 2 min"),
        (90_061, "1 d 1 h"),
        (timedelta(minutes=2), "2 min"),
    ],
)
def test_durations(seconds: float | timedelta, shown: str) -> None:
    assert format_duration(seconds) == shown


def test_times_are_in_utc() -> None:
    moment = datetime(2026, 11, 26, 9, 5, 1, 999, tzinfo=UTC)

    assert format_time(moment) == "2026-11-26 09:05:01 UTC"
    assert format_time(None) == "-"


def test_what_cannot_be_seen_is_shown() -> None:
    """Characters that change the direction or hide between others."""
    assert show_invisible("a\u202eb\u200bc\x00d\ne") == "a\\u202eb\\u200bc\\x00d\ne"
    assert show_invisible("plain text, 漢字") == "plain text, 漢字"
    assert show_invisible(Markup("<b>\t</b>")) == "<b>\t</b>"
    assert show_invisible(7) == 7


def test_a_name_that_a_page_does_not_get_is_an_error() -> None:
    with pytest.raises(UndefinedError):
        render("refund.html", session=None, form_token="", path="/")


def test_templates_do_not_switch_escaping_off() -> None:
    """Nothing of a caller can become a tag."""
    folder = files("api.extras.console").joinpath("templates")
    for template in folder.iterdir():
        text = template.read_text(encoding="utf-8")
        assert not re.search(r"\|\s*safe|autoescape|Markup", text), template


def _colors(rules: str) -> dict[str, str]:
    return dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{3,6});", rules))


def _luminance(color: str) -> float:
    digits = color[1:] if len(color) == 7 else "".join(each * 2 for each in color[1:])
    parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4
        for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _contrast(one: str, other: str) -> float:
    low, high = sorted([_luminance(one), _luminance(other)])
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read(scheme: str) -> None:
    """WCAG 2.2, 1.4.3 and 1.4.11: 4.5 to 1 for text, 3 to 1 for edges of controls."""
    light, dark = style_sheet().decode().split("@media (prefers-color-scheme: dark)")
    colors = _colors(light if scheme == "light" else dark)

    for ink, papers in _BACKGROUNDS.items():
        for paper in papers:
            assert _contrast(colors[ink], colors[paper]) >= 4.5, (ink, paper)
    for edge in ("edge", "focus"):
        assert _contrast(colors[edge], colors["paper"]) >= 3, edge
