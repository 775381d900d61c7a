"""``hotwallet audit payment`` and ``verify-payment``: files and exit statuses."""

import json
from pathlib import Path

import pytest

from backends.sql.audit import AuditTables
from tests.api.cli.audit_commands import run
from tests.extras.payment_evidence.test_evidence import evidence_of, paid
from tests.fixtures.ledger import accepted
from tests.support.ledgers import open_ledger
from tests.support.refunds import World


@pytest.fixture
def evidence(vault_world: World, tmp_path: Path) -> Path:
    """Return the file of a refund that is the second of a batch."""
    _, second, _ = paid(vault_world, 3)
    path = tmp_path / "evidence.jsonl"
    path.write_bytes(b"".join(evidence_of(vault_world, second)))
    return path


@pytest.mark.usefixtures("files")
def test_evidence_is_verified_offline(evidence: Path) -> None:
    text = run("verify-payment", str(evidence))
    document = json.loads(run("verify-payment", str(evidence), "--json").stdout)

    assert text.exit_code == 0
    assert ", nonce 0, item 2 of 3" in text.stdout
    assert document["ok"]
    assert [each["position"] for each in document["payments"]] == [2]


@pytest.mark.usefixtures("files")
def test_evidence_without_a_signature_exits_with_1(evidence: Path) -> None:
    lines = evidence.read_bytes().splitlines(keepends=True)
    evidence.write_bytes(b"".join(each for each in lines if b"digest-sign" not in each))

    found = run("verify-payment", str(evidence))

    assert found.exit_code == 1
    assert "PROBLEM: a signed transaction does not pay the refund" in found.stdout
    assert "no signed transaction pays it" in found.stdout


@pytest.mark.usefixtures("files")
def test_the_evidence_of_a_ledger(
    journal: AuditTables, sqlite_url: str, tmp_path: Path
) -> None:
    """A refund that nothing knows exits with 2."""
    assert journal.head()[0] == 0
    refund = accepted(open_ledger(sqlite_url))
    out = tmp_path / "one.jsonl"

    assert run("payment", refund.id, "--out", str(out)).exit_code == 0
    assert refund.id in out.read_text()
    missing = run("payment", "rf_" + "0" * 32, "--out", str(out))
    assert missing.exit_code == 2
