"""
Renders the templates.

All text is escaped, also that of the service itself: much of it is the caller's, and an
attacker may have written the rest into the database.  A misspelled name in a template
is an error, and no empty text.
"""

from collections.abc import Mapping
from datetime import timedelta
from decimal import ROUND_DOWN, Context, Decimal
from functools import cache
from importlib.resources import files
from math import isfinite
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from api.views.document import format_time
from signer.amounts import format_units
from signer.chain.fees import format_gwei
from signer.redact import key_prefix


CONTENT_POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self';"
    " frame-ancestors 'none'; base-uri 'none'"
)
"""The ``Content-Security-Policy`` of the pages: no script, and nothing of others."""

# More digits than a float has.
_PRECISE = Context(prec=400)
_SMALLEST = Decimal("1e-7")

_STYLE_SHEETS = ("console.css", "figures.css")

_UNITS = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))


def render(template: str, **values: object) -> str:
    """Return the page that *template* makes of *values*."""
    return _environment().get_template(template).render(values)


@cache
def style_sheet() -> bytes:
    """Return the style sheet of all pages."""
    folder = files("api.extras.console").joinpath("static")
    return b"".join(folder.joinpath(name).read_bytes() for name in _STYLE_SHEETS)


@cache
def icon() -> bytes:
    """Return the icon of all pages, as SVG."""
    return files("api.extras.console").joinpath("static/icon.svg").read_bytes()


def format_duration(duration: timedelta | float) -> str:
    """Return *duration*, or that many seconds, in its two largest units."""
    if isinstance(duration, timedelta):
        duration = duration.total_seconds()
    left = max(0, int(duration))
    parts: list[str] = []
    for unit, size in _UNITS:
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2]) or "0 s"


def format_seconds(seconds: float | None) -> str:
    """Return *seconds* with a unit that fits, from milliseconds on; a dash for None."""
    if seconds is None:
        return "-"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 60 else format_duration(seconds)  # noqa: PLR2004


def format_number(value: float | None) -> str:
    """
    Return *value* with up to seven decimals, never rounded up; a dash for None.

    >>> format_number(999_987.5), format_number(12_345_678.0), format_number(1.23e-5)
    ('999,987.5', '12,345,678', '0.0000123')
    """
    if value is None or not isfinite(value):
        return "-"
    number = Decimal(repr(value)).quantize(_SMALLEST, ROUND_DOWN, _PRECISE)
    return f"{number:,f}".rstrip("0").rstrip(".")


def format_amount(units: int, decimals: int) -> str:
    """
    Return an amount in whole tokens: exact, with two decimals or as many as it needs.

    >>> format_amount(12_500_000, 6), format_amount(12_500_001, 6), format_amount(7, 0)
    ('12.50', '12.500001', '7')
    """
    whole, point, fraction = format_units(units, decimals).partition(".")
    if not point:
        return whole
    return f"{whole}.{fraction.rstrip('0').ljust(min(2, decimals), '0')}"


def mark_code(text: str) -> Markup:
    """Return *text* with what stands between backticks as code."""
    parts = text.split("`")
    return Markup().join(
        Markup("<code>{}</code>").format(part) if number % 2 else part
        for number, part in enumerate(parts)
    )


def show_invisible(value: Any) -> Any:
    """
    Return *value*, a text with escapes in place of what cannot be seen.

    Some characters reverse the direction of the text around them, so that an amount or
    an address looks like another one.
    """
    if not isinstance(value, str) or isinstance(value, Markup) or value.isprintable():
        return value
    return "".join(
        each
        if each.isprintable() or each == "\n"
        else each.encode("unicode_escape").decode()
        for each in value
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("api.extras.console"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=show_invisible,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    filters: Mapping[str, Any] = {
        "time": format_time,
        "duration": format_duration,
        "units": format_amount,
        "code": mark_code,
        "key_prefix": key_prefix,
        "seconds": format_seconds,
        "plain": format_number,
        "gwei": format_gwei,
    }
    environment.filters.update(filters)
    return environment
