"""What the documentation says about the statuses of a refund is what the code moves."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from signer.model.payment import PaymentState
from signer.model.refund import Status
from signer.model.transaction import (
    BATCH_ENDS,
    TRANSACTION_MOVES,
    TransactionStatus,
)
from tests.fixtures.ledger import status_moves


ROOT = Path(__file__).resolve().parents[3]
DIAGRAM = ROOT / "docs" / "explanation" / "refunds.md"
API = ROOT / "docs" / "reference" / "api.md"
GUIDE = ROOT / "api" / "http" / "openapi" / "guide.md"

Move = tuple[str, str]

_ARROW = re.compile(r"^ {4}([a-z_]+) --> ([a-z_]+):", re.MULTILINE)
_RETURNS = re.compile(r"returns? to `([a-z-]+)`")


def _possible_moves() -> set[Move]:
    moves = {
        (before.value, after.value)
        for before, possible in status_moves().items()
        for after in possible
    }
    queued_again = {
        status.value
        for status, possible in TRANSACTION_MOVES.items()
        for after in possible
        if PaymentState.QUEUED in BATCH_ENDS.get(after, frozenset())
    }
    # A revocation takes the nonce of what was never signed.
    queued_again.add(TransactionStatus.RESERVED.value)
    return moves | {(status, Status.QUEUED.value) for status in queued_again}


def _moves_back() -> set[Move]:
    order = [each.value for each in Status]
    return {
        (before, after)
        for before, after in _possible_moves()
        if order.index(after) < order.index(before)
    }


def _returns(page: Path) -> Iterator[Move]:
    """Yield what the rows of the statuses say about moves back."""
    for line in page.read_text(encoding="utf-8").splitlines():
        cells = line.split("|")
        names = re.findall(r"`([a-z-]+)`", cells[1]) if len(cells) > 3 else []
        if not names or not {*names} <= {*Status}:
            continue
        for sentence in re.split(r"[.;] ", "|".join(cells[2:])):
            subject = re.match(r" *`([a-z-]+)` returns", sentence)
            for after in _RETURNS.findall(sentence):
                for before in [subject[1]] if subject else names:
                    yield before, after


def test_the_diagram_has_every_move() -> None:
    """And no other."""
    arrows = _ARROW.findall(DIAGRAM.read_text(encoding="utf-8"))
    drawn = {tuple(each.replace("_", "-") for each in arrow) for arrow in arrows}

    assert drawn == _possible_moves()


def test_the_guide_has_every_move_back() -> None:
    """A gateway that expects statuses in their order must know all exceptions."""
    assert {*_returns(GUIDE)} == _moves_back()


@pytest.mark.parametrize("move", [("mined", "broadcast"), ("mined", "queued")])
def test_the_table_of_the_api_has_only_possible_moves_back(move: Move) -> None:
    """*move* is one that it has."""
    assert move in {*_returns(API)} <= _moves_back()
