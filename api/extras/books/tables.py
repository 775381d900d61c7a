"""The pages of the ledger that the books read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from eth_utils.address import is_checksum_address

from backends.sql.columns import UTCDateTime
from backends.sql.refund_rows import (
    PAYING,
    REFUNDS,
    read_moving,
    read_refunds,
    read_transactions,
    same_nonce,
    with_members,
)
from backends.sql.refunds import RefundTables
from backends.sql.tables import (
    IS_FILLER,
    attempts,
    audit_records,
    refunds,
    state_in,
    transaction_payments,
    transactions,
    unrecorded,
)
from backends.sql.wallet_rows import of_wallet, select_unrecorded, wallet_key
from backends.sql.wallets import WalletTables
from signer.audit.actions import SUCCESS, AuditAction
from signer.model.audit_record import Record
from signer.model.payment import PaymentState
from signer.model.refund import Refund, Status
from signer.model.transaction import Kind, Transaction
from signer.model.wallet import UnrecordedTransaction


@dataclass(frozen=True, slots=True)
class TransactionCost:
    """One transaction that was signed for a nonce, and the most that it may cost."""

    tx_hash: str
    kind: Kind
    most_fee: int


@dataclass(frozen=True, slots=True)
class NonceEntry:
    """
    All that the ledger has about one nonce of a wallet.

    It has a refund, a batch of them, or a filler, which pays none.  ``unrecorded`` is a
    transaction that the chain had and the ledger did not; of a batch, an item of it.
    """

    nonce: int
    refund: Refund | None = None
    attempts: tuple[TransactionCost, ...] = ()
    unrecorded: UnrecordedTransaction | None = None
    filler: Transaction | None = None
    batch: Transaction | None = None

    @property
    def row(self) -> Refund | Transaction | None:
        """The refund, the filler or the batch that has the nonce."""
        return self.refund or self.filler or self.batch

    @property
    def status(self) -> Status | None:
        return None if self.row is None else Status(self.row.status)


@dataclass(frozen=True, slots=True)
class BookToken:
    """A token of the ledger's refunds."""

    address: str
    symbol: str
    decimals: int


_first = sa.bindparam("first", type_=refunds.c.nonce.type)
_last = sa.bindparam("last", type_=refunds.c.nonce.type)
_at_most = sa.bindparam("at_most", type_=sa.Integer)


_IS_BATCH = "kind = 'batch'"

# No index has the batches: no more nonces than the page has are looked at.
_in_page = transactions.c.nonce < _first + _at_most


def _nonces(table: Any, *conditions: Any) -> Any:
    return (
        sa.select(table.c.nonce)
        .distinct()  # All refunds of a batch, and all items of one, have the same.
        .where(of_wallet(table), table.c.nonce >= _first, *conditions)
        .order_by(table.c.nonce)
        .limit(_at_most)
        .subquery()
    )


_page = sa.union(
    *(sa.select(_nonces(table).c.nonce) for table in (refunds, unrecorded)),
    sa.select(_nonces(transactions, sa.text(IS_FILLER)).c.nonce),
    # All of its refunds may be queued again.
    sa.select(_nonces(transactions, sa.text(_IS_BATCH), _in_page).c.nonce),
)
NONCES = sa.select(_page.subquery().c.nonce).order_by("nonce").limit(_at_most)

_REFUNDS = REFUNDS.where(
    of_wallet(refunds), refunds.c.nonce >= _first, refunds.c.nonce <= _last
)

_BATCHES = PAYING.where(
    sa.text("transactions.kind = 'batch'"),
    of_wallet(transactions),
    transactions.c.nonce >= _first,
    transactions.c.nonce <= _last,
)

_VAULTS = (
    sa.select(transactions.c.vault)
    .where(
        transactions.c.chain_id == sa.bindparam("of_chain"),
        transactions.c.vault.is_not(None),
    )
    .distinct()
)

_FILLERS = sa.select(transactions).where(
    sa.text(IS_FILLER),
    of_wallet(transactions),
    transactions.c.nonce >= _first,
    transactions.c.nonce <= _last,
)

ATTEMPTS = (
    sa.select(
        attempts.c.nonce,
        attempts.c.tx_hash,
        attempts.c.kind,
        attempts.c.max_fee_per_gas,
        attempts.c.gas_limit,
    )
    .where(of_wallet(attempts), attempts.c.nonce >= _first, attempts.c.nonce <= _last)
    .order_by(attempts.c.nonce, attempts.c.attempt.desc())
)

UNRECORDED = sa.select(unrecorded).where(
    of_wallet(unrecorded), unrecorded.c.nonce >= _first, unrecorded.c.nonce <= _last
)

IN_BLOCKS = (
    PAYING.where(
        sa.or_(refunds.c.id.is_not(None), sa.text(IS_FILLER)),
        of_wallet(transactions),
        transactions.c.nonce > sa.bindparam("after"),
        transactions.c.block_number >= sa.bindparam("first_block"),
        transactions.c.block_number <= sa.bindparam("last_block"),
    )
    .order_by(transactions.c.nonce)
    .limit(_at_most)
)

SENDERS = (
    sa.select(transactions.c.sender, sa.func.count(transaction_payments.c.payment_id))
    .outerjoin_from(
        transactions,
        transaction_payments,
        same_nonce(transactions, transaction_payments),
    )
    .where(
        transactions.c.chain_id == sa.bindparam("of_chain"),
        sa.or_(
            transactions.c.block_number.is_(None),
            transactions.c.block_number.between(
                sa.bindparam("first_block"), sa.bindparam("last_block")
            ),
        ),
    )
    .group_by(transactions.c.sender)
    .order_by(transactions.c.sender)
)

BY_CHAIN = (
    sa.select(refunds.c.chain_id, sa.func.max(refunds.c.network), sa.func.count())
    .where(
        sa.text(state_in(PaymentState.CONFIRMED, PaymentState.FAILED)),
        refunds.c.updated_at >= sa.bindparam("since", type_=UTCDateTime),
        refunds.c.updated_at < sa.bindparam("until", type_=UTCDateTime),
    )
    .group_by(refunds.c.chain_id)
    .order_by(refunds.c.chain_id)
)

OF_CHAIN = (
    REFUNDS.where(
        # The expression keeps SQLite from the index of nonces, which has another order.
        refunds.c.chain_id + 0 == sa.bindparam("of_chain"),
        refunds.c.id > sa.bindparam("after"),
    )
    .order_by(refunds.c.id)
    .limit(_at_most)
)

_TOKENS = (
    sa.select(
        refunds.c.token_address,
        sa.func.max(refunds.c.token),
        sa.func.max(refunds.c.decimals),
    )
    .where(refunds.c.chain_id == sa.bindparam("of_chain"))
    .group_by(refunds.c.token_address)
    .order_by(refunds.c.token_address)
)

# A body is canonical JSON, so these texts occur in the bodies of such records only, or
# in free text, which is then read in vain.
_ACTIVATIONS = tuple(
    f'"event":"{name}"'
    for name in (AuditAction.KEY_ROTATE.event_for(SUCCESS), "rotation")
)

_ROTATIONS = sa.select(audit_records.c.id, audit_records.c.body).where(
    sa.or_(
        *(audit_records.c.body.contains(each, autoescape=True) for each in _ACTIVATIONS)
    )
)


class BookTables(RefundTables, WalletTables):
    """
    Reads the ledger for the books; raises ``StoreUnavailableError`` if it is down.

    Each method reads a page, so that the memory does not grow with the ledger.
    """

    def logged_addresses(self) -> Sequence[str]:
        """Return the addresses of all keys that the audit log records as activated."""
        found = (Record(*row).fields for row in self._database.rows(_ROTATIONS))
        names = {
            str(fields.get(name))
            for fields in found
            for name in ("address", "previous")
        }
        # Another program may have written a record with any text.
        return sorted(name for name in names if is_checksum_address(name))

    def refunded_tokens(self, chain_id: int) -> Sequence[BookToken]:
        return [
            BookToken(*row) for row in self._database.rows(_TOKENS, of_chain=chain_id)
        ]

    def vaults(self, chain_id: int) -> Sequence[str]:
        rows = self._database.rows(_VAULTS, of_chain=chain_id)
        return sorted(row.vault for row in rows)

    def nonce_entries(
        self, chain_id: int, sender: str, first: int, limit: int
    ) -> Sequence[NonceEntry]:
        """
        Return up to *limit* nonces of a wallet from *first* on, lowest first.

        A nonce that no row has is left out.
        """
        wallet = wallet_key(chain_id, sender)

        def read(connection: sa.Connection) -> Sequence[NonceEntry]:
            page = {**wallet, "first": first, "at_most": limit}
            nonces = connection.execute(NONCES, page).scalars().all()
            if not nonces:
                return ()
            span = {**wallet, "first": nonces[0], "last": nonces[-1]}
            rows = read_transactions(connection.execute(_BATCHES, span))
            batches = {each.nonce: each for each in with_members(connection, rows)}
            of_nonce = {
                each.nonce: each
                for each in read_refunds(connection.execute(_REFUNDS, span))
                if each.nonce not in batches
            }
            fillers = {
                row.nonce: Transaction(*row)
                for row in connection.execute(_FILLERS, span)
            }
            costs: dict[int, list[TransactionCost]] = {nonce: [] for nonce in nonces}
            for nonce, tx_hash, kind, max_fee, gas in connection.execute(
                ATTEMPTS, span
            ):
                costs[nonce].append(TransactionCost(tx_hash, Kind(kind), max_fee * gas))
            seen = select_unrecorded(connection, self._macs, UNRECORDED, **span)
            # Of a batch, an item that another program changed, or the last one.
            seen = sorted(seen, key=lambda each: not each.is_authentic)
            unrecorded = {each.nonce: each for each in seen}
            return [
                NonceEntry(
                    nonce,
                    of_nonce.get(nonce),
                    tuple(costs[nonce]),
                    unrecorded.get(nonce),
                    fillers.get(nonce),
                    batches.get(nonce),
                )
                for nonce in nonces
            ]

        return self._database.run(read)

    def entries_in_blocks(
        self,
        chain_id: int,
        sender: str,
        blocks: tuple[int, int],
        *,
        after: int,
        limit: int,
    ) -> Sequence[NonceEntry]:
        """
        Return up to *limit* refunds and fillers of a wallet with nonces above *after*.

        They have a block between the two *blocks*, both included, lowest nonce first.
        """
        span = {"first_block": blocks[0], "last_block": blocks[1], "after": after}
        rows = self._database.rows(
            IN_BLOCKS, **wallet_key(chain_id, sender), **span, at_most=limit
        )
        found = (read_moving(row) for row in rows)
        return [
            NonceEntry(each.nonce, filler=each)
            if isinstance(each, Transaction)
            else NonceEntry(each.nonce or 0, each)
            for each in found
        ]

    def senders_in_blocks(
        self, chain_id: int, blocks: tuple[int, int]
    ) -> Mapping[str, int]:
        """
        Return how many refunds have a block between both *blocks* or none, by sender.

        Senders of fillers alone are among them.
        """
        span = {"first_block": blocks[0], "last_block": blocks[1]}
        rows = self._database.rows(SENDERS, of_chain=chain_id, **span)
        return dict(tuple(row) for row in rows)

    def results_by_chain(
        self, since: datetime, until: datetime
    ) -> Mapping[int, tuple[str, int]]:
        """
        Return the network's name, and how many refunds ended in a period, by chain.

        *until* does not belong to it.
        """
        rows = self._database.rows(BY_CHAIN, since=since, until=until)
        return {chain_id: (network, count) for chain_id, network, count in rows}

    def refunds_of_chain(
        self, chain_id: int, *, after: str, limit: int
    ) -> Sequence[Refund]:
        """Return up to *limit* refunds of a chain with ids above *after*, in order."""
        params = {"of_chain": chain_id, "after": after, "at_most": limit}
        return read_refunds(self._database.rows(OF_CHAIN, **params))
