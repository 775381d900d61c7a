"""The node takes a transaction, and its answer is lost (G5, R7)."""

import pytest

from tests.crash.conftest import SEED, Open
from tests.crash.faults import LOST_REPLIES
from tests.crash.laboratory import Laboratory


_BROADCAST = "eth_sendRawTransaction"

# Three of four are lost, so that a client's own second try is mostly lost as well.
_ODDS = tuple((fault, 0.15) for fault in LOST_REPLIES)


def _lost(lab: Laboratory) -> int:
    committed = lab.chain.plan.committed()
    return sum(committed[_BROADCAST, fault.kind] for fault in LOST_REPLIES)


def _lose(lab: Laboratory, count: int, seconds: float) -> None:
    lab.chain.plan.seed(SEED, _ODDS, only=frozenset({_BROADCAST}))
    driver = lab.drive("lost")
    enough = lab.wait(lambda: _lost(lab) >= count, seconds)
    lab.chain.plan.heal()
    lab.settle(driver)

    evidence, committed = lab.evidence(), lab.chain.plan.committed()
    nonces = sorted(row.nonce for row in evidence.rows if row.nonce is not None)
    assert enough, lab.explain(f"only {_lost(lab)} replies were lost")
    assert all(committed[_BROADCAST, fault.kind] for fault in LOST_REPLIES)
    assert list(range(len(evidence.rows))) == nonces, lab.explain("a second nonce")
    assert lab.violations() == [], lab.explain("see the list")


def test_a_lost_reply_takes_no_second_nonce(
    open_laboratory: Open, empty_sqlite_url: str
) -> None:
    """Sixty lost replies to broadcasts: each refund keeps its nonce, and is paid."""
    _lose(open_laboratory(empty_sqlite_url), 60, 60)


@pytest.mark.soak
def test_many_lost_replies_take_no_second_nonce(
    open_laboratory: Open, empty_postgresql_url: str
) -> None:
    """Five hundred of them change nothing."""
    _lose(open_laboratory(empty_postgresql_url), 500, 900)
