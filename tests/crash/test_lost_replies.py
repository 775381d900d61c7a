"""The node accepts a transaction, and its response is lost (G5, R7)."""

import pytest

from tests.crash.conftest import SEED, Open
from tests.crash.fault_plan import LOST_REPLIES
from tests.crash.gateway_process import Load


_BROADCAST = "eth_sendRawTransaction"

# Three of four responses are lost, so the client's retry is mostly lost as well.
_ODDS = tuple((fault, 0.15) for fault in LOST_REPLIES)


@pytest.mark.parametrize(
    ("database", "count", "seconds"),
    [("sqlite", 60, 60), pytest.param("postgresql", 500, 900, marks=pytest.mark.soak)],
)
def test_a_lost_reply_takes_no_second_nonce(
    open_laboratory: Open,
    request: pytest.FixtureRequest,
    database: str,
    count: int,
    seconds: int,
) -> None:
    """Each refund keeps its nonce, and is paid once."""
    lab = open_laboratory(request.getfixturevalue(f"empty_{database}_url"))
    plan = lab.chain.plan

    def count_lost() -> int:
        return sum(plan.injected()[_BROADCAST, fault.kind] for fault in LOST_REPLIES)

    plan.seed(SEED, _ODDS, only=frozenset({_BROADCAST}))
    gateway = lab.start_gateway(Load("lost-replies"))
    enough = lab.wait(lambda: count_lost() >= count, seconds)
    plan.heal()
    lab.settle(gateway)

    rows = lab.evidence().rows
    nonces = sorted(row.nonce for row in rows if row.nonce is not None)
    assert enough, lab.explain(f"only {count_lost()} replies were lost")
    assert all(plan.injected()[_BROADCAST, fault.kind] for fault in LOST_REPLIES)
    assert list(range(len(rows))) == nonces, lab.explain("a second nonce")
    lab.assert_no_violations()
