"""Reading the records of an export that was verified before."""

import pytest

from signer.audit.export import records
from signer.errors import InvalidInputError
from tests.support.audit import chain, exported


LINKS = chain(4)
LINES = exported(LINKS, [2])
"""Header, two records, their checkpoint, two records, end."""


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
