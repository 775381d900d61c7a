"""The codes of the service, and the links to their runbooks."""

from collections.abc import Mapping

from signer.alerts import RUNBOOKS, Alert, find_runbook


PREFIX = "/console/codes"

GUIDES = {
    "chain-unavailable": "docs/how-to/rpc-down.md",
    "insufficient-funds": "docs/how-to/wallet-empty.md",
    "backend-unavailable": "docs/how-to/hsm-down.md",
    "store-unavailable": "docs/how-to/database-down.md",
    "limit-reached": "docs/how-to/stuck-queue.md",
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
