"""Links to runbooks of codes and to block explorers, and QR codes as SVG."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import segno
from markupsafe import Markup

from signer.alerts import RUNBOOKS, Alert, find_runbook
from signer.config.networks import Network


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
        """Return the explorers of *networks*."""
        return cls(
            {
                network.chain_id: network.explorer
                for network in networks.values()
                if network.explorer is not None
            }
        )

    def transaction(self, chain_id: int, tx_hash: str) -> str | None:
        """Return the page of a transaction."""
        return self._link(chain_id, "tx", tx_hash)

    def account(self, chain_id: int, address: str) -> str | None:
        """Return the page of an address."""
        return self._link(chain_id, "address", address)

    def token(self, chain_id: int, address: str) -> str | None:
        """Return the page of a token's contract."""
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
    code = segno.make(text, error="m", micro=False)
    svg = code.svg_inline(
        border=0,
        omitsize=True,
        svgclass="qr",
        lineclass=None,
        title=f"QR code of {text}",
    )
    return Markup(svg)  # noqa: S704  segno escapes the title, and the rest is numbers.
