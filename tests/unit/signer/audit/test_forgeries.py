"""Which records of a chain are forged, if forged records lie about that."""

from collections.abc import Sequence

import pytest

from signer.audit.hash_chain import (
    Forgeries,
    declared_by,
    genuine,
    hash_id,
)
from signer.model.audit_record import Record
from tests.support.audit import record, records
from tests.support.ledgers import DRAFTS


OURS, LATER, FORGED = records(3)


def _declares(*declared: Record) -> Record:
    return DRAFTS.forged([each.id for each in declared])


def _accepted(*chain: Record) -> Sequence[Record]:
    forgeries = Forgeries()
    read = list(forgeries.watch(chain))
    return forgeries.without_forged(read)


def test_a_declared_record_is_left_out() -> None:
    """The declaration follows what it declares; the order does not matter otherwise."""
    declaration = _declares(FORGED)

    assert _accepted(OURS, LATER) == [OURS, LATER]
    assert _accepted(OURS, FORGED, declaration) == [OURS, declaration]
    assert _accepted(declaration, OURS, FORGED) == [declaration, OURS]


def test_a_forged_declaration_hides_nothing() -> None:
    """Not a record, not an earlier declaration, and not a forged record after it."""
    first = _declares(FORGED)
    lie = _declares(OURS, first, LATER)
    second = _declares(lie)

    assert _accepted(OURS, FORGED, first, lie, LATER, second) == [
        OURS,
        first,
        LATER,
        second,
    ]


def test_forged_declarations_cannot_protect_each_other() -> None:
    """Each is declared; a lie about a later declaration of the sealer has no effect."""
    lies = [_declares(OURS)]
    lies.append(_declares(lies[0], OURS))
    lies.append(_declares(*lies, OURS))
    truth = _declares(*lies)
    last_lie = _declares(truth)
    last = _declares(last_lie)

    assert _accepted(OURS, *lies, truth, last_lie, last) == [OURS, truth, last]


@pytest.mark.parametrize(
    "id_",
    ["au_0 x", "password=x", "arn:aws:kms:x", "123456789012", "", f"au_0 {OURS.id}"],
    ids=["space", "password", "ARN", "account", "empty", "two ids"],
)
def test_any_id_can_be_declared(id_: str) -> None:
    """An id is any text; it is declared by its hash, which is not redacted."""
    forged = Record(id_, OURS.body)
    declaration = _declares(forged)

    assert declared_by(declaration) == {hash_id(id_)}
    assert _accepted(OURS, forged, declaration) == [OURS, declaration]


@pytest.mark.parametrize(
    "body",
    [
        *("not json", "[]", "5", '{"event":[]}', '{"event":' + "[" * 200_000),
        *('{"event":"audit-records-forged"}', '["audit-records-forged"]'),
        '{"details":{"id_sha256":"x"},"event":"audit-records-forged"}',
        '{"details":{"id_sha256":[[],{},7]},"event":"audit-records-forged"}',
        '{"details":["audit-records-forged"],"event":"other"}',
    ],
)
@pytest.mark.parametrize("id_", [record().id, "au_0"], ids=["as ours", "other"])
def test_a_hostile_body_is_ignored(id_: str, body: str) -> None:
    """A database role can insert a record with any body."""
    hostile = Record(id_, body)
    start = record(event="wanted")

    assert _accepted(OURS, hostile) == [OURS, hostile]
    assert genuine([OURS, hostile, start], {"wanted"}) == [start]


def test_another_form_declares_nothing() -> None:
    """The sealer writes canonical records only."""
    declaration = _declares(OURS)
    spaced = declaration.body.replace(":", ": ", 1)
    renamed, respelled = Record("au_0", declaration.body), Record(LATER.id, spaced)

    assert _accepted(OURS, renamed, respelled) == [OURS, renamed, respelled]
    assert _accepted(OURS, declaration) == [declaration]


def test_records_of_an_event_are_read_in_order() -> None:
    """A declaration after them counts as well."""
    first, second, third = (record(n, event="wanted") for n in range(3))
    chain = [first, OURS, second, third, _declares(second)]

    assert genuine(chain, {"wanted"}) == [first, third]
