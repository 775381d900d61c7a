"""The evidence of one payment proves it alone, also on the command line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from api.extras.payment_evidence.evidence import (
    PaymentVerdict,
    collect,
    verify_evidence,
)
from backends.sql import SQLStore
from backends.sql.audit import AuditTables
from signer.errors import InvalidInputError
from signer.model.refund import Refund
from signer.model.transaction import CLAIM_TIME
from tests.api.cli.audit_commands import run
from tests.fixtures.ledger import accepted
from tests.support.approvals import approve_signed, limited
from tests.support.approvers import AnyKey, SSHKey, approvers_of
from tests.support.ledgers import open_ledger, seal
from tests.support.refunds import World
from tests.support.restores import keep_log, requested


Lines = list[bytes]


def paid(world: World, count: int) -> list[Refund]:
    """Return refunds that are broadcast, in the order of their batch."""
    for number in range(count):
        requested(world, f"reference-{number}")
    world.clock.now += CLAIM_TIME
    world.work()
    seal(cast("SQLStore", world.store))
    found = world.found(0)
    return [*found.payments]


def evidence_of(world: World, refund: Refund) -> Lines:
    return [*collect(world.store, refund.id)]


def test_an_item_of_a_batch_is_proved_without_the_others(vault_world: World) -> None:
    first, second, third = paid(vault_world, 3)

    lines = evidence_of(vault_world, second)
    verdict = verify_evidence(lines)

    assert verdict.problems == []
    (payment,) = verdict.payments
    assert (payment.tx_hash, payment.nonce) == (second.tx_hash, 0)
    assert payment.sender == vault_world.signer.address
    assert (payment.position, payment.count) == (2, 3)
    whole = b"".join(lines).decode()
    assert second.reference in whole
    for other in (first, third):
        assert other.id in whole
        assert other.reference not in whole


def test_a_plain_transfer_is_proved(world: World) -> None:
    keep_log(world)
    (refund,) = paid(world, 1)

    verdict = verify_evidence(evidence_of(world, refund))

    assert verdict.problems == []
    (payment,) = verdict.payments
    assert (payment.tx_hash, payment.position) == (refund.tx_hash, None)


def test_a_refund_without_a_signature_is_not_paid(vault_world: World) -> None:
    refund = requested(vault_world, "waiting")
    seal(cast("SQLStore", vault_world.store))

    verdict = verify_evidence(evidence_of(vault_world, refund))

    assert (verdict.payments, verdict.problems) == ([], [])


def _changed(line: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
    fields = json.loads(line)
    change(fields)
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    return text.encode() + b"\n"


def _each(lines: Lines, event: str, change: Callable[[Any], object]) -> Lines:
    """Return the lines with a changed record, wherever it is of *event*."""
    return [
        _changed(line, lambda fields: change(fields["record"]["details"]))
        if f'"event":"{event}"'.encode() in line
        else line
        for line in lines
    ]


SIGNED = "digest-sign-succeeded"
ACCEPTED = "refund-accept-succeeded"


CHANGES: list[tuple[str, Callable[[Any], object]]] = [
    (SIGNED, lambda details: details["payments"].reverse()),
    (SIGNED, lambda details: details.update(composition="00")),
    (SIGNED, lambda details: details.update(vault="0x" + "7" * 40)),
    (SIGNED, lambda details: details["payments"].append("rf_more")),
    (ACCEPTED, lambda details: details.update(amount="13.50")),
    (ACCEPTED, lambda details: details.update(recipient="0x" + "7" * 40)),
    (ACCEPTED, lambda details: details.update(reference="another")),
    (ACCEPTED, lambda details: details.update(token_address="0x" + "7" * 40)),
    (ACCEPTED, lambda details: details.update(chain_id=1)),
]


def test_what_was_changed_proves_nothing(vault_world: World) -> None:
    first, *_ = paid(vault_world, 3)
    lines = evidence_of(vault_world, first)
    for number, (event, change) in enumerate(CHANGES):
        assert verify_evidence(_each(lines, event, change)).problems, number


def test_bytes_of_another_signature_prove_nothing(vault_world: World) -> None:
    first, *_ = paid(vault_world, 2)
    lines = evidence_of(vault_world, first)
    without = [line for line in lines if f'"{SIGNED}"'.encode() not in line]

    verdict: PaymentVerdict = verify_evidence(without)

    assert verdict.payments == []
    assert verdict.problems == [
        "a signed transaction does not pay the refund: no record is about its signature"
    ]


OTHERS: list[Callable[[Lines], Lines]] = [
    lambda lines: [line for line in lines if f'"{ACCEPTED}"'.encode() not in line],
    lambda lines: lines[1:],
    lambda lines: [],
    lambda lines: [*lines, b"{}\n"],
    lambda lines: [_changed(lines[0], lambda f: f.update(format="2")), *lines[1:]],
    lambda lines: [
        _changed(lines[0], lambda f: f.update(refund_id="rf_other")),
        *lines[1:],
    ],
]


def test_other_files_are_refused(vault_world: World) -> None:
    first, *_ = paid(vault_world, 2)
    lines = evidence_of(vault_world, first)
    for change in OTHERS:
        with pytest.raises(InvalidInputError):
            verify_evidence(change(lines))


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


def test_it_shows_who_signed_that_the_refund_may_be_paid(
    world: World, tmp_path: Path
) -> None:
    """A file without the key, or a changed record, proves nothing about it."""
    keys: dict[str, AnyKey] = {"bob": SSHKey(), "carol": SSHKey()}
    world.approvers = approvers_of(**keys)
    keep_log(world)
    refund = requested(limited(world, "1"), "large")
    approve_signed(world, refund, "bob", keys["bob"])
    world.finish(refund)
    seal(cast("SQLStore", world.store))
    lines = evidence_of(world, refund)
    verdict = verify_evidence(lines, [world.approvers])
    stranger = verify_evidence(lines, [approvers_of(bob=SSHKey(), carol=SSHKey())])
    (tmp_path / "evidence").write_bytes(b"".join(lines))
    file = tmp_path / "approvers.toml"
    file.write_text(
        'deployment = "tests"\n'
        f'[people.bob.keys]\na = "{keys["bob"].line}"\n'
        f'[people.carol.keys]\na = "{keys["carol"].line}"\n'
    )
    command = ("verify-payment", tmp_path / "evidence", "--approvers", file)
    shown = run(*map(str, command))

    assert (verdict.approved_by, verdict.problems) == (["bob"], [])
    assert len(verdict.payments) == 1
    assert stranger.approved_by == []
    assert "an approval proves nothing" in stranger.problems[0]
    assert "approved by bob, with a key of their own" in shown.stdout
    assert verify_evidence(lines).approved_by == []
