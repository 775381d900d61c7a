"""Writers and sealers of the audit chain die, and no record is lost (A4, A5)."""

from pathlib import Path

import pytest

from signer.audit.checkpoints import Verifier
from signer.audit.export import export
from signer.audit.verify import ExportVerdict, verify
from tests.crash.audit_laboratory import KEY, ORIGIN, AuditLaboratory
from tests.crash.audit_workers import POINTS
from tests.crash.conftest import SEED
from tests.support.ledgers import open_ledger


_ROLES = ["writer"] * 3 + ["sealer"] * 3

_STALL_SECONDS = 10.0
"""How long the chain may not grow after a death, on a busy machine."""


def _verify(url: str) -> ExportVerdict:

    store = open_ledger(url)
    verdict = verify(export(store, ORIGIN), Verifier(KEY.public_pem()))
    store.close()
    return verdict


@pytest.mark.parametrize(
    "deaths", [60, pytest.param(600, marks=pytest.mark.soak)], ids=str
)
def test_the_chain_survives_kills(
    tmp_path: Path, database_url: str, deaths: int
) -> None:
    """
    Every durable record is in the chain once, and nothing that was sealed has changed.

    All checkpoints, in the store and in the log, are of this chain.
    """
    with AuditLaboratory(tmp_path, database_url, _ROLES) as lab:
        lab.kill(deaths, SEED)
        lab.settle()
        places = {place for place, _ in lab.deaths}
        violations = list(lab.violations())
        written, observer = lab.written(), lab.observer

        assert violations == [], f"{tmp_path}: {violations[:5]}"
        assert places >= {*POINTS, "kill -9"}, f"not reached: {places}"
        assert len(lab.deaths) >= deaths * 9 // 10
        assert len(observer.records) >= len(written.answered) > deaths
        assert observer.checkpoints
        assert lab.longest_stall() < _STALL_SECONDS
    verdict = _verify(database_url)
    assert verdict.is_good, f"{tmp_path}: {verdict.finding}"
    assert verdict.records == verdict.signed == len(observer.records)
    assert verdict.checkpoints == len(observer.checkpoints)
