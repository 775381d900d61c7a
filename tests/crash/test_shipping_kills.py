"""Processes are killed, and the place is away: what is signed has a shipped record."""

import json
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

import pytest
from moto.server import ThreadedMotoServer

from signer.model.audit_record import made_at
from tests.crash.conftest import SEED, Open
from tests.crash.gateway_process import Load
from tests.crash.killer import Killer
from tests.crash.laboratory import Laboratory
from tests.extras.audit_shipping.shipping import create_bucket


_LAG = timedelta(seconds=15)

_SLACK = timedelta(seconds=1)
"""A record is drafted before it is committed, and a file dated after it is written."""


class _Place(Protocol):
    """A place that can be away for some time."""

    settings: Mapping[str, str]

    def go(self) -> None:
        """Let it be away."""

    def come_back(self) -> None:
        """Let it be there, if it is away."""

    def segments(self) -> Iterator[tuple[datetime, bytes]]:
        """Yield each segment, and when it was there."""


class _Folder:
    def __init__(self, home: Path) -> None:
        self._place, self._away = home / "place", home / "away"
        self._place.mkdir()
        self.settings = {"AUDIT_SHIP_TO": self._place.as_uri()}

    def go(self) -> None:
        self._place.rename(self._away)

    def come_back(self) -> None:
        if self._away.exists():
            self._away.rename(self._place)

    def segments(self) -> Iterator[tuple[datetime, bytes]]:
        for path in (self._place / "records").iterdir():
            if not path.name.startswith("."):  # A draft of a killed process.
                at = datetime.fromtimestamp(path.stat().st_ctime, UTC)
                yield at, path.read_bytes()


class _Bucket:
    """A bucket over HTTP, whose server stops and keeps what it has."""

    def __init__(self) -> None:
        self._server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
        self._server.start()
        host, self._port = self._server.get_host_and_port()
        names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
        self.settings = {
            "AUDIT_SHIP_TO": "s3://kills/log",
            "AWS_ENDPOINT_URL_S3": f"http://{host}:{self._port}",
            "AWS_REGION": "us-east-1",
            **dict.fromkeys(names, "test"),
        }
        self._client = create_bucket(self.settings["AWS_ENDPOINT_URL_S3"], "kills")

    def go(self) -> None:
        self._server.stop()

    def come_back(self) -> None:
        self._server.stop()
        self._server = ThreadedMotoServer("127.0.0.1", self._port, verbose=False)
        self._server.start()

    def segments(self) -> Iterator[tuple[datetime, bytes]]:
        pages = self._client.get_paginator("list_object_versions").paginate(
            Bucket="kills", Prefix="log/records/"
        )
        for each in (each for page in pages for each in page["Versions"]):
            found = self._client.get_object(Bucket="kills", Key=each["Key"])
            yield each["LastModified"], found["Body"].read()

    def close(self) -> None:
        self._server.stop()


def _shipped(place: _Place) -> Iterator[tuple[str, datetime]]:
    """Yield each record at the place, and when its segment was there."""
    for at, segment in place.segments():
        for line in segment.splitlines():
            if b'"id":' in line:
                yield json.loads(line)["id"], at


def _time(record_id: str) -> datetime:
    at = made_at(record_id)
    assert at is not None
    return at


def _violations(lab: Laboratory, place: _Place) -> Iterator[str]:
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


@pytest.fixture
def folder(tmp_path: Path) -> _Folder:
    return _Folder(tmp_path)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[_Bucket]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    with closing(_Bucket()) as bucket:
        yield bucket


@pytest.mark.parametrize(
    ("kind", "kills"),
    [
        ("folder", 20),
        pytest.param("folder", 200, marks=pytest.mark.soak),
        pytest.param("bucket", 40, marks=pytest.mark.soak),
    ],
)
def test_no_signature_is_made_while_the_log_lags(
    open_laboratory: Open,
    empty_postgresql_url: str,
    request: pytest.FixtureRequest,
    kind: str,
    kills: int,
) -> None:
    """The place is away for longer than the lag, in the middle of the kills."""
    place: _Place = request.getfixturevalue(kind)
    limits = {"AUDIT_SHIP_MAX_LAG": str(int(_LAG.total_seconds()))}
    settings = {**place.settings, **limits}
    lab = open_laboratory(empty_postgresql_url, settings=settings)
    gateway = lab.start_gateway(Load("shipping"))
    killer = Killer(lab.supervisor, SEED)
    is_away = False
    while killer.count < kills:
        if killer.count == kills // 2 and not is_away:
            place.go()
            is_away = True
        killer.kill()
        lab.sleep(killer.wait(0.5))
    lab.sleep(_LAG.total_seconds() + 5)
    place.come_back()
    lab.settle(gateway)

    lab.assert_no_violations()
    assert list(_violations(lab, place)) == []
    assert len(dict(_shipped(place))) > kills
