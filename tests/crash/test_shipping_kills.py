"""Processes are killed, and the place is away: what is signed has a shipped record."""

import json
import shutil
from bisect import bisect_right
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from signer.model.audit_record import made_at
from tests.crash.conftest import SEED, Open
from tests.crash.gateway_process import Load
from tests.crash.killer import Killer
from tests.crash.laboratory import Laboratory


_LAG = timedelta(seconds=15)

_SLACK = timedelta(seconds=1)
"""A record is drafted before it is committed, and a file dated after it is written."""


def _shipped(place: Path) -> Iterator[tuple[str, datetime]]:
    """Yield each record at the place, and when its segment got its name."""
    for path in (place / "records").iterdir():
        if path.name.startswith("."):
            continue  # A draft of a killed process.
        at = datetime.fromtimestamp(path.stat().st_ctime, UTC)
        for line in path.read_bytes().splitlines():
            if b'"id":' in line:
                yield json.loads(line)["id"], at


def _time(record_id: str) -> datetime:
    at = made_at(record_id)
    assert at is not None
    return at


def _violations(lab: Laboratory, place: Path) -> Iterator[str]:
    """Yield each signature that began while an older record was not at the place."""
    shipped = dict(_shipped(place))
    records = [(_time(each.id), each) for each in lab.evidence().audit]
    records.sort(key=lambda timed: timed[0])
    times = [at for at, _ in records]
    latest = list[datetime]()  # When all up to each record were shipped.
    for _, each in records:
        at = shipped.get(each.id, datetime.max.replace(tzinfo=UTC))
        latest.append(max(at, latest[-1]) if latest else at)
    for at, each in records:
        fields = json.loads(each.body)
        if fields["event"] != "digest-sign-succeeded" or not fields.get("refund_id"):
            continue
        began = at - timedelta(microseconds=fields["duration_us"])
        count = bisect_right(times, began - _LAG - _SLACK)
        if count and latest[count - 1] > began:
            yield f"{each.id} of {began} was signed too early"


@pytest.mark.parametrize(
    "kills", [20, pytest.param(200, marks=pytest.mark.soak)], ids=str
)
def test_no_signature_is_made_while_the_log_lags(
    open_laboratory: Open, empty_postgresql_url: str, tmp_path: Path, kills: int
) -> None:
    """The place is away for longer than the lag, in the middle of the kills."""
    place, away = tmp_path / "place", tmp_path / "away"
    place.mkdir()
    limits = {"AUDIT_SHIP_MAX_LAG": str(int(_LAG.total_seconds()))}
    settings = {"AUDIT_SHIP_TO": place.as_uri(), **limits}
    lab = open_laboratory(empty_postgresql_url, settings=settings)
    gateway = lab.start_gateway(Load("shipping"))
    killer = Killer(lab.supervisor, SEED)
    while killer.count < kills:
        if killer.count == kills // 2 and place.exists():
            place.rename(away)
        killer.kill()
        lab.sleep(killer.wait(0.5))
    lab.sleep(_LAG.total_seconds() + 5)
    if away.exists():
        shutil.move(away, place)
    lab.settle(gateway)

    lab.assert_no_violations()
    assert list(_violations(lab, place)) == []
