"""A thousand ways to tamper with an export, all found where they are (A2, A3)."""

import io
import random
from itertools import count

import pytest

from signer.audit.checkpoints import Verifier
from signer.audit.verify import Verdict, verify
from tests.support.audit import KEY, checkpoint, exported
from tests.support.tampering import (
    EVERY,
    LINKS,
    SIZE,
    SIZES,
    TAMPERINGS,
    Spoilt,
    exported_as,
    rehashed,
)


EACH = -(-1000 // len(TAMPERINGS))

KEPT = checkpoint(LINKS, SIZE).note
"""What somebody else has kept: the newest checkpoint."""


UNSIGNED = 3 * EVERY
"""How many records may be unsigned: a minute's, and those of two minutes more."""


def _judged(lines: list[bytes], *kept: str) -> Verdict:
    """Return the verdict on the file, read again as a file is."""
    file = io.BytesIO(b"".join(lines))
    return verify(file, Verifier(KEY.public_pem()), kept)


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
        verdict = _judged(lines, KEPT)
        found = verdict.finding
        if found is None or found.sequence != seen or verdict.signed >= touched:
            missed.append((seed, seen, found))

    assert missed == []


@pytest.mark.parametrize(
    "number",
    range(len(TAMPERINGS)),
    ids=[spoil.__name__ for spoil in TAMPERINGS],
)
def test_finds_what_can_be_found_in_the_file_alone(number: int) -> None:
    """With nothing kept elsewhere, an older copy passes, and the last minutes do."""
    missed = []
    for seed in range(EACH):
        lines, touched, _ = _spoilt(number, seed)
        verdict = _judged(lines)
        passed = verdict.finding is None
        if verdict.signed >= touched or (
            passed and verdict.records - verdict.signed > UNSIGNED
        ):
            missed.append((seed, touched, verdict))

    assert missed == []


@pytest.mark.parametrize("signed", SIZES[:-1])
def test_finds_a_tail_without_its_checkpoints(signed: int) -> None:
    """Who hides later checkpoints is found where they end, if he hides two minutes."""
    lines = exported_as(rehashed(signed + 1), range(EVERY, signed + 1, EVERY))
    verdict = _judged(lines)
    found = verdict.finding and (verdict.finding.code, verdict.finding.sequence)
    is_found = SIZE - signed > UNSIGNED

    assert verdict.signed == signed
    assert found == (("overdue", signed + 1) if is_found else None)


def test_is_content_with_the_original() -> None:
    """Nothing is found in the export that all of these began with."""
    verdict = _judged(exported(LINKS, SIZES), KEPT)

    assert verdict.finding is None
    assert verdict.signed == verdict.records == SIZE
