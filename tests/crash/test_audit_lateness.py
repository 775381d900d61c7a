"""How long records wait for their place, while many write: a second at the most."""

import time
from collections.abc import Sequence
from pathlib import Path

from signer.audit.sealer import LOOK_SECONDS
from tests.crash.audit_storm import Storm
from tests.crash.report import Tell


_SECONDS = 2.0
_AT_MOST = 1.0


def _quantile(sorted_: Sequence[float], share: float) -> float:
    return sorted_[min(int(len(sorted_) * share), len(sorted_) - 1)]


def _lateness(storm: Storm, tell: Tell) -> tuple[list[float], float]:
    """Watch; return how long each record waited, and what the slowest write took."""
    since = time.time()
    storm.rest(_SECONDS)
    told = storm.told()
    late = sorted(
        seen - told.answered[id_]
        for id_, seen in storm.watch.seen.items()
        if told.answered.get(id_, 0.0) > since
    )
    tell(
        {
            "records": len(late),
            "median, s": _quantile(late, 0.5),
            "p99, s": _quantile(late, 0.99),
            "max, s": late[-1],
            "slowest write, s": told.slowest,
        }
    )
    return late, told.slowest


def test_seals_come_within_a_second(
    tmp_path: Path, database_url: str, tell: Tell
) -> None:
    """
    With 16 writers in 4 processes, as many as two hosts have, nothing waits longer.

    Where a single write takes longer than half a second, so may a seal.
    """
    with Storm(
        tmp_path, database_url, ["service"] * 4, hurry=1.0, pause_seconds=0.2
    ) as storm:
        late, slowest = _lateness(storm, tell)

    assert len(late) > 50
    assert late[-1] <= max(_AT_MOST, LOOK_SECONDS + 2 * slowest), late[-5:]
