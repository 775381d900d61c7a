"""Random faults of chain, KMS and database at once, and then a blackout of each."""

from collections import Counter

import pytest

from tests.crash.conftest import SEED, Open
from tests.crash.fault_plan import DROP_REPLY, ODDS, RESET, RESET_REPLY, Fault, Kind
from tests.crash.gateway_process import Load


_DATABASE_ODDS = (
    (DROP_REPLY, 0.01),
    (RESET, 0.01),
    (RESET_REPLY, 0.01),
    (Fault(Kind.DELAY, seconds=0.2), 0.02),
)
# A refund needs a dozen requests to the chain, and one to the KMS.
_KMS_ODDS = tuple((f, 3 * odds) for f, odds in ODDS if f.kind is not Kind.STALE)


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
    for plan in plans:
        plan.blackout(2)
        lab.sleep(2)
    for plan in plans:
        plan.heal()
    lab.settle(gateway)

    for plan in plans:
        kinds = Counter(kind for _, kind in plan.injected().elements())
        assert kinds.total() - kinds[Kind.PASS] > 5, lab.explain(f"only {kinds}")
    confirmed = [r for r in lab.evidence().rows if r.status == "confirmed"]
    assert confirmed, lab.explain("nothing was paid")
    lab.assert_no_violations()
