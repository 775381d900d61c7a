"""Renews the MACs of rows after a rotation of the MAC key."""

from typing import Any

from sqlalchemy import Connection, Select, bindparam, select, update

from backends.sql.holds import renew_holds
from backends.sql.key_rows import KeyRows
from backends.sql.sealed_rows import SealedRows
from backends.sql.tables import accepted_limits, approvals, keys, unrecorded
from backends.sql.wallet_rows import (
    ALL_WALLETS,
    of_wallet,
    select_unrecorded,
    wallet_key,
    wallet_rows,
)
from signer.model.accepted_limits import AcceptedLimits
from signer.model.approval import Approval
from signer.row_macs import RowMACs


_SET_UNRECORDED_MAC = (
    update(unrecorded)
    .where(of_wallet(unrecorded), unrecorded.c.nonce == bindparam("of_nonce"))
    .values(mac=bindparam("new_mac"))
)


def renew_macs(connection: Connection, macs: RowMACs) -> None:
    """
    Give authentic rows a MAC under the current MAC key.

    These are the rows of the ring, stops, blocked tenants, approvals, accepted limits,
    wallets and unrecorded transactions.  A row without a valid MAC stays as it is:
    nothing in the database, its revision included, is a reason to trust a row.

    Raises:
        RowNotAuthenticError: A key of the ring has no valid MAC.
    """
    key_rows = KeyRows(connection, macs)
    key_rows.select(select(keys))  # Requires valid MACs.
    _renew(key_rows, select(keys), macs)
    renew_holds(connection, macs)
    _renew(SealedRows(connection, macs, approvals, Approval), select(approvals), macs)
    limits = SealedRows(connection, macs, accepted_limits, AcceptedLimits)
    _renew(limits, select(accepted_limits), macs)
    _renew(wallet_rows(connection, macs), ALL_WALLETS, macs)
    for each in select_unrecorded(connection, macs, select(unrecorded)):
        if each.is_authentic and not macs.is_current(each.mac):
            key = wallet_key(each.chain_id, each.sender)
            new = {"of_nonce": each.nonce, "new_mac": macs.compute(each)}
            connection.execute(_SET_UNRECORDED_MAC, key | new)


def _renew(rows: SealedRows[Any], query: Select[Any], macs: RowMACs) -> None:
    for row in rows.select_unverified(query):
        if rows.is_authentic(row) and not macs.is_current(row.mac):
            rows.update(row)
