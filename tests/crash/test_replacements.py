"""The chain grows dear, and processes die while they raise their offers (R15, R16)."""

from itertools import cycle

from tests.crash.conftest import Open
from tests.crash.laboratory import Laboratory
from tests.crash.points import REPLACING, names


_POINTS = names("worker", REPLACING)

# An offer of twice the base fee is left behind by each second of these, in wei.
_TIDES = (1, 12, 4, 40)
_GWEI = 10**9


def _let_fees_rise(lab: Laboratory, seconds: float) -> None:
    """Keep the base fee high and low in turns, until every point was reached."""
    for fee in cycle(_TIDES):
        for _ in range(8):
            lab.chain.rpc("anvil_setNextBlockBaseFeePerGas", hex(fee * _GWEI))
            lab.sleep(1)
            seconds -= 1
        if seconds <= 0 or len(lab.crash_points()) == len(_POINTS):
            return


def test_a_replacement_pays_once_wherever_its_maker_dies(
    open_laboratory: Open, empty_postgresql_url: str
) -> None:
    """Whichever of a nonce's transactions is mined, the refund is paid by that one."""
    lab = open_laboratory(empty_postgresql_url, crash_at=_POINTS)

    driver = lab.drive("stuck", concurrency=6)
    _let_fees_rise(lab, 100)
    lab.settle(driver)

    evidence = lab.evidence()
    signed = [(each.refund_id, each.nonce) for each in evidence.signed]
    replaced = len(signed) - len(set(signed))
    assert set(_POINTS) == lab.crash_points(), lab.explain("points not reached")
    assert replaced >= 3, lab.explain(f"{replaced} replacements")
    assert lab.violations() == [], lab.explain("see the list")
