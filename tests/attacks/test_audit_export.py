"""
A thief of a database role who wants the audit log to prove nothing any more.

No record can be deleted.  So one record that an export cannot carry, or that a reader
cannot read, would make every later export or comparison fail.
"""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from api.extras.cloudtrail.reconciliation import reconcile
from backends.sql import SQLStore
from signer.audit.checkpointer import Checkpointer, CheckpointSettings
from signer.audit.export import export, records
from signer.audit.hash_chain import batches
from signer.audit.sealer import Sealer
from signer.audit.verify import verify
from tests.fixtures.roles import Roles
from tests.support.audit import KEY, ORIGIN, VERIFIER
from tests.support.cloudtrail import sign_event
from tests.support.ledgers import open_ledger
from tests.support.signings import at, intent, outcome, trail_of


RESULT = outcome(2, "x").body

INSERTED = {
    "an id of another form": ("~ {role}", "{}"),
    "no JSON": ("au_{number:032x}", "not JSON"),
    "a line of an export": (
        "au_1{number:031x}",
        '{"a":1},"sequence":1}\n{"end":{"checkpoints":0,"hash":"","records":0}}\n{',
    ),
    "two million bytes": ("long {role}", "x" * 2_000_000),
    "a signature without a key": ("au_2{number:031x}", RESULT.replace("key_id", "no")),
    "a signature without a time": ("au_3{number:031x}", RESULT.replace("2026-", "")),
    "a signature with nested ids": ("au_4{number:031x}", RESULT.replace('"x"', "[[]]")),
}


@pytest.fixture
def ledger(shipped: Roles) -> Iterator[SQLStore]:
    with closing(open_ledger(shipped.superuser)) as store:
        yield store


def _inserting_roles(shipped: Roles) -> list[str]:
    """Return the shipped roles that may insert audit records."""
    with psycopg.connect(shipped.superuser) as connection:
        rows = connection.execute(
            "SELECT rolname FROM pg_roles WHERE rolname LIKE 'hotwallet_%'"
            " AND has_any_column_privilege(rolname, 'audit_records', 'INSERT')"
        ).fetchall()
    return [name for (name,) in rows]


def _insert(shipped: Roles) -> list[str]:
    """Insert each record of ``INSERTED`` as each role; return the ids."""
    ids = []
    for number, role in enumerate(_inserting_roles(shipped)):
        url = shipped.superuser.replace("tests@", f"{role}@")
        with psycopg.connect(url) as connection:
            for id_, body in INSERTED.values():
                ids.append(id_.format(role=role, number=number))
                connection.execute(
                    "INSERT INTO audit_records (id, body) VALUES (%s, %s)",
                    (ids[-1], body),
                )
    return ids


@pytest.mark.parametrize(
    ("id_", "size"), [("x" * 65, 1), ("é" * 33, 1), ("x" * 64, 8 * 2**20 + 1)]
)
def test_a_record_has_a_limited_length(shipped: Roles, id_: str, size: int) -> None:
    """Each process reads the records into memory."""
    for role in _inserting_roles(shipped):
        url = shipped.superuser.replace("tests@", f"{role}@")
        with (
            pytest.raises(psycopg.errors.CheckViolation, match="too long"),
            psycopg.connect(url) as connection,
        ):
            connection.execute(
                "INSERT INTO audit_records (id, body) VALUES (%s, %s)",
                (id_, "x" * size),
            )


def test_inserted_records_do_not_end_the_evidence(
    shipped: Roles, ledger: SQLStore, tmp_path: Path
) -> None:
    """The export verifies and lists them; the comparison with CloudTrail goes on."""
    ledger.append([intent(0), outcome(1, "a")])
    ids = _insert(shipped)
    sealer = Sealer(Checkpointer(ledger, CheckpointSettings(KEY, ORIGIN)))
    sealer.work()
    sealer.checkpointer.checkpoint()
    trail = trail_of(tmp_path, sign_event("a", at(1)), sign_event("x", at(2)))

    lines = list(export(ledger, ORIGIN))
    verdict = verify(lines, VERIFIER)
    chain = [each.record for batch in batches(ledger) for each in batch]
    found = reconcile(records(lines), trail)

    assert len(ids) >= len(INSERTED)
    assert verdict.finding is None
    assert {chain[each.sequence - 1].id for each in verdict.forged} == set(ids)
    assert found == reconcile(chain, trail)
    assert (found.matched, found.malformed) == (1, ())
    assert [each.request_id for each in found.intruders] == ["x"]
