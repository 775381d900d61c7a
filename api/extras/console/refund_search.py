"""Finds refunds by what an operator typed."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from eth_utils.address import to_checksum_address

from signer.model.refund import Page, Refund, is_refund_id
from signer.ports.ledger import Ledger
from signer.ports.refund_reports import RefundFilter


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


def recipient_in(text: str | None) -> str | None:
    """Return the address *text*; None if it is another text."""
    is_address = text is not None and _ADDRESS.fullmatch(text)
    return to_checksum_address(text) if text is not None and is_address else None


def search(
    ledger: Ledger, text: str | None, wanted: RefundFilter, *, cursor: str | None
) -> Found:
    """
    Return the *wanted* refunds with *text* as id or reference, newest first.

    Without *text*, or if it is the recipient of *wanted*, all of them are found.
    """
    if text is None or wanted.recipient is not None:
        page = ledger.search_refunds(wanted, limit=PAGE_SIZE, cursor=cursor)
        return _found(page)
    if is_refund_id(text):
        refund = ledger.get(text)
        matches: Sequence[Refund] = () if refund is None else (refund,)
    else:
        matches = ledger.find_by_reference(text, PAGE_SIZE)
    return Found([each for each in matches if wanted.allows(each)])


def _found(page: Page) -> Found:
    cursor = page.next_cursor
    return Found(page.refunds, cursor, None if cursor is None else _time_of(cursor))


def _time_of(refund_id: str) -> datetime:
    """Return the time in a refund's id."""
    milliseconds = int(refund_id.removeprefix("rf_")[:12], 16)
    return datetime.fromtimestamp(milliseconds / 1000, UTC)
