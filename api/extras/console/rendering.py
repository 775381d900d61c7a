"""
Renders the templates, and makes links to runbooks and block explorers for them.

All text is escaped, also that of the service itself: much of it is the caller's, and an
attacker may have written the rest into the database.  A misspelled name in a template
is an error, and no empty text.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from decimal import ROUND_DOWN, Context, Decimal
from functools import cache
from importlib.resources import files
from math import isfinite
from typing import TYPE_CHECKING, Any, Self

from markupsafe import Markup

from api.views.document import format_time
from signer.alerts import RUNBOOKS, Alert, find_runbook
from signer.amounts import format_units
from signer.chain.fees import format_gwei
from signer.config.networks import Network
from signer.redact import key_prefix


# Imported by the first page: most processes never render one.
if TYPE_CHECKING:
    from jinja2 import Environment


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
    return _environment().get_template(template).render(values)


@cache
def style_sheet() -> bytes:
    folder = files("api.extras.console").joinpath("static")
    return b"".join(folder.joinpath(name).read_bytes() for name in _STYLE_SHEETS)


@cache
def icon() -> bytes:
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
def _environment() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined

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


PREFIX = "/console/codes"

GUIDES = {
    "chain-unavailable": "docs/how-to/incidents.md#no-node-answers",
    "insufficient-funds": "docs/how-to/incidents.md#the-wallet-is-empty",
    "backend-unavailable": "docs/how-to/incidents.md#the-key-does-not-sign",
    "store-unavailable": "docs/how-to/incidents.md#the-database-does-not-answer",
    "limit-reached": "docs/how-to/incidents.md#refunds-do-not-progress",
}
"""The codes of other problems that have a guide."""


def runbook_links(page: str | None) -> Mapping[str, str]:
    """
    Return the link of each alert: to its section of *page*, the ``RUNBOOK_URL``.

    Without one, the console has a short page for each.
    """
    if page is None:
        return {alert: f"{PREFIX}/{alert}" for alert in Alert}
    return {alert: find_runbook(alert, page) for alert in Alert}


def runbook_of(code: str, page: str | None) -> str | None:
    """Return where the runbook of *code* is: a link if *page* is set, or a file."""
    if code in set(Alert):
        return find_runbook(code, page or RUNBOOKS)
    return GUIDES.get(code)


_HEX = re.compile(r"0x[0-9a-fA-F]{1,64}")


@dataclass(frozen=True, slots=True)
class Explorers:
    """
    The explorers of all networks, by chain id.

    A link is None if the network has none.  The last part comes from the database, so
    only hex digits may get into a link.
    """

    addresses: Mapping[int, str]

    @classmethod
    def of(cls, networks: Mapping[str, Network]) -> Self:
        return cls(
            {
                network.chain_id: network.explorer
                for network in networks.values()
                if network.explorer is not None
            }
        )

    def transaction(self, chain_id: int, tx_hash: str) -> str | None:
        return self._link(chain_id, "tx", tx_hash)

    def account(self, chain_id: int, address: str) -> str | None:
        return self._link(chain_id, "address", address)

    def token(self, chain_id: int, address: str) -> str | None:
        return self._link(chain_id, "token", address)

    def _link(self, chain_id: int, kind: str, name: str) -> str | None:
        base = self.addresses.get(chain_id)
        if base is None or not _HEX.fullmatch(name):
            return None
        return f"{base}/{kind}/{name}"


def draw_qr_code(text: str) -> Markup:
    """
    Return *text* as a QR code, an ``svg`` element without a size.

    It has no quiet zone: the style sheet adds one, in white also on dark pages, because
    readers of QR codes need dark modules on a light ground.
    """
    import segno

    code = segno.make(text, error="m", micro=False)
    svg = code.svg_inline(
        border=0,
        omitsize=True,
        svgclass="qr",
        lineclass=None,
        title=f"QR code of {text}",
    )
    return Markup(svg)  # noqa: S704  segno escapes the title, and the rest is numbers.
