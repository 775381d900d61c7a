"""
How many statements a batch of refunds takes, however many refunds it has.

A statement is a round trip to PostgreSQL.  One more for each refund, or for each step,
is a decision: change the numbers here with it.
"""

import re
from collections import Counter
from contextlib import AbstractContextManager

import pytest

from backends.sql import SQLStore
from signer.model.refund import Refund, Status
from signer.model.transaction import CLAIM_TIME
from tests.support.ledgers import collected_statements
from tests.support.policy import count_questions
from tests.support.refunds import World


_CHANGE = re.compile(r"(?:INSERT INTO|UPDATE|DELETE FROM|BEGIN) (\w+)")

ADVANCED = {
    "IMMEDIATE": 5,  # Claim, reservation, bytes, broadcast; and the proof of the key.
    "refunds": 2,  # Claimed, assigned.
    "transactions": 3,  # Reserved, signed, broadcast.
    "transaction_payments": 1,
    "refund_moves": 3,
    "audit_records": 2,  # Intents and outcomes.
    "spendings": 1,
    "attempts": 1,
    "events": 1,
    "keys": 1,  # The proof: each worker here is a new one.
}
"""The changes between the acceptance and the broadcast of a batch, by table."""

CONFIRMED = {
    "IMMEDIATE": 8,
    "refunds": 1,
    "transactions": 2,
    "refund_moves": 2,
    "events": 1,
    "alerts": 6,  # Both looks at the head: it begins, claims the block, and ends.
}
"""The changes after that: mined, and confirmed."""


@pytest.fixture
def world(world: World) -> World:
    """Return a world whose wallet is open."""
    _accept(world, 1)
    world.worker.advance()
    world.settle()
    return world


def _accept(world: World, count: int) -> list[Refund]:
    refunds = [world.accepted() for _ in range(count)]
    world.clock.now += CLAIM_TIME
    return refunds


def _statements(world: World) -> AbstractContextManager[list[str]]:
    assert isinstance(world.store, SQLStore)
    return collected_statements(world.store)


def _changes(statements: list[str]) -> Counter[str]:
    return Counter(
        found[1] for each in statements if (found := _CHANGE.match(each)) is not None
    )


@pytest.mark.parametrize("count", [2, 16])
def test_a_batch_takes_as_many_statements_as_a_refund(world: World, count: int) -> None:
    refunds = _accept(world, count)
    with _statements(world) as advancing:
        world.worker.advance()
    assert world.statuses(refunds) == [Status.BROADCAST] * count
    world.mine_deep()
    with _statements(world) as tracking:
        world.confirmation_tracker.track()  # Mined,
        world.confirmation_tracker.track()  # and confirmed.

    assert world.statuses(refunds) == [Status.CONFIRMED] * count
    assert _changes(advancing) == ADVANCED
    assert len(advancing) <= 39
    assert _changes(tracking) == CONFIRMED
    assert len(tracking) <= 28


def test_an_acceptance_takes_five_statements(world: World) -> None:
    """Acceptances of one moment share a transaction, but not their statements."""
    with _statements(world) as statements:
        world.accepted()

    assert len(statements) <= 5


def test_cedar_is_asked_once_about_refunds_that_rules_see_alike(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    refunds = _accept(world, 16)
    asked = count_questions(monkeypatch)
    world.worker.advance()

    assert world.statuses(refunds) == [Status.BROADCAST] * 16
    assert len(asked) <= 1


def test_an_idle_pass_asks_whether_anything_is_open(world: World) -> None:
    """And which key is active, and whether the wallets are to be compared."""
    worker = world.worker
    worker.work()

    with _statements(world) as statements:
        worker.work()

    assert len(statements) <= 2


def test_a_look_that_finds_no_block_reads_no_payment(world: World) -> None:
    """A vault has a hundred in each transaction, and looks are frequent."""
    _accept(world, 2)
    world.worker.advance()

    with _statements(world) as statements:
        world.confirmation_tracker.track()

    assert any("attempts.tx_hash" in each for each in statements)
    assert not any("refunds.amount" in each for each in statements)
