"""A thousand manipulations of an export, each detected at its record (A2, A3)."""

import io
import random
from itertools import count

import pytest

from signer.audit.checkpoints import Verifier
from signer.audit.verify import ExportVerdict, verify
from tests.support.audit import KEY, checkpoint
from tests.unit.signer.audit.tampering import (
    EVERY,
    LINKS,
    SIZE,
    SIZES,
    TAMPERINGS,
    Tampered,
    exported_as,
    rehashed,
    whole,
)


EACH = -(-1000 // len(TAMPERINGS))

KEPT = checkpoint(LINKS, SIZE).note
"""The newest checkpoint, kept outside the file."""


UNSIGNED = 3 * EVERY
"""How many records may be unsigned: those of three minutes."""


def _verify(lines: list[bytes], *kept: str) -> ExportVerdict:
    """Verify *lines*, split again as in a file."""
    file = io.BytesIO(b"".join(lines))
    return verify(file, Verifier(KEY.public_pem()), kept)


def _tamper(number: int, seed: int) -> Tampered:
    """Return an export that differs from the original; try several seeds."""
    original = whole()

    for more in count():
        tampered = TAMPERINGS[number](random.Random(f"{number} {seed} {more}"))
        if tampered[0] != original:
            return tampered
    raise AssertionError


@pytest.mark.parametrize(
    "number", range(len(TAMPERINGS)), ids=[tamper.__name__ for tamper in TAMPERINGS]
)
def test_detects_the_first_bad_record(number: int) -> None:
    """
    The first bad record is reported, and no later record counts as signed.

    Without kept checkpoints, only an older copy and changes of the last minutes pass.
    """
    before = _verify(whole(), KEPT)
    assert (before.finding, before.signed, before.records) == (None, SIZE, SIZE)
    missed = []
    for seed in range(EACH):
        lines, touched, seen = _tamper(number, seed)
        with_kept, alone = _verify(lines, KEPT), _verify(lines)
        found = with_kept.finding
        unsigned = alone.records - alone.signed
        if (
            found is None
            or found.sequence != seen
            or max(with_kept.signed, alone.signed) >= touched
            or (alone.finding is None and unsigned > UNSIGNED)
        ):
            missed.append((seed, touched, seen, with_kept, alone))

    assert missed == []


@pytest.mark.parametrize("signed", SIZES[:-1])
def test_detects_removed_checkpoints_at_the_end(signed: int) -> None:
    """Removed checkpoints of more than two minutes are detected."""
    lines = exported_as(rehashed(signed + 1), range(EVERY, signed + 1, EVERY))
    verdict = _verify(lines)
    found = verdict.finding and (verdict.finding.code, verdict.finding.sequence)
    is_found = SIZE - signed > UNSIGNED

    assert verdict.signed == signed
    assert found == (("overdue", signed + 1) if is_found else None)
