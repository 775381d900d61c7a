"""Wallets, and the transactions that their chains had and the ledger did not."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from itertools import chain, islice
from operator import attrgetter
from types import MappingProxyType
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Integer,
    Select,
    Table,
    Update,
    bindparam,
    func,
    select,
    union_all,
    update,
)

from backends.sql.advisory_locks import lock_chain
from backends.sql.columns import UTCDateTime
from backends.sql.database import Tables
from backends.sql.inserts import insert_new
from backends.sql.reservations import next_nonce
from backends.sql.schema import refunds, sightings, wallets
from signer.errors import StaleStateError
from signer.model.wallet import Pause, UnrecordedTransaction, Wallet


_chain = bindparam("of_chain", type_=wallets.c.chain_id.type)
_sender = bindparam("of_sender", type_=wallets.c.sender.type)


def _of_wallet(table: Table) -> ColumnElement[bool]:
    return (table.c.chain_id == _chain) & (table.c.sender == _sender)


_WALLET = select(
    wallets.c.chain_id,
    wallets.c.sender,
    wallets.c.first_nonce,
    next_nonce(_chain, _sender),
    wallets.c.paused_by,
    wallets.c.paused_at,
    wallets.c.version,
).where(_of_wallet(wallets))

_KEYS = select(wallets.c.chain_id, wallets.c.sender).order_by(
    wallets.c.chain_id, wallets.c.sender
)

_PAUSED_KEYS = select(wallets.c.chain_id, wallets.c.sender).where(
    wallets.c.paused_by.is_not(None)
)

_UNCHANGED = (
    update(wallets)
    .where(_of_wallet(wallets), wallets.c.version == bindparam("before"))
    .values(version=bindparam("before") + 1)
)

_PAUSED = _UNCHANGED.values(
    paused_by=bindparam("reason", type_=wallets.c.paused_by.type),
    paused_at=bindparam("at", type_=UTCDateTime),
)

_RESUMED = _UNCHANGED.values(paused_by=None, paused_at=None)

_UNRECORDED = select(sightings, refunds.c.id).outerjoin(
    refunds,
    (refunds.c.chain_id == sightings.c.chain_id)
    & (refunds.c.sender == sightings.c.sender)
    & (refunds.c.nonce == sightings.c.nonce),
)

_below = bindparam("below", type_=refunds.c.nonce.type)


def _used_nonces(table: Table) -> Select[int]:
    return select(table.c.nonce).where(_of_wallet(table), table.c.nonce < _below)


# Pairs each used nonce with the next used one; the nonces between them are gaps.
_ENDS = union_all(
    _used_nonces(refunds),
    _used_nonces(sightings),
    select(wallets.c.first_nonce - 1).where(
        _of_wallet(wallets), wallets.c.first_nonce < _below
    ),
    select(_below),
).subquery()
_PAIRS = select(
    (_ENDS.c.nonce + 1).label("first"),
    func.lead(_ENDS.c.nonce).over(order_by=_ENDS.c.nonce).label("until"),
).subquery()
_GAPS = (
    select(_PAIRS.c.first, _PAIRS.c.until)
    .where(_PAIRS.c.first < _PAIRS.c.until)
    .order_by(_PAIRS.c.first)
    .limit(bindparam("limit", type_=Integer))
)

_UNACCEPTED = (sightings.c.mark.is_(None), sightings.c.accepted_at.is_(None))

_FOREIGN = _UNRECORDED.where(_of_wallet(sightings), *_UNACCEPTED).order_by(
    sightings.c.nonce
)

_WITH_MARKS = _UNRECORDED.where(
    sightings.c.chain_id == _chain,
    sightings.c.mark.in_(
        bindparam("marks", type_=sightings.c.mark.type, expanding=True)
    ),
).order_by(sightings.c.nonce.desc())

_ACCEPT = (
    update(sightings)
    .where(_of_wallet(sightings), *_UNACCEPTED)
    .values(accepted_at=bindparam("at", type_=UTCDateTime))
)


class WalletTables(Tables):
    """The wallets of ``signer.ports.Store``."""

    def wallet(self, chain_id: int, sender: str) -> Wallet | None:
        rows = self._database.rows(_WALLET, **_key(chain_id, sender))
        return Wallet(*rows[0]) if rows else None

    def wallets(self) -> Sequence[Wallet]:
        each = (self.wallet(*key) for key in self._database.rows(_KEYS))
        return tuple(wallet for wallet in each if wallet is not None)

    def paused_wallets(self) -> Collection[tuple[int, str]]:
        return {(row.chain_id, row.sender) for row in self._database.rows(_PAUSED_KEYS)}

    def open_wallet(self, wallet: Wallet) -> None:
        insert = insert_new(self._database.dialect, wallets)
        self._database.write(lambda c: c.execute(insert, _row(wallets, wallet)).all())

    def pause(self, wallet: Wallet, reason: Pause, at: datetime) -> None:
        params = {"reason": reason, "at": at}
        self._database.transaction(lambda c: _change(c, wallet, _PAUSED, params))

    def add_unrecorded(
        self, wallet: Wallet, seen: Sequence[UnrecordedTransaction]
    ) -> None:
        insert = insert_new(self._database.dialect, sightings)

        def work(connection: Connection) -> None:
            _change(connection, wallet, _UNCHANGED)
            for each in seen:
                connection.execute(insert, _row(sightings, each)).all()

        self._database.transaction(work)

    def unknown_nonces(
        self, chain_id: int, sender: str, below: int, limit: int
    ) -> Sequence[int]:
        wallet = _key(chain_id, sender)
        gaps = self._database.rows(_GAPS, **wallet, below=below, limit=limit)
        nonces = chain.from_iterable(range(first, end) for first, end in gaps)
        return tuple(islice(nonces, limit))

    def foreign_transactions(
        self, chain_id: int, sender: str
    ) -> Sequence[UnrecordedTransaction]:
        rows = self._database.rows(_FOREIGN, **_key(chain_id, sender))
        return tuple(UnrecordedTransaction(*row) for row in rows)

    def resume(
        self, wallet: Wallet, at: datetime, foreign: Sequence[UnrecordedTransaction]
    ) -> None:
        def work(connection: Connection) -> None:
            _change(connection, wallet, _RESUMED)
            of_wallet = _key(wallet.chain_id, wallet.sender)
            stored = connection.execute(_FOREIGN, of_wallet).all()
            if {row.tx_hash for row in stored} != {each.tx_hash for each in foreign}:
                raise StaleStateError("a foreign transaction was recorded meanwhile")
            connection.execute(_ACCEPT, {**of_wallet, "at": at})

        self._database.transaction(work)

    def find_unrecorded(
        self, chain_id: int, marks: Collection[bytes]
    ) -> Mapping[bytes, UnrecordedTransaction]:
        rows = self._database.rows(_WITH_MARKS, of_chain=chain_id, marks=list(marks))
        # The highest nonces come first, so that the lowest one of a mark is kept.
        return {bytes(row.mark): UnrecordedTransaction(*row) for row in rows}


def _change(
    connection: Connection,
    wallet: Wallet,
    change: Update,
    params: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    # A reservation in progress either has its nonce by now, or sees this change.
    lock_chain(connection, wallet.chain_id)
    of_wallet = _key(wallet.chain_id, wallet.sender)
    result = connection.execute(
        change, {**of_wallet, "before": wallet.version, **params}
    )
    if result.rowcount != 1:
        raise StaleStateError("the wallet was changed meanwhile")


def _key(chain_id: int, sender: str) -> dict[str, Any]:
    return {"of_chain": chain_id, "of_sender": sender}


def _row(table: Table, source: Wallet | UnrecordedTransaction) -> dict[str, Any]:
    names = table.c.keys()
    return dict(zip(names, attrgetter(*names)(source), strict=True))
