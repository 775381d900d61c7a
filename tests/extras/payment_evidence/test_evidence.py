"""The evidence of one payment proves it alone, and nothing else of a batch is in it."""

import json
from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest

from api.extras.payment_evidence.evidence import (
    PaymentVerdict,
    collect,
    verify_evidence,
)
from backends.sql import SQLStore
from signer.errors import InvalidInputError
from signer.model.refund import Refund
from signer.model.transaction import CLAIM_TIME
from tests.support.ledgers import seal
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
    return [*collect(world.store, cast("SQLStore", world.store), refund.id)]


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


@pytest.mark.parametrize(
    ("event", "change"),
    [
        (SIGNED, lambda details: details["payments"].reverse()),
        (SIGNED, lambda details: details.update(composition="00")),
        (SIGNED, lambda details: details.update(vault="0x" + "7" * 40)),
        (SIGNED, lambda details: details["payments"].append("rf_more")),
        (ACCEPTED, lambda details: details.update(amount="13.50")),
        (ACCEPTED, lambda details: details.update(recipient="0x" + "7" * 40)),
        (ACCEPTED, lambda details: details.update(reference="another")),
        (ACCEPTED, lambda details: details.update(token_address="0x" + "7" * 40)),
        (ACCEPTED, lambda details: details.update(chain_id=1)),
    ],
    ids=map(str, range(9)),
)
def test_what_was_changed_proves_nothing(
    vault_world: World, event: str, change: Callable[[Any], object]
) -> None:
    first, *_ = paid(vault_world, 3)
    lines = evidence_of(vault_world, first)

    verdict = verify_evidence(_each(lines, event, change))

    assert verdict.problems


def test_bytes_of_another_signature_prove_nothing(vault_world: World) -> None:
    first, *_ = paid(vault_world, 2)
    lines = evidence_of(vault_world, first)
    without = [line for line in lines if f'"{SIGNED}"'.encode() not in line]

    verdict: PaymentVerdict = verify_evidence(without)

    assert verdict.payments == []
    assert verdict.problems == [
        "a signed transaction does not pay the refund: no record is about its signature"
    ]


def _without_acceptance(lines: Sequence[bytes]) -> Lines:
    return [line for line in lines if f'"{ACCEPTED}"'.encode() not in line]


@pytest.mark.parametrize(
    "change",
    [
        _without_acceptance,
        lambda lines: lines[1:],
        lambda lines: [],
        lambda lines: [*lines, b"{}\n"],
        lambda lines: [_changed(lines[0], lambda f: f.update(format="2")), *lines[1:]],
        lambda lines: [
            _changed(lines[0], lambda f: f.update(refund_id="rf_other")),
            *lines[1:],
        ],
    ],
    ids=map(str, range(6)),
)
def test_other_files_are_refused(
    vault_world: World, change: Callable[[Lines], Lines]
) -> None:
    first, *_ = paid(vault_world, 2)

    with pytest.raises(InvalidInputError):
        verify_evidence(change(evidence_of(vault_world, first)))
