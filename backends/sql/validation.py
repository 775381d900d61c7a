"""Checks of arguments, before they reach the database."""

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import lru_cache
from operator import attrgetter
from typing import Any, cast

from eth_utils.address import is_checksum_address

from backends.sql.refund_rows import nonce_of
from backends.sql.statements import SAVED, SAVED_TRANSACTION
from backends.sql.tables import refunds, transactions
from signer.errors import InvalidInputError
from signer.model.refund import AS_REQUESTED, Refund, Status
from signer.ports.refund_store import Change


MAX_PAGE = 1000

MAX_NAME = 255
"""In characters: these texts are index keys, which PostgreSQL limits to 2,700 bytes."""

_TRANSACTION_HASH = re.compile(r"0x[0-9a-f]{64}")

_NAMES = ("tenant", "idempotency_key", "reference", "payment_session_id")
_TEXTS = {*_NAMES, *AS_REQUESTED, "token_address"}
_OWN, _OF_TRANSACTION = (
    attrgetter(*(c.name for c in table.columns if c.name not in saved))
    for table, saved in ((refunds, SAVED), (transactions, SAVED_TRANSACTION))
)


def is_storable(text: str) -> bool:
    """
    Return whether both databases can store *text*.

    PostgreSQL does not store NUL, and UTF-8 cannot encode surrogates.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text


def is_transaction_hash(text: str) -> bool:
    """Return whether *text* is a transaction hash: 32 bytes in lower-case hex."""
    return _TRANSACTION_HASH.fullmatch(text) is not None


@lru_cache(maxsize=64)
def is_address(text: str) -> bool:
    """Return whether *text* is an address with an EIP-55 checksum."""
    return is_checksum_address(text)


def require_new(refund: Refund, *, is_proposed: bool) -> None:
    """
    Check the argument of ``accept_all``; *is_proposed*: it awaits an approval.

    Raises:
        InvalidInputError: A text field is too long, or cannot be stored.
        ValueError: The refund is not new, or has a request to cancel; a programming
            error.
    """
    expected = Status.AWAITING_APPROVAL if is_proposed else Status.QUEUED
    if refund.status is not expected or refund.version != 0:
        raise ValueError(f"only a refund that is {expected}, version 0, is accepted")
    if refund.cancel_requested_at is not None:
        raise ValueError(f"a new refund that is {expected} has no request to cancel")
    require_texts(refund)


def require_texts(refund: Refund) -> None:
    """Raise ``InvalidInputError`` if a text is too long, or cannot be stored."""
    for name in _TEXTS:
        value = getattr(refund, name)
        if value is not None and not is_storable(value):
            raise InvalidInputError("must have no NUL and no surrogates", field=name)
    for name in _NAMES:
        if not 1 <= len(getattr(refund, name)) <= MAX_NAME:
            raise InvalidInputError(f"must have 1 to {MAX_NAME} characters", field=name)


def require_page(limit: int, cursor: str | None) -> None:
    """
    Check the arguments of ``RefundReports.search_refunds``.

    Raises:
        InvalidInputError: *limit* or *cursor* is out of range.
    """
    if not 1 <= limit <= MAX_PAGE:
        raise InvalidInputError(f"must be from 1 to {MAX_PAGE}", field="limit")
    if cursor is not None and not (is_storable(cursor) and len(cursor) <= MAX_NAME):
        raise InvalidInputError("must be a page's next cursor", field="cursor")


def require_step(change: Change) -> None:
    """
    Check the arguments of ``RefundStore.save`` and ``adopt``.

    Raises:
        ValueError: The change is not allowed; a programming error.
    """
    before, after, signed = change.before, change.after, change.attempt
    rows: list[tuple[Callable[[Any], object], Any, Any]] = []
    payments: Iterable[tuple[Refund, Refund]]
    if isinstance(before, Refund):
        if before.transaction is not None:
            raise ValueError("a refund that has a transaction moves with it")
        new = cast("Refund", after)
        if new.transaction is not None:
            before = before.inside(new.transaction, new.position or 0)
        payments = [(before, new)]
    else:
        before, after = change.transactions
        payments = [
            (_as_left(old) if later.nonce is None else old, later)
            for old, later in zip(before.payments, after.payments, strict=True)
        ]
        rows = [(_OF_TRANSACTION, before, after)]
    if signed and (not rows or nonce_of(after) != nonce_of(signed)):
        raise ValueError("the attempt belongs to another nonce")
    rows += [(_OWN, old, later) for old, later in payments]
    steps = {later.version - earlier.version for _, earlier, later in rows}
    if 1 not in steps or not steps <= {0, 1}:
        raise ValueError("the new version must be one more than the old version")
    if any(permanent(old) != permanent(later) for permanent, old, later in rows):
        raise ValueError("a permanent field was changed")


def _as_left(refund: Refund) -> Refund:
    """Return *refund* as if it had left its transaction, with all that both changed."""
    return replace(refund.placed_nowhere(), version=refund.revision)
