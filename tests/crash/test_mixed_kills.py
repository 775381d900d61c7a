"""
Refunds and transactions of JSON-RPC use one wallet, while every process is killed.

Gateways send ``POST /v1/refunds`` to the processes with the role refunds.  Applications
send ``eth_sendTransaction`` with web3.py to those with the role sign: tokens, coin and
calls of a contract.  They repeat it after a lost answer: half of them with a key, and a
quarter with a nonce.
"""

from collections.abc import Iterable

import pytest

from signer.config.settings import Role
from tests.crash.conftest import SEED, Open
from tests.crash.crash_points import API, JSON_RPC, WORKER, names
from tests.crash.gateway_process import Load
from tests.crash.journal import Entry
from tests.crash.json_rpc_client import RULES, Asset, asset_of
from tests.crash.killer import Killer
from tests.crash.laboratory import Laboratory


_SIGN = names("sign", JSON_RPC)
_ALL = [*names("api", API), *_SIGN, *names("worker", WORKER)]

_KILLS_PER_PAYMENT = 4
_PAYMENT_SECONDS = 60.0


def _keys(journal: Iterable[Entry], event: str) -> set[str]:
    return {entry["key"] for entry in journal if entry["event"] == event}


def _await_payment(lab: Laboratory) -> None:
    """Wait for another payment: on a slow machine, kills alone would stop them all."""

    def count() -> int:
        return int(
            lab.chain.rpc("eth_getTransactionCount", lab.wallets[0], "latest"), 16
        )

    before = count()
    assert lab.wait(lambda: count() > before, _PAYMENT_SECONDS), lab.explain(
        "no payment"
    )


@pytest.mark.parametrize(
    ("kills", "points"),
    [
        pytest.param(10 - len(_SIGN), _SIGN, id="few"),
        pytest.param(200 - len(_ALL), _ALL, id="many", marks=pytest.mark.soak),
    ],
)
def test_refunds_and_transactions_of_json_rpc_share_a_wallet(
    open_laboratory: Open,
    empty_url: str,
    kills: int,
    points: list[str],
) -> None:
    """Nonces are contiguous, and each accepted request is paid exactly once."""
    roles = (Role.REFUNDS, Role.SIGN)
    lab = open_laboratory(empty_url, roles=roles, crash_at=points, policy=RULES)
    killer = Killer(lab.supervisor, SEED)

    gateway = lab.start_gateway(Load("refunds", concurrency=8))
    applications = lab.start_json_rpc_client(Load("applications", concurrency=8))
    while killer.count < kills:
        lab.sleep(killer.wait(0.5))
        killer.kill()
        if killer.count % _KILLS_PER_PAYMENT == 0:
            _await_payment(lab)
    lab.wait(lambda: lab.crash_points() == set(points), 60)
    lab.settle(gateway, applications)

    lab.await_final()
    evidence = lab.evidence()
    mined = {
        entry["key"]: asset_of(entry["calldata"]).value
        for entry in evidence.journal
        if entry["event"] == "mined"
    }
    lab.assert_reached(points)
    lab.assert_no_violations()
    nonces = sorted(sent.nonce for sent in evidence.sent)
    assert list(range(len(evidence.rows))) == nonces, lab.explain("a gap in the nonces")
    assert len(evidence.rows) >= kills // _KILLS_PER_PAYMENT, lab.explain("few refunds")
    assert {*mined.values()} == {*Asset}, lab.explain(f"JSON-RPC paid {mined}")
    assert _keys(evidence.journal, "seen"), lab.explain("no refund was paid")
