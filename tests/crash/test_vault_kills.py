"""
A vault pays refunds in batches, while processes die and blocks leave the chain.

Beside them, applications send coin and call a contract with transactions of their own.
The guardian lowers and raises the caps, the token refuses recipients, and keys rotate:
all of this between signature and final block, and otherwise again after each
reorganisation.
"""

import itertools
import random
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest

from signer.config.settings import Role
from tests.crash.admin_client import Response
from tests.crash.conftest import SEED, Open
from tests.crash.crash_points import BATCHES, WORKER, names
from tests.crash.gateway_process import Load
from tests.crash.json_rpc_client import RULES, Asset
from tests.crash.killer import Killer
from tests.crash.laboratory import Laboratory, Size
from tests.crash.miner import Miner
from tests.crash.read_store import read_skipped, reading
from tests.crash.rotation_checks import SETTINGS
from tests.crash.vault_rules import VaultRules


_PER_BATCH = 4
_CONFIRMATIONS = 4
_BATCHES = names("worker", BATCHES)
_POINTS = [*names("worker", WORKER), *_BATCHES]
_FEW = [
    f"worker/store.{each}"
    for each in (
        "reserve_all(batch):after",
        "save_all(batch-mined):before",
        "save_all(batch-confirmed):before",
        "earlier_nonces:after",
    )
]
_ROTATED_AFTER = 25
_TRIES = 5
_WEIGHTS = {"host": 6, "child": 74, "grandchild": 20}


class _Rotations:
    """Rotates to one key after another, each request in a thread of its own."""

    def __init__(self, lab: Laboratory, pool: ThreadPoolExecutor) -> None:
        self._admin = lab.admin_client()
        self._keys = itertools.cycle([*lab.device.spares, lab.device.key])
        self._pool = pool
        self._running: Future[Response] | None = None

    def begin(self) -> None:
        """Begin a rotation, unless one is under way."""
        if self._running is None or self._running.done():
            self._running = self._pool.submit(
                self._admin.rotate_until_done, next(self._keys).name
            )

    @property
    def is_done(self) -> bool:
        """Whether no rotation is under way."""
        return self._running is None or self._running.done()

    def count(self) -> int:
        """Return how many are done."""
        return sum(each.is_done for each in self._admin.responses)


@contextmanager
def _rotating(lab: Laboratory) -> Iterator[_Rotations]:
    with ThreadPoolExecutor(1) as pool:
        yield _Rotations(lab, pool)


@pytest.mark.parametrize(
    ("kills", "reorganisations", "points"),
    [
        pytest.param(8, 8, _FEW, id="few"),
        pytest.param(400, 200, _POINTS, id="many", marks=pytest.mark.soak),
    ],
)
def test_a_vault_pays_once(
    open_laboratory: Open,
    empty_url: str,
    kills: int,
    reorganisations: int,
    points: list[str],
) -> None:
    """Each refund is paid once or refused by the token; the books equal the chain."""
    lab = open_laboratory(
        empty_url,
        roles=(Role.REFUNDS, Role.SIGN, Role.ADMIN),
        size=Size(hosts=1, web_workers=1, workers=2),
        crash_at=points,
        spares=2,
        confirmations=_CONFIRMATIONS,
        per_batch=_PER_BATCH,
        settings=SETTINGS,
        policy=RULES,
    )
    rules = lab.rules
    assert rules is not None
    killer, dice = Killer(lab.supervisor, SEED, _WEIGHTS), random.Random(SEED)

    with Miner(lab.chain.rpc) as miner, _rotating(lab) as rotations:
        gateway = lab.start_gateway(Load("refunds", concurrency=24))
        applications = lab.start_json_rpc_client(
            Load("applications", concurrency=3), (Asset.COIN, Asset.CALL)
        )
        rules.overtake(miner, lab.wait, lower=True)
        while killer.count < kills or rules.reorganisations < reorganisations:
            lab.sleep(killer.wait(0.5))
            if killer.count < kills and dice.random() < 0.7:
                killer.kill()
            if rules.reorganisations < reorganisations and dice.random() < 0.5:
                rules.reorganise(miner, _CONFIRMATIONS - 1)
            if dice.random() < 0.3:
                rules.overtake(miner, lab.wait)
            if killer.count % _ROTATED_AFTER == _ROTATED_AFTER // 5:
                rotations.begin()
        _let_a_batch_skip(lab, rules, miner)
        assert lab.wait(rules.permit_all, 30), lab.explain("the caps are not raised")
        lab.wait(lambda: lab.crash_points() >= set(points), 60)
        assert lab.wait(lambda: rotations.is_done, 60), lab.explain("a rotation hangs")
        lab.settle(gateway, applications)

        lab.await_final()
        evidence = lab.evidence()
        lab.assert_no_violations()
        _assert_books_equal(lab)
    lab.assert_reached(points)
    assert evidence.skipped, lab.explain("all batches paid all")
    assert len(evidence.marks) > len(evidence.batches), lab.explain("no batches")
    assert rotations.count(), lab.explain("no rotation")


def _let_a_batch_skip(lab: Laboratory, rules: VaultRules, miner: Miner) -> None:
    """
    Lower the caps until a final batch has not paid all of its refunds.

    A reorganisation may have undone each of the changes before, and a busy machine may
    have sent no batch in time for the first one.
    """

    def has_skipped() -> bool:
        with reading(lab.database_url) as store:
            return bool(read_skipped(store))

    for _ in range(_TRIES):
        if has_skipped():
            return
        # Otherwise all refunds that wait may be above the caps, and make no batch.
        assert lab.wait(rules.permit_all, 30), lab.explain("the caps are not raised")
        rules.overtake(miner, lab.wait, lower=True)
        lab.wait(has_skipped, 10)


def _assert_books_equal(lab: Laboratory) -> None:
    """Fail unless ``hotwallet reconcile`` finds no difference to the chain."""
    began = (datetime.now(UTC) - timedelta(days=1)).isoformat(timespec="seconds")
    finished = lab.run_command("reconcile", "--from", began, "--json")
    assert finished.status == 0, lab.explain(finished)
