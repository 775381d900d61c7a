"""Gives MACs to rows that have none, and renews those of an earlier MAC key."""

from typing import Any

from sqlalchemy import Connection, Select, Update, bindparam, select, text, update

from backends.sql.key_rows import KeyRows
from backends.sql.schema import (
    IS_OPEN,
    accepted_limits,
    approvals,
    audit_records,
    keys,
    refunds,
    sightings,
    stops,
    tenant_blocks,
)
from backends.sql.sealed_rows import SealedRows
from backends.sql.wallet_rows import (
    ALL_WALLETS,
    of_wallet,
    select_sightings,
    wallet_key,
    wallet_rows,
)
from signer.errors import ConfigurationError, Refusal
from signer.model.accepted_limits import AcceptedLimits
from signer.model.approval import Approval
from signer.model.audit_record import Record
from signer.model.refund import Refund
from signer.model.stop import Stop
from signer.model.tenant_block import TenantBlock
from signer.row_macs import RowMACs


_BEFORE_MACS = "0003"

_BEFORE_WALLET_MACS = frozenset({_BEFORE_MACS, "0004"})

_OPEN_REFUNDS = select(refunds).where(text(IS_OPEN))

_UNSEALED = select(audit_records.c.id, audit_records.c.body).where(
    audit_records.c.sequence.is_(None)
)

_SET_REFUND_MAC, _SET_RECORD_MAC = (
    update(table)
    .where(table.c.id == bindparam("of_id"))
    .values(mac=bindparam("new_mac"))
    for table in (refunds, audit_records)
)

_SET_SIGHTING_MAC = (
    update(sightings)
    .where(of_wallet(sightings), sightings.c.nonce == bindparam("of_nonce"))
    .values(mac=bindparam("new_mac"))
)


def update_macs(
    connection: Connection, macs: RowMACs | None, before: str | None
) -> None:
    """
    Give rows a MAC under the current MAC key, in a ledger of revision *before*.

    These are the rows of the ring, stops, blocked tenants, approvals, wallets and
    unrecorded transactions.  A revision in which a row had no MAC trusts the row as it
    is, once; from before all MACs, open refunds and unsealed audit records get one as
    well.  Otherwise a row without a valid MAC stays as it is.

    Raises:
        ConfigurationError: ``mac-key-missing``: trusted rows need *macs*.
        RowNotAuthenticError: A key of the ring has no valid MAC.
    """
    is_trusted = before == _BEFORE_MACS
    are_wallets_trusted = before in _BEFORE_WALLET_MACS
    if macs is None:
        if are_wallets_trusted and connection.execute(select(keys)).first():
            raise ConfigurationError(Refusal("mac-key-missing", "set MAC_KEY_FILE"))
        return
    key_rows = KeyRows(connection, macs)
    if not is_trusted:
        key_rows.select(select(keys))  # Requires valid MACs.
    for rows, query in (
        (key_rows, select(keys)),
        (SealedRows(connection, macs, stops, Stop), select(stops)),
        (
            SealedRows(connection, macs, tenant_blocks, TenantBlock),
            select(tenant_blocks),
        ),
        (SealedRows(connection, macs, approvals, Approval), select(approvals)),
        (
            SealedRows(connection, macs, accepted_limits, AcceptedLimits),
            select(accepted_limits),
        ),
    ):
        _renew(rows, query, macs, trusted=is_trusted)
    wallets = wallet_rows(connection, macs)
    _renew(wallets, ALL_WALLETS, macs, trusted=are_wallets_trusted)
    _renew_sightings(connection, macs, trusted=are_wallets_trusted)
    if is_trusted:
        _trust(connection, macs)


def _renew(
    rows: SealedRows[Any], query: Select[Any], macs: RowMACs, *, trusted: bool
) -> None:
    for row in rows.select_unverified(query):
        if not macs.is_current(row.mac) and (trusted or rows.is_authentic(row)):
            rows.update(row)


def _renew_sightings(connection: Connection, macs: RowMACs, *, trusted: bool) -> None:
    for each in select_sightings(connection, macs, select(sightings)):
        if not macs.is_current(each.mac) and (trusted or each.is_authentic):
            key = wallet_key(each.chain_id, each.sender)
            new = {"of_nonce": each.nonce, "new_mac": macs.compute(each)}
            connection.execute(_SET_SIGHTING_MAC, key | new)


def _trust(connection: Connection, macs: RowMACs) -> None:
    """Give open refunds and unsealed audit records their first MAC."""
    for row in connection.execute(_OPEN_REFUNDS).all():
        refund = Refund(*row)
        _set_mac(connection, _SET_REFUND_MAC, refund.id, macs.compute(refund))
    for row in connection.execute(_UNSEALED).all():
        record = Record(*row)
        _set_mac(connection, _SET_RECORD_MAC, record.id, macs.compute(record))


def _set_mac(connection: Connection, statement: Update, id_: str, mac: str) -> None:
    connection.execute(statement, {"of_id": id_, "new_mac": mac})
