"""Verdicts on exports with records that another program inserted."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from signer.audit.checkpoints import Verifier
from signer.audit.export import records
from signer.audit.hash_chain import hash_id, is_canonical
from signer.audit.verify import Forgery, verify
from signer.model.audit_record import Record
from tests.support.audit import START, exported
from tests.unit.signer.audit.hostile_records import (
    BODIES,
    HOSTILE,
    IDS,
    LATER,
    OURS,
    chained,
    declares,
    verified,
)


VECTORS = Path(__file__).resolve().parents[3] / "vectors"


@pytest.mark.parametrize("forged", HOSTILE, ids=range(len(HOSTILE)))
def test_a_declared_record(forged: Record) -> None:
    """The verdict names its declaration; without one, the finding is its line."""
    chain = [OURS, forged, LATER, declares(forged)]
    verdict = verified(*chain)

    assert verdict.finding is None
    assert verdict.records == verdict.signed == 4
    assert verdict.forged == (Forgery(2, declared_by=4, is_canonical=False),)
    assert list(records(exported(chained(*chain), [4]))) == chain
    undeclared = verified(OURS, forged, LATER, Record("au_last", "{}"))
    assert undeclared.finding is not None
    assert undeclared.finding.code == "undeclared"
    assert (undeclared.finding.sequence, undeclared.finding.line) == (2, 3)
    assert undeclared.records == 4


def test_only_an_undeclared_record_is_a_finding() -> None:
    """The first one that no effective declaration names is reported."""
    first, second = Record("au_1", "{}"), Record("au_2", "{}")
    lie = declares(second)
    verdict = verified(first, second, lie, declares(first, lie))

    assert verdict.finding is not None
    assert (verdict.finding.code, verdict.finding.sequence) == ("undeclared", 2)
    assert verdict.forged == (
        Forgery(1, declared_by=4, is_canonical=False),
        Forgery(3, declared_by=4, is_canonical=True),
    )


def test_a_record_cannot_declare_itself() -> None:
    """Only a record in canonical form is a declaration."""
    body = json.dumps(
        {
            "event": "audit-records-forged",
            "details": {"id_sha256": [hash_id("au_1"), hash_id(OURS.id)]},
        }
    )
    verdict = verified(OURS, Record("au_1", body), LATER)

    assert verdict.forged == ()
    assert verdict.finding is not None
    assert (verdict.finding.code, verdict.finding.sequence) == ("undeclared", 2)


@pytest.mark.parametrize("sizes", [[1], [1, 3]])
def test_the_id_of_a_forged_record_proves_no_time(sizes: list[int]) -> None:
    """It makes no checkpoint overdue or late, and is not the newest record."""
    forged = Record("~", "")
    verdict = verified(OURS, declares(forged), forged, sizes=sizes)

    assert verdict.is_good
    assert verdict.late == ()
    assert verdict.newest_at == START


def test_a_stored_export_verifies() -> None:
    """The format of an export that an auditor has kept does not change."""
    lines = (VECTORS / "audit_export_forged.jsonl").read_bytes().splitlines(True)
    public_key = (VECTORS / "audit_export_forged.pub.pem").read_bytes()
    verdict = verify(lines, Verifier(public_key))

    assert verdict.is_good
    assert (verdict.records, verdict.signed) == (6, 6)
    assert verdict.forged == tuple(
        Forgery(sequence, declared_by=6, is_canonical=False) for sequence in (2, 3, 4)
    )
    assert [each.id for each in records(lines)][1] == "au_0\x1b[2J"


@given(
    hostile=st.lists(st.tuples(IDS, BODIES), max_size=4, unique_by=lambda pair: pair[0])
)
@settings(max_examples=50)
def test_any_records_verify_once_declared(hostile: list[tuple[str, str]]) -> None:
    """Once declared, no record makes the export bad, and each is listed."""
    forged = [Record(*each) for each in hostile]
    chain = [OURS, *forged, LATER]
    undeclared = next((r for r in forged if not is_canonical(r)), None)
    before, after = verified(*chain), verified(*chain, declares(*forged))

    if undeclared is None:
        assert before.is_good
    else:
        assert before.finding is not None
        assert before.finding.sequence == chain.index(undeclared) + 1
    assert after.is_good
    assert [each.sequence for each in after.forged] == [
        number for number, each in enumerate(chain, 1) if each in forged
    ]
