"""An export as it is read by somebody who does not verify it."""

import pytest

from signer.audit.export import records
from signer.errors import InvalidInputError
from tests.support.audit import chain, exported


LINKS = chain(4)
LINES = exported(LINKS, [2])
"""Header, two records, their checkpoint, two records, end."""


def test_its_records() -> None:
    """All records are read, in their order."""
    assert list(records(LINES)) == [each.record for each in LINKS]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], "empty"),
        (LINES[:1], "cut off"),
        (LINES[:-1], "cut off"),
        (LINES[1:], "line 1 of the export is not at its place"),
        ([*LINES, LINES[-1]], "line 8 of the export is not at its place"),
        ([LINES[0], *LINES], "line 2 of the export is not at its place"),
        ([*LINES[:2], *LINES[3:]], "a record is missing before line 4"),
        ([*LINES[:3], *LINES[4:]], "not all there"),
        ([*LINES[:-1], exported(chain(4), [2])[-1]], "not all there"),
    ],
)
def test_one_that_is_not_all_there(lines: list[bytes], said: str) -> None:
    """Whatever is missing or too much in it, it is not taken for the whole."""
    with pytest.raises(InvalidInputError, match=said):
        list(records(lines))
