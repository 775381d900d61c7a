"""What is refused before the database sees it."""

from functools import lru_cache
from operator import attrgetter

from eth_utils.address import is_checksum_address

from backends.sql.schema import refunds
from backends.sql.statements import SAVED
from signer.errors import InvalidInputError
from signer.model.refund import Refund, SignedTransaction, Status


MAX_PAGE = 1000

MAX_NAME = 255
"""Callers' names are keys of indexes, and PostgreSQL's end at some 2,700 bytes."""

_NAMES = ("client", "idempotency_key", "reference", "payment_session_id")
_TEXTS = (*_NAMES, "network", "token", "token_address", "recipient", "reason")
_FOR_LIFE = attrgetter(*(c.name for c in refunds.columns if c.name not in SAVED))
_WALLET = attrgetter("id", "chain_id", "sender", "nonce")
_WALLET_OF_TRANSACTION = attrgetter("refund_id", "chain_id", "sender", "nonce")


def is_storable(text: str) -> bool:
    """
    Say whether a database can hold *text*.

    PostgreSQL has no NUL in texts, and no encoding has surrogates.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text


@lru_cache(maxsize=64)
def is_address(text: str) -> bool:
    """Say whether *text* is an address in its one spelling (EIP-55)."""
    return is_checksum_address(text)


def require_new(refund: Refund) -> None:
    """
    Require what ``Store.accept`` takes.

    Raises:
        InvalidInputError: A text is too long, or no database can hold it.
        ValueError: The refund is not queued; a programming error.
    """
    if refund.status is not Status.QUEUED or refund.version != 0:
        raise ValueError("only a queued refund that never moved is accepted")
    for name in _TEXTS:
        value = getattr(refund, name)
        if value is not None and not is_storable(value):
            raise InvalidInputError("must be text without NUL", field=name)
    for name in _NAMES:
        if not 1 <= len(getattr(refund, name)) <= MAX_NAME:
            raise InvalidInputError(f"must have 1 to {MAX_NAME} characters", field=name)


def require_page(limit: int, cursor: str | None) -> None:
    """
    Require what ``Store.list`` takes.

    Raises:
        InvalidInputError: *limit* or *cursor* is out of bounds.
    """
    if not 1 <= limit <= MAX_PAGE:
        raise InvalidInputError(f"must be from 1 to {MAX_PAGE}", field="limit")
    if cursor is not None and not (is_storable(cursor) and len(cursor) <= MAX_NAME):
        raise InvalidInputError("must be a cursor that a page gave", field="cursor")


def require_step(
    before: Refund, after: Refund, transaction: SignedTransaction | None
) -> None:
    """
    Require what ``Store.save`` takes.

    Raises:
        ValueError: It takes something else; a programming error.
    """
    if after.version != before.version + 1:
        raise ValueError("a refund is saved one version after the other")
    if _FOR_LIFE(before) != _FOR_LIFE(after):
        raise ValueError("a refund changes what stays for life")
    if transaction and _WALLET(after) != _WALLET_OF_TRANSACTION(transaction):
        raise ValueError("the transaction belongs to another refund or nonce")
