"""
What a long history costs: ``python -m bench.ledger``.

Two whole stacks run side by side, one with an empty ledger and one with a million
confirmed refunds of the same wallet.  Requests alternate between them, and so do the
worker's idle passes, so that other load on the machine affects both alike.
"""

import argparse
import contextlib
import http.client
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import create_engine, text

from bench.machine import describe_machine
from bench.service import refund_body
from dev.chain import CHAIN_ID
from dev.rpc import RPC
from dev.stack import Stack, running_stack
from signer.alerts import Alerts
from signer.ports import utc_now
from signer.refunds.confirmations import ConfirmationTracker
from signer.refunds.row_alarm import RowAlarm
from tests.support.ledgers import open_ledger


_DAY = "2026-01-01T00:00:00.000000+00:00"

_NUMBERS = {
    "sqlite": "WITH RECURSIVE s(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM s"
    " WHERE n + 1 < :count) {insert} FROM s",
    "postgresql": "{insert} FROM generate_series(0, :count - 1) AS s(n)",
}

# Hex digits that nobody else has, from a number.
_HEX = {
    "sqlite": "printf('%0{width}x', n)",
    "postgresql": "lpad(to_hex(n), {width}, '0')",
}
_UINT = {"sqlite": "printf('%078d', {value})", "postgresql": "{value}"}
_BYTES = {"sqlite": "randomblob(180)", "postgresql": "decode(repeat('ab', 180), 'hex')"}
_TIME = {"sqlite": f"'{_DAY}'", "postgresql": f"timestamptz '{_DAY}'"}

# A new refund is queued otherwise.
_ANY_REFUND = {
    "sqlite": "DROP TRIGGER refunds_begin",
    "postgresql": "ALTER TABLE refunds DISABLE TRIGGER refunds_begin",
}

_WALLET = """
INSERT INTO wallets (chain_id, sender, first_nonce, version)
VALUES (:chain, :sender, 0, 0)
"""

_REFUNDS = """
INSERT INTO refunds (
  id, tenant, idempotency_key, fingerprint, reference, payment_session_id, network,
  chain_id, token, token_address, decimals, recipient, amount, status, created_at,
  updated_at, version, sender, key_id, nonce, gas_limit, tx_hash, block_number,
  block_hash, due_at, attempts
)
SELECT {id}, 'developer', 'past-' || n, {hash}, 'past-' || n, 'past-' || n, 'local',
  :chain, 'TUSD', :token, 6, :token, {amount}, 'confirmed', {at},
  {at}, 5, :sender, '01', n, 65000, {hash}, n,
  {hash}, {at}, 0
"""

_TRANSACTIONS = """
INSERT INTO transactions (
  tx_hash, refund_id, attempt, kind, chain_id, sender, nonce, max_fee_per_gas,
  max_priority_fee_per_gas, gas_limit, raw, signed_at
)
SELECT {hash}, {id}, 0, 'transfer', :chain, :sender, n, {fee},
  {amount}, 65000, {bytes}, {at}
"""

_ANSWERS = "INSERT INTO answers (refund_id, body, at) SELECT {id}, {body}, {at}"

_MOVES = """
INSERT INTO refund_moves (refund_id, version, status, at)
SELECT {id}, {version}, '{status}', {at}
"""

_TOKEN_SECONDS = 200

_STATUSES = ("queued", "reserved", "signed", "broadcast", "mined", "confirmed")


def main() -> int:
    """Measure, and print JSON."""
    parser = argparse.ArgumentParser(prog="python -m bench.ledger", description=__doc__)
    parser.add_argument("--refunds", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument(
        "--databases",
        nargs=2,
        metavar=("EMPTY", "FULL"),
        help="URLs of two empty databases; SQLite files of its own if not given",
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        homes = [Path(folder) / name for name in ("empty", "full")]
        urls = options.databases or [f"sqlite:///{home / 'l.db'}" for home in homes]
        with contextlib.ExitStack() as cleanup:
            stacks = [
                cleanup.enter_context(
                    running_stack(home, settings={"DATABASE_URL": url})
                )
                for home, url in zip(homes, urls, strict=True)
            ]
            began = time.monotonic()
            fill(urls[1], stacks[1], options.refunds)
            print(f"filled in {time.monotonic() - began:.0f} s", file=sys.stderr)
            results = {
                "machine": describe_machine(),
                "refunds": options.refunds,
                "POST /v1/refunds": _compare(
                    [_poster(stack) for stack in stacks], options.seconds
                ),
                "idle pass": _compare(
                    [cleanup.enter_context(_idle(url)) for url in urls],
                    options.seconds / 4,
                ),
            }
    print(json.dumps(results, indent=2))
    return 0


def fill(url: str, stack: Stack, count: int) -> None:
    """Give the ledger at *url* a past of *count* confirmed refunds, chain included."""
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as connection:
        connection.exec_driver_sql(_ANY_REFUND[engine.dialect.name])
        for statement in _statements(engine.dialect.name):
            connection.execute(
                text(statement),
                {
                    "count": count,
                    "chain": CHAIN_ID,
                    "sender": stack.address,
                    "token": stack.token,
                },
            )
    if engine.dialect.name == "postgresql":
        with engine.connect().execution_options(
            isolation_level="AUTOCOMMIT"
        ) as connection:
            connection.exec_driver_sql("VACUUM ANALYZE")
    engine.dispose()
    RPC(stack.chain_url)("anvil_setNonce", stack.address, hex(count))


def _statements(dialect: str) -> Iterator[str]:
    words = {
        "id": f"'rf_' || {_HEX[dialect].format(width=32)}",
        "hash": f"'0x' || {_HEX[dialect].format(width=64)}",
        "at": _TIME[dialect],
        "amount": _UINT[dialect].format(value=10_000),
        "fee": _UINT[dialect].format(value=3 * 10**9),
        "bytes": _BYTES[dialect],
        "body": f"'{'x' * 600}'",
    }
    yield _WALLET
    for insert in (_REFUNDS, _TRANSACTIONS, _ANSWERS):
        yield _NUMBERS[dialect].format(insert=insert.format(**words))
    for version, status in enumerate(_STATUSES):
        insert = _MOVES.format(**words, version=version, status=status)
        yield _NUMBERS[dialect].format(insert=insert)


def post(connection: http.client.HTTPConnection, token: str, name: str) -> None:
    """
    Ask for the refund *name*, and wait for the answer.

    Raises:
        RuntimeError: It was not created.
    """
    headers = {
        "Authorization": f"Bearer {token}",
        "Content-Type": "application/json",
        "Idempotency-Key": name,
    }
    connection.request("POST", "/v1/refunds", json.dumps(refund_body(name)), headers)
    answer = connection.getresponse()
    content = answer.read()
    if answer.status != http.client.CREATED:
        raise RuntimeError(f"POST answered {answer.status}: {content[:300]!r}")


def _poster(stack: Stack) -> Callable[[], object]:
    connection = http.client.HTTPConnection(urlsplit(stack.url).netloc, timeout=30)
    began = time.monotonic()
    token, number = stack.command("token", "--role", "merchant"), 0

    def ask() -> None:
        nonlocal token, number, began
        if time.monotonic() - began > _TOKEN_SECONDS:
            token, began = (
                stack.command("token", "--role", "merchant"),
                time.monotonic(),
            )
        number += 1
        post(connection, token, f"bench-{number}")

    return ask


@contextlib.contextmanager
def _idle(url: str) -> Iterator[Callable[[], object]]:
    """Yield what a worker asks the ledger in each pass, with nothing to be done."""
    store = open_ledger(url)
    tracker = ConfirmationTracker(store, {}, utc_now, RowAlarm(Alerts()))
    deadline = time.monotonic() + 60
    while store.in_flight(1) and time.monotonic() < deadline:
        time.sleep(0.5)  # The requests' own refunds are still on their way.

    def look() -> None:
        now = utc_now()
        tracker.track()
        store.claim(now, now + timedelta(seconds=10), 10)

    yield look
    store.close()


def _compare(actions: list[Callable[[], object]], seconds: float) -> dict[str, Any]:
    """Run both in turns; return their medians, and the full one's ratio."""
    taken: list[list[float]] = [[], []]
    for action in actions:
        action()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for action, samples in zip(actions, taken, strict=True):
            began = time.perf_counter()
            action()
            samples.append((time.perf_counter() - began) * 1000)
    empty, full = (statistics.median(samples) for samples in taken)
    return {
        "samples": len(taken[0]),
        "empty: p50 ms": round(empty, 3),
        "full: p50 ms": round(full, 3),
        "ratio": round(full / empty, 3),
    }


if __name__ == "__main__":
    sys.exit(main())
