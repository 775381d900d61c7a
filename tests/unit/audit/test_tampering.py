"""A thousand ways to tamper with an export, and every one is found where it is."""

import io
import random
from itertools import count

import pytest

from signer.audit.checkpoints import Verifier
from signer.audit.verify import Verdict, verify
from tests.support.audit import KEY, checkpoint, exported
from tests.support.tampering import LINKS, SIZE, SIZES, TAMPERINGS, Spoilt


EACH = -(-1000 // len(TAMPERINGS))

KEPT = checkpoint(LINKS, SIZE).note
"""What somebody else has kept: the newest checkpoint."""


def _judged(lines: list[bytes]) -> Verdict:
    """Return the verdict on the file, read again as a file is."""
    file = io.BytesIO(b"".join(lines))
    return verify(file, Verifier(KEY.public_pem()), [KEPT])


def _spoilt(number: int, seed: int) -> Spoilt:
    """Return an export that is not what it was, by the next seeds if need be."""
    original = exported(LINKS, SIZES)
    for more in count():
        spoilt = TAMPERINGS[number](random.Random(f"{number} {seed} {more}"))
        if spoilt[0] != original:
            return spoilt
    raise AssertionError


@pytest.mark.parametrize(
    "number",
    range(len(TAMPERINGS)),
    ids=[spoil.__name__ for spoil in TAMPERINGS],
)
def test_finds_it_where_it_is(number: int) -> None:
    """The first bad record is named, and nothing from the touched one on is vouched."""
    missed = []
    for seed in range(EACH):
        lines, touched, seen = _spoilt(number, seed)
        verdict = _judged(lines)
        found = verdict.finding
        if found is None or found.sequence != seen or verdict.signed >= touched:
            missed.append((seed, seen, found))

    assert missed == []


def test_is_content_with_the_original() -> None:
    """Nothing is found in the export that all of these began with."""
    verdict = _judged(exported(LINKS, SIZES))

    assert verdict.finding is None
    assert verdict.signed == verdict.records == SIZE
