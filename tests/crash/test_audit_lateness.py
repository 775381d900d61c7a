"""How long records wait for their place, while many write: a second at the most."""

import json
import time
from collections.abc import Sequence
from pathlib import Path

from signer.audit.sealing import LOOK_SECONDS
from tests.crash.audit_storm import Storm


_SECONDS = 2.0
_AT_MOST = 1.0


def _quantile(sorted_: Sequence[float], share: float) -> float:
    return sorted_[min(int(len(sorted_) * share), len(sorted_) - 1)]


def _lateness(storm: Storm) -> tuple[list[float], float]:
    """Watch; return how long each record waited, and what the slowest write took."""
    since = time.time()
    storm.rest(_SECONDS)
    told = storm.told()
    late = sorted(
        seen - told.answered[id_]
        for id_, seen in storm.watch.seen.items()
        if told.answered.get(id_, 0.0) > since
    )
    figures = {
        "records": len(late),
        "median, s": round(_quantile(late, 0.5), 3),
        "p99, s": round(_quantile(late, 0.99), 3),
        "max, s": round(late[-1], 3),
        "slowest write, s": round(told.slowest, 3),
    }
    file = storm.orders.folder / "figures.json"
    file.write_text(json.dumps(figures), encoding="utf-8")
    return late, told.slowest


def test_seals_come_within_a_second(tmp_path: Path, database_url: str) -> None:
    """
    With 16 writers in 4 processes, as many as two hosts have, nothing waits longer.

    Where a single write takes longer than half a second, so may a seal.
    """
    with Storm(
        tmp_path, database_url, ["service"] * 4, hurry=1.0, pause_seconds=0.2
    ) as storm:
        late, slowest = _lateness(storm)

    assert len(late) > 50
    assert late[-1] <= max(_AT_MOST, LOOK_SECONDS + 2 * slowest), late[-5:]
