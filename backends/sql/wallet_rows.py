"""Reads the rows of wallets and of unrecorded transactions, and verifies their MACs."""

from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from backends.sql.tables import refunds, transactions, unrecorded, wallets
from backends.sql.versioned_rows import SealedRows
from signer.model.transaction import Transaction
from signer.model.wallet import Pause, UnrecordedTransaction, Wallet
from signer.row_macs import RowMACs


_chain = sa.bindparam("of_chain", type_=wallets.c.chain_id.type)
_sender = sa.bindparam("of_sender", type_=wallets.c.sender.type)


def of_wallet(table: Any) -> sa.ColumnElement[bool]:
    """Return the condition that a row of *table* is of the wallet in ``wallet_key``."""
    condition: sa.ColumnElement[bool] = (table.c.chain_id == _chain) & (
        table.c.sender == _sender
    )
    return condition


def wallet_key(chain_id: int, sender: str) -> dict[str, Any]:
    return {"of_chain": chain_id, "of_sender": sender}


def next_nonce(chain_id: Any, sender: Any) -> Any:
    """
    Return one past the highest nonce that a row of the wallet has.

    A row is a transaction, a refund of the batch that has no transaction yet, or an
    unrecorded transaction.  Each lookup uses a unique index, so the cost does not grow
    with the ledger.  The result is never less than the wallet's
    first nonce.
    """

    def one_past(table: sa.Table) -> Any:
        used = table.alias()
        return (
            sa.select(used.c.nonce + 1)
            .where(
                used.c.chain_id == chain_id,
                used.c.sender == sender,
                used.c.nonce.is_not(None),
            )
            .order_by(used.c.nonce.desc())
            .limit(1)
            .scalar_subquery()
        )

    first = (
        sa.select(wallets.c.first_nonce)
        .where(wallets.c.chain_id == chain_id, wallets.c.sender == sender)
        .scalar_subquery()
    )
    each = sa.union_all(
        *(
            sa.select(nonce.label("nonce"))
            for nonce in (*map(one_past, (transactions, refunds, unrecorded)), first)
        )
    ).subquery()
    return sa.select(sa.func.max(each.c.nonce)).scalar_subquery()


def _columns(next_nonce: Any) -> Sequence[Any]:
    """Return the columns of ``Wallet`` in the order of its fields."""
    names = [each.name for each in fields(Wallet) if each.name != "is_authentic"]
    computed = {"next_nonce": next_nonce}
    return [computed[name] if name in computed else wallets.c[name] for name in names]


ALL_WALLETS = sa.select(*_columns(wallets.c.first_nonce)).order_by(
    wallets.c.chain_id, wallets.c.sender
)
"""Selects every wallet without its next nonce, which takes a query for each."""

_OF_ADDRESS = ALL_WALLETS.where(
    wallets.c.sender == sa.bindparam("of_address")
).with_for_update()

_WIDTH = len(ALL_WALLETS.selected_columns)

_last_sent = transactions.alias("last_transaction")
_last_unrecorded = unrecorded.alias("last_unrecorded")


def _is_last(alias: sa.FromClause, table: sa.Table) -> sa.ColumnElement[bool]:
    last = (
        sa.select(sa.func.max(table.c.nonce)).where(of_wallet(table)).scalar_subquery()
    )
    return of_wallet(alias) & (alias.c.nonce == last)


# Of a batch, its first item shows that it is not invented.
_is_last_unrecorded = _is_last(_last_unrecorded, unrecorded) & (
    _last_unrecorded.c.position == 0
)


_WALLET = (
    sa.select(
        *_columns(next_nonce(_chain, _sender)), *_last_sent.c, *_last_unrecorded.c
    )
    .select_from(
        wallets.outerjoin(_last_sent, _is_last(_last_sent, transactions)).outerjoin(
            _last_unrecorded, _is_last_unrecorded
        )
    )
    .where(of_wallet(wallets))
)

_SEEN = _WIDTH + len(_last_sent.c)


def wallet_rows(connection: sa.Connection, macs: RowMACs) -> SealedRows[Wallet]:
    return SealedRows(connection, macs, wallets, Wallet)


def find_wallet(
    connection: sa.Connection, macs: RowMACs, chain_id: int, sender: str
) -> Wallet | None:
    """
    Return the wallet with whether it is authentic, or None if it was never opened.

    Its transaction with the highest nonce is verified as well, and so is its unrecorded
    transaction: an invented one would raise the next nonce.  That would hide a
    transaction of the chain, and what got a nonce then would wait for those below.
    """
    row = connection.execute(_WALLET, wallet_key(chain_id, sender)).one_or_none()
    if row is None:
        return None
    wallet = Wallet(*row[:_WIDTH])
    sent, seen = Transaction(*row[_WIDTH:_SEEN]), UnrecordedTransaction(*row[_SEEN:])
    last = [each for each in (sent, seen) if each.nonce is not None]
    known = max([wallet.first_nonce, *(each.nonce + 1 for each in last)])
    is_authentic = wallet.next_nonce == known and all(
        macs.is_valid(each.mac, each) for each in (wallet, *last)
    )
    return replace(wallet, is_authentic=is_authentic)


def select_unrecorded(
    connection: sa.Connection, macs: RowMACs, query: sa.Select[Any], **values: Any
) -> Sequence[UnrecordedTransaction]:
    """Return what *query* selects, each with whether it is authentic."""
    found = (UnrecordedTransaction(*row) for row in connection.execute(query, values))
    return tuple(
        replace(each, is_authentic=macs.is_valid(each.mac, each)) for each in found
    )


def pause_wallets(
    connection: sa.Connection, macs: RowMACs, address: str, at: datetime
) -> None:
    """
    Pause the wallets of *address*: the ledger may lack what they have sent.

    One that another program changed counts as paused, and stays as it is.  One that is
    paused as restored waits for more than the others, and stays so.
    """
    rows = wallet_rows(connection, macs)
    found: Iterable[Wallet] = rows.select_unverified(_OF_ADDRESS, of_address=address)
    for wallet in found:
        if rows.is_authentic(wallet):
            is_restored = wallet.paused_by is Pause.RESTORED
            reason = Pause.RESTORED if is_restored else Pause.CHAIN_AHEAD
            rows.update(wallet, paused_by=reason, paused_at=at)
