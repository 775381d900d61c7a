"""The codes of the service, and where their runbooks are."""

from collections.abc import Mapping

from api.views.codes import load_codes


_ALARMS = "docs/how-to/alarms.md"

_IN_ALARMS = frozenset(
    {
        "worker-stopped",
        "low-balance",
        "wallet-paused",
        "signing-stopped",
        "backend-throttled",
        "audit-sealing-late",
        "audit-signing-late",
    }
)
"""The codes that have a section of their own there."""

_OTHERS: Mapping[str, str] = {
    "chain-unavailable": "docs/how-to/rpc-down.md",
    "insufficient-funds": "docs/how-to/wallet-empty.md",
    "backend-unavailable": "docs/how-to/hsm-down.md",
    "store-unavailable": "docs/how-to/database-down.md",
    "row-not-authentic": f"{_ALARMS}#a-row-is-not-authentic",
    "books-differ": "docs/how-to/reconcile.md",
    "webhook-failing": "docs/how-to/webhooks.md",
    "limit-reached": "docs/how-to/stuck-queue.md",
    "fees-above-recent": "docs/how-to/stuck-queue.md",
}


def find_code(code: str) -> Mapping[str, str] | None:
    """Return kind, title, meaning and cure of *code*; None if there is none."""
    return next((each for each in load_codes() if each["code"] == code), None)


def runbook_of(code: str) -> str | None:
    """Return the page of the documentation about *code*; None if it has none."""
    return f"{_ALARMS}#{code}" if code in _IN_ALARMS else _OTHERS.get(code)


def known_runbooks() -> Mapping[str, str]:
    """Return all runbooks by code."""
    return {**{code: f"{_ALARMS}#{code}" for code in _IN_ALARMS}, **_OTHERS}
