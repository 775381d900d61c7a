"""Writers and sealers die in the middle, and the audit is as if nobody had (A4, A5)."""

from pathlib import Path

import pytest

from signer.audit.checkpoints import Verifier
from signer.audit.export import export
from signer.audit.verify import Verdict, verify
from tests.crash.audit_processes import POINTS
from tests.crash.audit_storm import KEY, ORIGIN, Storm
from tests.crash.conftest import SEED
from tests.crash.report import Tell


_ROLES = ["writer"] * 3 + ["sealer"] * 3

_STAND_SECONDS = 10.0
"""How long the chain may stand still after a death, on a machine with much to do."""


def _verified(url: str) -> Verdict:
    from backends.sql import SQLStore  # noqa: PLC0415  After all forks.

    store = SQLStore(url)
    verdict = verify(export(store, ORIGIN), Verifier(KEY.public_pem()))
    store.close()
    return verdict


def _weathers(folder: Path, url: str, deaths: int, tell: Tell) -> None:
    """
    Let so many processes die; then require that nobody can tell.

    What was told to be durable is in the chain, once; the chain has no gap, and nothing
    that was seen sealed or signed was ever otherwise; all checkpoints, in the store and
    in the log, are of this chain.
    """
    with Storm(folder, url, _ROLES) as storm:
        storm.strike(deaths, SEED)
        storm.settle()
        places = {place for place, _ in storm.died}
        violations = list(storm.violations())
        told, watch = storm.told(), storm.watch
        tell(storm.figures())

        assert violations == [], f"{folder}: {violations[:5]}"
        assert places >= {*POINTS, "kill -9"}, f"not reached: {places}"
        assert len(storm.died) >= deaths * 9 // 10
        assert len(watch.records) >= len(told.answered) > deaths
        assert watch.notes
        assert storm.longest_stand() < _STAND_SECONDS
    verdict = _verified(url)
    assert verdict.is_good, f"{folder}: {verdict.finding}"
    assert verdict.records == verdict.signed == len(watch.records)
    assert verdict.checkpoints == len(watch.notes)


def test_weathers_a_storm(tmp_path: Path, database_url: str, tell: Tell) -> None:
    """A4: whoever dies between record, seal, and checkpoint, the chain goes on."""
    _weathers(tmp_path, database_url, 60, tell)


@pytest.mark.soak
def test_weathers_a_long_storm(tmp_path: Path, database_url: str, tell: Tell) -> None:
    """A4: the same, ten times as long."""
    _weathers(tmp_path, database_url, 600, tell)
