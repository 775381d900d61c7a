"""The export of a chain, and the records of one that was verified before."""

from collections.abc import Sequence

import pytest

from backends.sql.audit import AuditTables
from signer.audit.export import checkpoint_line, export, records
from signer.errors import InvalidInputError
from signer.model.audit_record import Sealed
from signer.ports.audit_journal import Checkpoint
from tests.support.audit import (
    ORIGIN,
    chain,
    checkpoint,
    exported,
    record,
)
from tests.support.ledgers import seal


LINKS = chain(4)
LINES = exported(LINKS, [2])
"""Header, two records, their checkpoint, two records, end."""


def _filled(journal: AuditTables) -> Sequence[Sealed]:
    """Append and seal the records of ``LINKS``; return them with their MACs."""
    journal.append([each.record for each in LINKS])
    seal(journal)
    return journal.sealed(0, len(LINKS))


def test_a_checkpoint_follows_its_last_record(journal: AuditTables) -> None:
    """Also when more than one was stored before the next record."""
    links = _filled(journal)
    for size in (2, 4):
        journal.keep_checkpoint(checkpoint(LINKS, size))

    assert list(export(journal, ORIGIN)) == exported(links, [2, 4])


def test_what_is_no_checkpoint_of_the_origin_is_left_out(journal: AuditTables) -> None:
    """Any role can store a text as a checkpoint: it must not spoil the export."""
    links = _filled(journal)
    genuine = checkpoint(LINKS, 3)
    for stored in (
        checkpoint(LINKS, 1, origin="another/service"),
        Checkpoint(2, genuine.note),  # Stored with another size.
        genuine,
        Checkpoint(4, "no note"),
        Checkpoint(5, "no note"),
        Checkpoint(9, checkpoint(chain(9), 9, origin="another/service").note),
    ):
        journal.keep_checkpoint(stored)

    assert list(export(journal, ORIGIN)) == exported(links, [3])


def test_a_checkpoint_of_more_records_is_evidence(journal: AuditTables) -> None:
    """Records were removed from the end: the export keeps the proof of it."""
    _filled(journal)
    beyond = [checkpoint(chain(9), size) for size in (6, 9)]
    for stored in beyond:
        journal.keep_checkpoint(stored)

    *_, first, second, _ = export(journal, ORIGIN)

    assert [first, second] == [checkpoint_line(each.note) for each in beyond]


def test_records_after_the_begin_of_an_export_are_left_out(
    journal: AuditTables,
) -> None:
    """An export is the chain as it was when its first line was read."""
    links = _filled(journal)
    journal.keep_checkpoint(checkpoint(LINKS, 2))
    lines = export(journal, ORIGIN)
    header = next(lines)
    journal.append([record(9)])
    seal(journal)
    journal.keep_checkpoint(checkpoint(chain(9), 5))

    assert [header, *lines] == exported(links, [2])


def test_reads_all_records() -> None:
    assert list(records(LINES)) == [each.record for each in LINKS]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "empty"),
        (LINES[:1], "incomplete"),
        (LINES[:-1], "incomplete"),
        (LINES[1:], "line 1 of the export is in the wrong place"),
        ([*LINES, LINES[-1]], "line 8 of the export is in the wrong place"),
        ([LINES[0], *LINES], "line 2 of the export is in the wrong place"),
        ([*LINES[:2], *LINES[3:]], "a record is missing before line 4"),
        ([*LINES[:3], *LINES[4:]], "incomplete"),
        ([*LINES[:-1], exported(chain(4), [2])[-1]], "incomplete"),
    ],
)
def test_rejects_an_incomplete_export(lines: list[bytes], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        list(records(lines))
