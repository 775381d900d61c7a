"""Finds refunds by what an operator typed; shows all that is known of one."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from eth_utils.address import to_checksum_address

from api.container import Container
from api.extras.console.rendering import format_amount
from signer.chain.erc20 import decode_transfer
from signer.chain.fees import format_gwei
from signer.crypto.transactions import AnyTransaction, SignedBytes
from signer.deadline import Deadlines
from signer.errors import (
    ChainUnavailableError,
    EncodingError,
    HotWalletError,
    InvalidInputError,
    RowNotAuthenticError,
)
from signer.model.refund import (
    COIN_ADDRESS,
    UNRESERVED,
    Kind,
    Move,
    Page,
    Refund,
    SignedTransaction,
    is_refund_id,
)
from signer.ports.ledger import Ledger
from signer.ports.refund_reports import RefundFilter
from signer.refunds.explanation import Explanation
from signer.refunds.payload import payload_of


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


_EXPLAIN_SECONDS = 4.0
_AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class ShownTransaction:
    """
    A stored transaction, and what its signed bytes do.

    ``is_payment`` is whether the bytes pay exactly what the refund says; None for a
    no-op, which pays nothing.
    """

    stored: SignedTransaction
    does: str
    is_payment: bool | None
    max_fee: str
    priority_fee: str


@dataclass(frozen=True, slots=True)
class RefundDetails:
    """
    A refund as its page shows it.

    ``explanation`` is None if it took too long; ``problem`` is the code of the reason.
    ``is_authentic`` is whether the MAC of what it pays is valid.
    """

    refund: Refund
    is_authentic: bool
    moves: Sequence[Move]
    transactions: Sequence[ShownTransaction]
    explanation: Explanation | None
    problem: str | None

    @property
    def is_cancellable(self) -> bool:
        """Whether it has no nonce yet."""
        return self.refund.status in UNRESERVED

    @property
    def amount(self) -> str:
        """The amount in whole tokens."""
        return format_amount(self.refund.amount, self.refund.decimals)


class RefundDetailsReader:
    """Reads refunds for their pages; waits a few seconds for nodes, and no longer."""

    def __init__(self, container: Container) -> None:
        self._container = container
        self._deadlines = Deadlines(_AT_ONCE)

    def read(self, refund: Refund) -> RefundDetails:
        """Return the details of *refund*; StoreError if the ledger does not answer."""
        store = self._container.store
        explanation, problem = self._explain(refund)
        return RefundDetails(
            refund,
            self._is_authentic(refund),
            store.history(refund.id),
            [_show(each, refund) for each in store.transactions(refund.id)],
            explanation,
            problem,
        )

    def _explain(self, refund: Refund) -> tuple[Explanation | None, str | None]:
        try:
            return self._deadlines.within(
                _EXPLAIN_SECONDS,
                lambda: self._container.explainer.explain(refund),
                name="explain",
                late=ChainUnavailableError,
            ), None
        except HotWalletError as e:
            return None, e.code

    def _is_authentic(self, refund: Refund) -> bool:
        try:
            self._container.store.require_authentic(refund)
        except RowNotAuthenticError:
            return False
        return True


def _show(stored: SignedTransaction, refund: Refund) -> ShownTransaction:
    does, is_payment = _describe(stored, refund)
    return ShownTransaction(
        stored,
        does,
        is_payment,
        format_gwei(stored.max_fee_per_gas),
        format_gwei(stored.max_priority_fee_per_gas),
    )


def _describe(stored: SignedTransaction, refund: Refund) -> tuple[str, bool | None]:
    """Return what the signed bytes do, and whether they pay *refund*."""
    try:
        transaction = SignedBytes.decode(stored.raw).transaction
        if stored.kind is Kind.NOOP:
            return "sends nothing to the wallet itself, and uses the nonce up", None
        is_payment = payload_of(refund).is_of(transaction)
        to, amount = _read_payment(transaction, refund)
    except (EncodingError, InvalidInputError):
        return "cannot be decoded: another program may have changed the row", False
    whole = format_amount(amount, refund.decimals)
    does = f"pays {whole} {refund.token} to {to_checksum_address(to)}"
    if refund.calldata:
        does += f", and calls it with {len(transaction.data)} bytes"
    return does, is_payment


def _read_payment(transaction: AnyTransaction, refund: Refund) -> tuple[str, int]:
    """
    Return whom *transaction* pays, and the amount.

    Raises:
        EncodingError: It pays nothing.
    """
    if transaction.to is None:
        raise EncodingError("the transaction creates a contract")
    if refund.token_address == COIN_ADDRESS:
        return transaction.to, transaction.value
    recipient, amount, _ = decode_transfer(transaction.data)
    return recipient, amount
