"""What each verification and durability step of a payment costs, beside ``C_Sign``."""

import contextlib
import itertools
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import psycopg

from backends.json_rpc.client import JSONRPCChain
from backends.sql import sqlite_dbapi
from bench.devices import open_softhsm
from bench.harness import Figure, Goal, Prepared, Scenario, Values, Work
from bench.postgresql import postgresql_database
from bench.signing import (
    AMOUNT,
    GAS,
    NETWORK,
    PURPOSE,
    RECIPIENT,
    OpenKey,
    audit_log,
)
from bench.timing import Action, durable_page, throughput
from dev import stablecoin
from dev.anvil import ROOT, obtain_anvil
from dev.chain import LocalChain
from signer.chain.erc20 import encode_transfer
from signer.crypto.der import parse_signature
from signer.crypto.secp256k1 import recoverable
from signer.crypto.transactions import SignedBytes
from signer.model.audit_record import Subject
from signer.ports.chain import Call
from signer.refunds.payment_checks import check_transfer
from signer.row_macs import RowMACs


_BARE = "C_Sign"
_BATCH = 16
_NODE_SECONDS = 10.0
_ESTIMATE = "gas estimate, which simulates the transfer: one node, one refund"
_NODE = f"pending count, fees, {_BATCH} gas estimates: one node, per refund"
_QUORUM = f"pending count, fees, {_BATCH} gas estimates: quorum of three, per refund"


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
        name = "commit of one row: PostgreSQL, synchronous_commit=on"
        steps[name] = cleanup.enter_context(_postgresql_commits())
        steps |= cleanup.enter_context(_questions(token.address))
        figures = [Figure(_BARE, "us")]
        figures += [
            Figure(name, "us", (Goal(_BARE),)) for name in steps if name != _BARE
        ]
        note = "One anvil does the work of the three nodes."
        works = [_duration(*step) for step in steps.items()]
        yield Prepared(figures, works, [note])


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
    sealed = macs.sealed(key.paid.payment)
    subject = Subject(backend.name, key_id, public_key.address)
    return {
        "MAC of the refund, made": lambda: macs.sealed(key.paid.payment),
        "MAC of the refund, verified": lambda: macs.require(sealed),
        "policy: the transaction is what the refund pays": lambda: check_transfer(
            transaction, key.paid.payment, NETWORK, gas=GAS
        ),
        "digest of the transaction": transaction.signing_digest,
        "policy: facts of the transaction, and a decision in Cedar": lambda: key.decide(
            transaction, digest
        ),
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


@contextlib.contextmanager
def _postgresql_commits() -> Iterator[Action]:
    """Yield an action that commits one row of 600 bytes to a new table."""
    with (
        postgresql_database() as url,
        psycopg.connect(url, autocommit=True) as connection,
    ):
        connection.execute("CREATE TABLE steps (id serial PRIMARY KEY, body bytea)")
        row = (os.urandom(600),)
        yield lambda: connection.execute("INSERT INTO steps (body) VALUES (%s)", row)


@contextlib.contextmanager
def _questions(sender: str) -> Iterator[Mapping[str, Action]]:
    """Yield what the nodes are asked before a payment."""
    with LocalChain(obtain_anvil(ROOT)) as chain:
        token = stablecoin.deploy(chain.url)
        stablecoin.fund(chain.url, sender, token=token)
        one = JSONRPCChain([chain.url], _NODE_SECONDS)
        three = JSONRPCChain(3 * [chain.url], _NODE_SECONDS)
        call = Call(sender, token, encode_transfer(RECIPIENT, AMOUNT))
        calls = [call] * _BATCH
        yield {
            _ESTIMATE: lambda: one.estimate_gas(call),
            _NODE: lambda: one.preflight(sender, calls),
            _QUORUM: lambda: three.preflight(sender, calls),
        }


def _duration(name: str, action: Action) -> Work:
    refunds = _BATCH if name in {_NODE, _QUORUM} else 1

    def work(seconds: float) -> Values:
        return {name: 1e6 / throughput(action, 1, seconds) / refunds}

    return work


SCENARIO = Scenario(
    "steps", "What each step costs", _open, rounds=11, seconds=0.2, quick_seconds=0.02
)
