"""Finds refunds by what an operator typed."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from eth_utils.address import to_checksum_address

from signer.model.refund import Page, Refund, Status, is_refund_id
from signer.ports import Ledger, RefundFilter


PAGE_SIZE = 50

_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}")


@dataclass(frozen=True, slots=True)
class Found:
    """
    The refunds of one page, and where the next one begins.

    ``until`` is the acceptance time of the oldest refund that was looked at; None if
    all were.
    """

    refunds: Sequence[Refund]
    next_cursor: str | None = None
    until: datetime | None = None


def search(
    ledger: Ledger,
    text: str | None,
    *,
    tenant: str | None,
    status: Status | None,
    cursor: str | None,
) -> Found:
    """
    Return the refunds with *text* as id, recipient or reference, newest first.

    Without *text* all match.  The other arguments restrict what is found.
    """
    if text is None or _ADDRESS.fullmatch(text):
        recipient = None if text is None else to_checksum_address(text)
        wanted = RefundFilter(tenant, status, recipient)
        page = ledger.search_refunds(wanted, limit=PAGE_SIZE, cursor=cursor)
        return _found(page)
    if is_refund_id(text):
        refund = ledger.get(text)
        matches: Sequence[Refund] = () if refund is None else (refund,)
    else:
        matches = ledger.find_by_reference(text, PAGE_SIZE)
    return Found(
        [
            each
            for each in matches
            if tenant in {None, each.tenant} and status in {None, each.status}
        ]
    )


def _found(page: Page) -> Found:
    cursor = page.next_cursor
    return Found(page.refunds, cursor, None if cursor is None else _time_of(cursor))


def _time_of(refund_id: str) -> datetime:
    """Return the time in a refund's id."""
    milliseconds = int(refund_id.removeprefix("rf_")[:12], 16)
    return datetime.fromtimestamp(milliseconds / 1000, UTC)
