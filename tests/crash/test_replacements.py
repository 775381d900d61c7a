"""Fees rise, and workers die while they replace stuck transactions (R15, R16)."""

from itertools import cycle

from tests.crash.conftest import Open
from tests.crash.crash_points import REPLACING, names
from tests.crash.gateway_process import Load
from tests.crash.laboratory import Laboratory


_POINTS = names("worker", REPLACING)

# Base fees in gwei.  Each rise exceeds twice the base fee, which an offer allows for.
_BASE_FEES = (1, 12, 4, 40)
_GWEI = 10**9


def _let_fees_rise(lab: Laboratory, seconds: float) -> None:
    """Change the base fee every eight seconds until every point was reached."""
    for fee in cycle(_BASE_FEES):
        for _ in range(8):
            lab.chain.rpc("anvil_setNextBlockBaseFeePerGas", hex(fee * _GWEI))
            lab.sleep(1)
            seconds -= 1
        if seconds <= 0 or len(lab.crash_points()) == len(_POINTS):
            return


def test_a_replacement_pays_once_wherever_a_worker_dies(
    open_laboratory: Open, empty_postgresql_url: str
) -> None:
    """Any of the transactions of a nonce may be mined: it pays the refund."""
    lab = open_laboratory(empty_postgresql_url, crash_at=_POINTS)

    gateway = lab.start_gateway(Load("replacements", concurrency=6))
    _let_fees_rise(lab, 100)
    lab.settle(gateway)

    signed = [(each.refund_id, each.nonce) for each in lab.evidence().signed]
    replaced = len(signed) - len(set(signed))
    lab.assert_reached(_POINTS)
    assert replaced >= 3, lab.explain(f"{replaced} replacements")
    lab.assert_no_violations()
