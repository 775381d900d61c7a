"""Fills a ledger with many confirmed refunds, and with the rows of each."""

from collections.abc import Iterator
from datetime import datetime

from sqlalchemy import create_engine, text

from signer.model.transaction import (
    Transaction,
    TransactionKind,
    TransactionStatus,
)
from tests.fixtures.scripted_chain import CHAIN_ID, TOKEN
from tests.support.ledgers import ROW_MACS


TENANT = "gateway"

_DAY = "2026-01-01T00:00:00.000000+00:00"

_NUMBERS = {
    "sqlite": "WITH RECURSIVE s(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM s"
    " WHERE n + 1 < :count) {insert} FROM s",
    "postgresql": "{insert} FROM generate_series(0, :count - 1) AS s(n)",
}

_HEX = {
    "sqlite": "printf('%0{width}x', n)",
    "postgresql": "lpad(to_hex(n), {width}, '0')",
}
_UINT = {"sqlite": "printf('%078d', {value})", "postgresql": "{value}"}
_BYTES = {"sqlite": "randomblob(180)", "postgresql": "decode(repeat('ab', 180), 'hex')"}
_TIME = {"sqlite": f"'{_DAY}'", "postgresql": f"timestamptz '{_DAY}'"}

# A new refund is queued otherwise, and a new transaction reserved or mined.
_ANY_ROW = {
    "sqlite": "DROP TRIGGER {table}_begin",
    "postgresql": "ALTER TABLE {table} DISABLE TRIGGER {table}_begin",
}

_TRANSACTIONS = """
INSERT INTO transactions (
  chain_id, sender, nonce, network, kind, composition, key_id, gas_limit, created_at,
  status, updated_at, version, due_at, attempts, tx_hash, block_number, block_hash, mac
)
SELECT :chain, :sender, n, 'local', 'transfer', {hash}, '01', 65000, {at},
  'confirmed', {at}, 4, {at}, 0, {hash}, n, {hash}, CASE n WHEN :count - 1 THEN :mac END
"""

_REFUNDS = """
INSERT INTO refunds (
  id, tenant, idempotency_key, fingerprint, reference, payment_session_id, network,
  chain_id, token, token_address, decimals, recipient, amount, state, created_at,
  updated_at, version, sender, nonce, position, due_at, attempts
)
SELECT {id}, :tenant, 'past-' || n, {hash}, 'past-' || n, 'past-' || n, 'local',
  :chain, 'TUSD', :token, 6, :token, {amount}, 'confirmed', {at},
  {at}, 2, :sender, n, 0, {at}, 0
"""

_MEMBERSHIPS = """
INSERT INTO transaction_payments (payment_id, chain_id, sender, nonce, position)
SELECT {id}, :chain, :sender, n, 0
"""

_ATTEMPTS = """
INSERT INTO attempts (
  tx_hash, attempt, kind, chain_id, sender, nonce, max_fee_per_gas,
  max_priority_fee_per_gas, gas_limit, raw, signed_at
)
SELECT {hash}, 0, 'transfer', :chain, :sender, n, {fee},
  {amount}, 65000, {bytes}, {at}
"""

_MOVES = """
INSERT INTO refund_moves (refund_id, version, status, at)
SELECT {id}, {version}, '{status}', {at}
"""

_STATUSES = ("queued", "reserved", "signed", "broadcast", "mined", "confirmed")


def fill(url: str, sender: str, count: int) -> None:
    """
    Give the ledger at *url* a past of *count* confirmed refunds of one wallet.

    The wallet of *sender* exists.  Only the last transaction has a MAC: it is verified
    with the wallet, and other final rows need none.
    """
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    dialect = engine.dialect.name
    given = {"count": count, "chain": CHAIN_ID, "sender": sender, "token": TOKEN}
    given |= {"mac": _mac(sender, count - 1)}
    with engine.begin() as connection:
        for table in ("refunds", "transactions"):
            connection.exec_driver_sql(_ANY_ROW[dialect].format(table=table))
        for statement in _statements(dialect):
            connection.execute(text(statement), {**given, "tenant": TENANT})
    if dialect == "postgresql":  # As autovacuum does.
        with engine.connect().execution_options(
            isolation_level="AUTOCOMMIT"
        ) as connection:
            connection.exec_driver_sql("VACUUM ANALYZE")
    engine.dispose()


def _mac(sender: str, nonce: int) -> str:
    at, composition = datetime.fromisoformat(_DAY), f"0x{nonce:064x}"
    row = Transaction(
        CHAIN_ID,
        sender,
        nonce,
        "local",
        TransactionKind.TRANSFER,
        composition,
        "01",
        65000,
        at,
        TransactionStatus.CONFIRMED,
        at,
    )
    return ROW_MACS.compute(row)


def _statements(dialect: str) -> Iterator[str]:
    words = {
        "id": f"'rf_' || {_HEX[dialect].format(width=32)}",
        "hash": f"'0x' || {_HEX[dialect].format(width=64)}",
        "at": _TIME[dialect],
        "amount": _UINT[dialect].format(value=10_000),
        "fee": _UINT[dialect].format(value=3 * 10**9),
        "bytes": _BYTES[dialect],
    }
    for insert in (_TRANSACTIONS, _REFUNDS, _MEMBERSHIPS, _ATTEMPTS):
        yield _NUMBERS[dialect].format(insert=insert.format(**words))
    for version, status in enumerate(_STATUSES):
        insert = _MOVES.format(**words, version=version, status=status)
        yield _NUMBERS[dialect].format(insert=insert)
