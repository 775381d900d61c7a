"""What each verification and durability step of a payment costs, beside ``C_Sign``."""

import contextlib
import itertools
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from backends.sql import sqlite_dbapi
from bench.devices import open_softhsm
from bench.harness import Figure, Goal, Prepared, Scenario, Values, Work
from bench.signing import GAS, NETWORK, PURPOSE, OpenKey, audit_log
from bench.timing import Action, durable_page, throughput
from signer.crypto.der import parse_signature
from signer.crypto.secp256k1 import recoverable
from signer.crypto.transactions import SignedBytes
from signer.model.audit_record import Subject
from signer.refunds.policy import check_transfer
from signer.row_macs import RowMACs


_BARE = "C_Sign"


@contextlib.contextmanager
def _open(folder: Path, is_quick: bool) -> Iterator[Prepared]:
    token = open_softhsm(folder / "token")
    key = OpenKey(token.backend, token.key_id)
    with contextlib.ExitStack() as cleanup:
        steps = {
            _BARE: lambda: token.sign_bare(os.urandom(32)),
            **_checks(key),
            "one 4 KiB write and fsync": cleanup.enter_context(
                durable_page(folder / "page")
            ),
        }
        name = "commit of one row: SQLite, WAL, synchronous=FULL"
        steps[name] = cleanup.enter_context(_commits(folder / "rows.db"))
        figures = [Figure(_BARE, "us")]
        figures += [
            Figure(name, "us", (Goal(_BARE),)) for name in steps if name != _BARE
        ]
        yield Prepared(figures, [_duration(*step) for step in steps.items()])


def _checks(key: OpenKey) -> Mapping[str, Action]:
    """Return the steps in memory, in the order of a payment."""
    raw = key.sign_transaction()
    signed = SignedBytes.decode(raw)
    transaction, public_key = signed.transaction, key.signer.public_key
    digest = transaction.signing_digest()
    backend, key_id = key.backend, key.signer.key_id
    der = backend.sign_digest(key_id, digest).der
    r, s = parse_signature(der)
    signature = recoverable(r, s, digest, public_key)
    audit, macs = audit_log(), RowMACs({"bench": os.urandom(32)})
    sealed = macs.sealed(key.refund)
    subject = Subject(backend.name, key_id, public_key.address)
    return {
        "MAC of the refund, verified": lambda: macs.require(sealed),
        "policy: the transaction is what the refund pays": lambda: check_transfer(
            transaction, key.refund, NETWORK, gas=GAS
        ),
        "digest of the transaction": transaction.signing_digest,
        "audit record, made and serialised": lambda: audit.write(
            audit.intent(PURPOSE, subject, digest)
        ),
        "signature: strict DER": lambda: parse_signature(der),
        "signature: recovers to the pinned key": lambda: recoverable(
            r, s, digest, public_key
        ),
        "serialise the signed bytes": lambda: transaction.serialise(signature),
        "decode the signed bytes": lambda: SignedBytes.decode(raw),
    }


@contextlib.contextmanager
def _commits(path: Path) -> Iterator[Action]:
    """Yield an action that commits one row of 600 bytes to a new database."""
    path.touch()
    connection = sqlite_dbapi.connect(path)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("CREATE TABLE steps (id INTEGER PRIMARY KEY, body BLOB)")
    numbers, body = itertools.count(1), os.urandom(600)
    yield lambda: connection.execute(
        "INSERT INTO steps VALUES (?, ?)", (next(numbers), body)
    )
    connection.close()


def _duration(name: str, action: Action) -> Work:
    def work(seconds: float) -> Values:
        return {name: 1e6 / throughput(action, 1, seconds)}

    return work


SCENARIO = Scenario(
    "steps", "What each step costs", _open, rounds=11, seconds=0.2, quick_seconds=0.02
)
