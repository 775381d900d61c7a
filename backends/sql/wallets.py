"""Wallets, and the transactions that their chains had and the ledger did not."""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from itertools import chain, islice
from typing import Any, TypeVar

import sqlalchemy as sa

from backends.sql.advisory_locks import lock_chain
from backends.sql.approvals import use_approval
from backends.sql.columns import UTCDateTime
from backends.sql.database import Tables
from backends.sql.refund_rows import same_nonce
from backends.sql.tables import IS_FILLER, refunds, transactions, unrecorded, wallets
from backends.sql.urls import POSTGRESQL, SQLITE
from backends.sql.wallet_rows import (
    find_wallet,
    of_wallet,
    select_unrecorded,
    wallet_key,
    wallet_rows,
)
from signer.errors import StaleStateError
from signer.model.approval import ApprovalUse
from signer.model.transaction import Transaction, TransactionKind
from signer.model.wallet import Pause, UnrecordedTransaction, Wallet


T = TypeVar("T")

_COLUMNS = tuple(unrecorded.c.keys())

_KEYS = sa.select(wallets.c.chain_id, wallets.c.sender).order_by(
    wallets.c.chain_id, wallets.c.sender
)

_PAUSED_KEYS = sa.select(wallets.c.chain_id, wallets.c.sender).where(
    wallets.c.paused_by.is_not(None)
)

_UNRECORDED = sa.select(unrecorded, transactions.c.nonce.is_not(None)).outerjoin(
    transactions, same_nonce(transactions, unrecorded)
)

_OF_WALLET = _UNRECORDED.where(of_wallet(unrecorded)).order_by(
    unrecorded.c.nonce, unrecorded.c.position
)

_UNACCEPTED = _OF_WALLET.where(
    unrecorded.c.memo.is_(None), unrecorded.c.accepted_at.is_(None)
)

_MEMOS = {
    SQLITE: "IN (SELECT unhex(value) FROM json_each(:memos))",
    POSTGRESQL: "= ANY (CAST(:memos AS bytea[]))",
}
"""By dialect, one parameter for any number of memos: the text is prepared once."""

_WITH_MEMOS = {
    dialect: _UNRECORDED.where(
        unrecorded.c.chain_id == sa.bindparam("of_chain"),
        sa.text(f"unrecorded_transactions.memo {is_given}"),
    ).order_by(unrecorded.c.nonce.desc())
    for dialect, is_given in _MEMOS.items()
}

_KNOWN = sa.select(unrecorded.c.nonce).where(
    of_wallet(unrecorded),
    unrecorded.c.nonce.in_(sa.bindparam("nonces", expanding=True)),
)

_ACCEPT = (
    sa.update(unrecorded)
    .where(
        of_wallet(unrecorded),
        unrecorded.c.nonce == sa.bindparam("of_nonce"),
        unrecorded.c.position == sa.bindparam("of_position"),
    )
    .values(
        accepted_at=sa.bindparam("new_accepted_at", type_=UTCDateTime),
        mac=sa.bindparam("new_mac"),
    )
)

_below = sa.bindparam("below", type_=refunds.c.nonce.type)


def _used_nonces(table: sa.Table) -> sa.Select[int]:
    return sa.select(table.c.nonce).where(of_wallet(table), table.c.nonce < _below)


# Pairs each used nonce with the next used one; the nonces between them are gaps.
_ENDS = sa.union_all(
    _used_nonces(refunds),
    _used_nonces(unrecorded),
    sa.select(wallets.c.first_nonce - 1).where(
        of_wallet(wallets), wallets.c.first_nonce < _below
    ),
    sa.select(_below),
).subquery()
_PAIRS = sa.select(
    (_ENDS.c.nonce + 1).label("first"),
    sa.func.lead(_ENDS.c.nonce).over(order_by=_ENDS.c.nonce).label("until"),
).subquery()
_GAPS = (
    sa.select(_PAIRS.c.first, _PAIRS.c.until)
    .where(_PAIRS.c.first < _PAIRS.c.until)
    .order_by(_PAIRS.c.first)
    .limit(sa.bindparam("limit", type_=sa.Integer))
)


_UNPOINTED = sa.select(transactions).where(
    # All payments of a final batch may be queued again.
    sa.or_(
        sa.text(IS_FILLER),
        sa.and_(
            transactions.c.kind == TransactionKind.BATCH,
            ~sa.exists().where(same_nonce(refunds, transactions)),
        ),
    ),
    of_wallet(transactions),
    transactions.c.nonce < _below,
)
"""Transactions that no refund points to."""


class WalletTables(Tables):
    """The wallets of ``signer.ports.RefundStore``."""

    def wallet(self, chain_id: int, sender: str) -> Wallet | None:
        return self._database.run(
            lambda c: find_wallet(c, self._macs, chain_id, sender)
        )

    def wallets(self) -> Sequence[Wallet]:
        each = (self.wallet(*key) for key in self._database.rows(_KEYS))
        return tuple(wallet for wallet in each if wallet is not None)

    def paused_wallets(self) -> Collection[tuple[int, str]]:
        return {(row.chain_id, row.sender) for row in self._database.rows(_PAUSED_KEYS)}

    def open_wallet(self, wallet: Wallet) -> None:
        def work(connection: sa.Connection) -> None:
            rows = wallet_rows(connection, self._macs)
            key = wallet.chain_id, wallet.sender
            stored = find_wallet(connection, self._macs, *key)
            if stored is None:
                rows.insert(wallet)
            elif not rows.is_authentic(stored):
                # A stored first nonce that is lower only makes the worker look at more.
                first = min(stored.first_nonce, wallet.first_nonce)
                rows.replace(stored, replace(wallet, first_nonce=first))

        self._with_chain(wallet.chain_id, work)

    def pause(
        self,
        wallet: Wallet,
        reason: Pause,
        at: datetime,
        high_water: int | None = None,
    ) -> None:
        changes = {"paused_by": reason, "paused_at": at, "high_water": high_water}
        self._with_chain(wallet.chain_id, lambda c: self._change(c, wallet, **changes))

    def add_unrecorded(
        self, wallet: Wallet, seen: Sequence[UnrecordedTransaction]
    ) -> None:
        key = wallet_key(wallet.chain_id, wallet.sender)

        def work(connection: sa.Connection) -> None:
            self._change(connection, wallet)
            nonces = [each.nonce for each in seen]
            known = set(connection.execute(_KNOWN, {**key, "nonces": nonces}).scalars())
            new = [self._macs.sealed(each) for each in seen if each.nonce not in known]
            if new:
                connection.execute(sa.insert(unrecorded), [_row(each) for each in new])

        self._with_chain(wallet.chain_id, work)

    def unknown_nonces(
        self, chain_id: int, sender: str, below: int, limit: int
    ) -> Sequence[int]:
        wallet = {**wallet_key(chain_id, sender), "below": below}
        rows = self._database.rows(_UNPOINTED, **wallet)
        found = (Transaction(*row) for row in rows)
        # An invented one must not hide what the chain has.
        filled = {each.nonce for each in found if self._macs.is_valid(each.mac, each)}
        most = limit + len(filled)
        gaps = self._database.rows(_GAPS, **wallet, limit=most)
        nonces = chain.from_iterable(range(first, end) for first, end in gaps)
        unfilled = (nonce for nonce in nonces if nonce not in filled)
        return tuple(islice(unfilled, limit))

    def foreign_transactions(
        self, chain_id: int, sender: str
    ) -> Sequence[UnrecordedTransaction]:
        return self._unrecorded(_UNACCEPTED, **wallet_key(chain_id, sender))

    def resume(
        self,
        wallet: Wallet,
        at: datetime,
        foreign: Sequence[UnrecordedTransaction],
        use: ApprovalUse | None = None,
    ) -> None:
        key = wallet_key(wallet.chain_id, wallet.sender)

        def work(connection: sa.Connection) -> None:
            self._change(
                connection, wallet, paused_by=None, paused_at=None, high_water=None
            )
            stored = select_unrecorded(connection, self._macs, _OF_WALLET, **key)
            for each in stored:
                # Another program may have accepted it.
                each.require_authentic()
            unaccepted = [each for each in stored if each.is_unaccepted]
            hashes = {each.tx_hash for each in unaccepted}
            if hashes != {each.tx_hash for each in foreign}:
                raise StaleStateError("a foreign transaction was recorded meanwhile")
            for each in unaccepted:
                after = self._macs.sealed(replace(each, accepted_at=at))
                own = {"of_nonce": each.nonce, "of_position": each.position}
                new = {"new_accepted_at": at, "new_mac": after.mac}
                connection.execute(_ACCEPT, {**key, **own, **new})
            use_approval(connection, self._macs, use)

        self._with_chain(wallet.chain_id, work)

    def find_unrecorded(
        self, chain_id: int, memos: Collection[bytes]
    ) -> Mapping[bytes, UnrecordedTransaction]:
        dialect = self._database.dialect
        given: Any = list(memos)
        if dialect == SQLITE:
            given = json.dumps([each.hex() for each in memos])
        found = self._unrecorded(_WITH_MEMOS[dialect], of_chain=chain_id, memos=given)
        # The highest nonces come first, so that the lowest one of a memo is kept: the
        # lowest that paid, if one did.
        found = sorted(found, key=lambda each: each.has_paid)
        return {each.memo: each for each in found if each.memo is not None}

    def _unrecorded(
        self, query: sa.Select[Any], **values: Any
    ) -> Sequence[UnrecordedTransaction]:
        return self._database.run(
            lambda c: select_unrecorded(c, self._macs, query, **values)
        )

    def _with_chain(self, chain_id: int, work: Callable[[sa.Connection], T]) -> T:
        """Return what *work* returns, in a transaction that has the chain's lock."""

        def locked(connection: sa.Connection) -> T:
            # A reservation in progress has its nonce by now, or sees this change.
            lock_chain(connection, chain_id)
            return work(connection)

        return self._database.transaction(locked)

    def _change(
        self, connection: sa.Connection, wallet: Wallet, **changes: Any
    ) -> None:
        """Apply *changes* to *wallet*, which must be authentic; another version."""
        if not wallet.is_authentic:
            raise wallet.error()
        wallet_rows(connection, self._macs).update(wallet, **changes)


def _row(source: UnrecordedTransaction) -> dict[str, Any]:
    return {name: getattr(source, name) for name in _COLUMNS}
