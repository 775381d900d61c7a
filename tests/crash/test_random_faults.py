"""Random faults of chain, KMS and database at once, and then a blackout of each."""

from collections import Counter

import pytest

from tests.crash.conftest import SEED, Open
from tests.crash.fault_plan import (
    DROP_REPLY,
    ODDS,
    RESET,
    RESET_REPLY,
    Fault,
    Kind,
    Plan,
)
from tests.crash.gateway_process import Load


_DATABASE_ODDS = (
    (DROP_REPLY, 0.01),
    (RESET, 0.01),
    (RESET_REPLY, 0.01),
    (Fault(Kind.DELAY, seconds=0.2), 0.02),
)
# There are fewer requests to the KMS than to the chain.
_KMS_ODDS = tuple((f, 5 * odds) for f, odds in ODDS if f.kind is not Kind.STALE)


def _count_faults(plan: Plan) -> int:
    kinds = Counter(kind for _, kind in plan.injected().elements())
    return kinds.total() - kinds[Kind.PASS]


@pytest.mark.parametrize(
    "seconds", [10, pytest.param(3_600, marks=pytest.mark.soak)], ids=str
)
def test_faults_only_delay_refunds(
    open_laboratory: Open, empty_postgresql_url: str, seconds: int
) -> None:
    """Lost responses, resets, stale reads and blackouts: each refund is paid once."""
    lab = open_laboratory(empty_postgresql_url, use_kms=True, proxy_database=True)
    plans = {
        lab.chain.plan: ODDS,
        lab.device.plan: _KMS_ODDS,
        lab.database: _DATABASE_ODDS,
    }
    for plan, odds in plans.items():
        plan.seed(SEED, odds)
    gateway = lab.start_gateway(Load("random-faults"))
    lab.sleep(seconds)
    lab.wait(lambda: all(_count_faults(plan) > 5 for plan in plans), 120)
    for plan in plans:
        plan.blackout(2)
        lab.sleep(2)
    for plan in plans:
        plan.heal()
    lab.settle(gateway)

    for plan in plans:
        assert _count_faults(plan) > 5, lab.explain(f"only {plan.injected()}")
    confirmed = [r for r in lab.evidence().rows if r.status == "confirmed"]
    assert confirmed, lab.explain("nothing was paid")
    lab.assert_no_violations()
