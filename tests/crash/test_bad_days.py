"""Chain, KMS and database misbehave at once: faults at random, then blackouts."""

from collections import Counter

import pytest

from tests.crash.conftest import SEED, Open
from tests.crash.control import RemotePlan
from tests.crash.faults import (
    BAD_DAY,
    DROP_REPLY,
    RESET,
    RESET_REPLY,
    Fault,
    Kind,
    Odds,
    Plan,
)
from tests.crash.laboratory import Laboratory


_DATABASE_DAY = (
    (DROP_REPLY, 0.01),
    (RESET, 0.01),
    (RESET_REPLY, 0.01),
    (Fault(Kind.DELAY, seconds=0.2), 0.02),
)
# A refund asks the chain a dozen times, and the KMS once.
_KMS_DAY = tuple((f, 3 * odds) for f, odds in BAD_DAY if f.kind is not Kind.STALE)


def _suffer(lab: Laboratory, seconds: float) -> None:
    days: list[tuple[Plan | RemotePlan, Odds]] = [
        (lab.chain.plan, BAD_DAY),
        (lab.key.plan, _KMS_DAY),
        (lab.database, _DATABASE_DAY),
    ]
    for plan, odds in days:
        plan.seed(SEED, odds)
    driver = lab.drive("bad-day")
    lab.sleep(seconds)
    for plan, _ in days:
        plan.blackout(2)
        lab.sleep(2)
    for plan, _ in days:
        plan.heal()
    lab.settle(driver)

    for plan, _ in days:
        kinds = Counter(kind for _, kind in plan.committed().elements())
        assert kinds.total() - kinds[Kind.PASS] > 5, lab.explain(f"only {kinds}")
    confirmed = [r for r in lab.evidence().rows if r.status == "confirmed"]
    assert confirmed, lab.explain("nothing was paid")
    assert lab.violations() == [], lab.explain("see the list")


def test_pays_once_on_a_bad_day(
    open_laboratory: Open, empty_postgresql_url: str
) -> None:
    """Lost answers, resets, stale reads and blackouts delay refunds, no more."""
    _suffer(
        open_laboratory(empty_postgresql_url, use_kms=True, shield_database=False), 10
    )


@pytest.mark.soak
def test_pays_once_in_a_bad_hour(
    open_laboratory: Open, empty_postgresql_url: str
) -> None:
    """An hour of it changes nothing."""
    _suffer(
        open_laboratory(empty_postgresql_url, use_kms=True, shield_database=False),
        3_600,
    )
