"""A shipper copies a real ledger's log to a bucket and a folder, or does not start."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import boto3  # type: ignore[import-untyped]
import pytest
from structlog.testing import capture_logs

from api.bootstrap import build_container
from api.extras.audit_shipping import check_place, worker_loops
from api.extras.audit_shipping.places import Place, PlaceError, Stored, open_place
from api.extras.audit_shipping.reader import CHECKPOINTS, RECORDS, segment_name
from api.extras.audit_shipping.shipper import DifferentError, Shipper, check_shipping
from signer.alerts import Alert, Alerts
from signer.audit.shipping import LATE, NEVER
from signer.errors import ConfigurationError, InvalidInputError
from signer.ports.audit_journal import Checkpoint
from tests.extras.audit_shipping.shipping import SETTINGS, Shipping
from tests.fixtures.ledger import forge
from tests.support.audit import START, overruled, record
from tests.support.ledgers import seal


@dataclass
class Counting:
    """Counts the requests to a place, and fails or kills after one."""

    place: Place
    puts: list[str] = field(default_factory=list)
    fails_after: int = 10**9

    @property
    def url(self) -> str:
        return self.place.url

    def put(self, name: str, content: bytes) -> bool:
        done = self.place.put(name, content)
        self.puts.append(name)
        if len(self.puts) > self.fails_after:
            raise PlaceError("the answer was lost")
        return done

    def get(self, stored: Stored, limit: int = -1) -> bytes:
        return self.place.get(stored, limit)

    def list(self, folder: str) -> Iterator[Stored]:
        return self.place.list(folder)

    def find_weakness(self) -> str | None:
        return self.place.find_weakness()


def test_the_shipped_log_is_an_export(shipping: Shipping) -> None:
    process = shipping.process()
    for count in (3, 1, 2):
        shipping.write(count)
        process.ship()
    names = [each.name for each in shipping.place.list(RECORDS)]

    assert names == [segment_name(first) for first in (1, 4, 5)]
    assert shipping.records() == shipping.exported()


def test_checkpoints_are_shipped_once_and_forged_ones_are_not(
    shipping: Shipping,
) -> None:
    process = shipping.process()
    shipping.write(3)
    made = [shipping.sign()]
    shipping.store.keep_checkpoint(Checkpoint(3, "forged"))
    process.ship()
    shipping.write(1)
    made.append(shipping.sign())
    process.ship()
    shipping.process().ship()
    found = [shipping.place.get(each) for each in shipping.place.list(CHECKPOINTS)]

    assert len(found) == 2
    for each, line in zip(made, found, strict=True):
        assert each.note.splitlines()[1].encode() in line


def test_an_idle_service_sends_no_requests(shipping: Shipping) -> None:
    """A busy hour needs 720 requests, and one for each checkpoint."""
    place = Counting(shipping.place)
    process = shipping.process(place)
    for _ in range(20):
        shipping.write(2)
        process.ship()
    busy = len(place.puts)
    for _ in range(100):
        process.ship()

    assert (busy, len(place.puts)) == (20, 20)


def test_a_clock_that_was_put_back_is_followed(shipping: Shipping) -> None:
    """Else what its row says would count until the time has come again."""
    process = shipping.process()
    right = shipping.clock()
    shipping.clock.advance(86_400)
    process.ship()
    shipping.clock.advance(-86_400)
    shipping.write(1, sealed=False)

    unknown, known = process.ship().complete_at, shipping.process()
    seal(shipping.store)

    assert unknown == NEVER
    assert known.ship().complete_at == right


@pytest.mark.parametrize("seen", [True, False])
def test_another_process_continues_where_the_killed_one_was(
    shipping: Shipping, *, seen: bool
) -> None:
    """It died after its write, and before the row; more may be sealed since."""
    shipping.write(3)
    with pytest.raises(PlaceError):
        shipping.process(Counting(shipping.place, fails_after=0)).ship()
    if not seen:
        shipping.write(2)
    row = shipping.process().ship()

    assert row.sequence == shipping.written
    assert shipping.records() == shipping.exported()


def test_two_processes_ship_at_once(shipping: Shipping) -> None:
    """The slower one finds what the other has shipped, in other segments."""
    one, other = shipping.process(), shipping.process()
    for _ in range(5):
        shipping.write(2)
        one.ship()
        shipping.write(1)
        other.ship()

    assert shipping.records() == shipping.exported()


def test_a_new_place_gets_the_whole_log(
    shipping: Shipping,
    s3: str,
    bucket: str,
    opened_place: Callable[[str], Place],
) -> None:
    shipping.write(3)
    shipping.process().ship()
    shipping.write(2)
    shipping.place = opened_place(f"s3://{bucket}/other")
    shipping.process().ship()

    assert shipping.records() == shipping.exported()


def _diverges(shipping: Shipping, process: Shipper | None = None) -> str:
    before = shipping.records()
    with pytest.raises(DifferentError) as caught, capture_logs() as logs:
        (process or shipping.process())._round()
    assert [each["alert"] for each in logs if each["event"] == "alert"] == [
        Alert.SHIPPING_DIFFERS
    ]
    assert shipping.records() == before
    return caught.value.name


@pytest.mark.parametrize(
    "forged", [b"", b"x", b'{"hash":"0"}\n', b"own", b"more"], ids=str
)
def test_what_another_program_wrote_is_an_alert(
    shipping: Shipping, forged: bytes
) -> None:
    """A thief of the credentials writes the next name; we never overwrite it."""
    shipping.write(2)
    shipping.process().ship()
    shipping.write(2)
    lines = shipping.exported().splitlines(keepends=True)[3:]
    forged = {
        b"own": b"".join(lines).replace(b'"number":3', b'"number":4'),
        b"more": b"".join([*lines, lines[-1].replace(b'ce":4', b'ce":5')]),
    }.get(forged, forged)
    shipping.place.put(segment_name(3), forged)
    made = shipping.sign()

    assert _diverges(shipping) == segment_name(3)
    # The checkpoint shows a reader which of them is ours.
    (stored,) = shipping.place.list(CHECKPOINTS)
    assert str(made.size).encode() in shipping.place.get(stored)


def test_a_deleted_end_of_the_ledger_is_an_alert(
    shipping: Shipping, sqlite_url: str
) -> None:
    """Also of records that the process has shipped a moment ago."""
    shipping.write(4)
    process = shipping.process()
    process.ship()
    overruled(sqlite_url, "DELETE FROM audit_records WHERE sequence > 2")

    assert _diverges(shipping, process) == "record 4"


def test_a_changed_row_does_not_skip_records(shipping: Shipping) -> None:
    """Everything is compared again, and the row is replaced."""
    shipping.write(2)
    shipping.process().ship()
    shipping.write(2)
    forge(
        shipping.store, "UPDATE audit_shipping SET sequence = 4, version = version + 1"
    )
    with capture_logs() as logs:
        row = shipping.process().ship()

    assert [each["alert"] for each in logs if each["event"] == "alert"] == [
        Alert.ROW_CHANGED
    ]
    assert (row.sequence, row.is_authentic) == (4, True)
    assert shipping.records() == shipping.exported()


def test_the_row_says_when_everything_was_shipped(shipping: Shipping) -> None:
    """A record that is not sealed is not shipped, however long it takes."""
    process = shipping.process()
    shipping.write(1)
    first = process.ship().complete_at
    shipping.clock.now += timedelta(seconds=10)
    shipping.write(1, sealed=False)
    unknown = process.ship().complete_at
    shipping.sealed_at = shipping.timer - 4
    known = process.ship().complete_at

    assert first == unknown == START
    assert known == START + timedelta(seconds=6)


def test_a_place_that_fails_is_an_alert_after_a_minute(shipping: Shipping) -> None:
    place = Counting(shipping.place)
    process = shipping.process(place)
    shipping.write(1)
    process._round()
    place.fails_after = 0
    shipping.write(1)
    with capture_logs() as logs:
        for seconds in (0, 59, 1, 0):
            shipping.clock.now += timedelta(seconds=seconds)
            with pytest.raises(PlaceError):
                process._round()
        place.fails_after = 10**9
        process._round()

    assert timedelta(seconds=60) == LATE
    found = [x["event"] for x in logs if x.get("alert") == Alert.SHIPPING_LATE]
    assert found == ["alert", "alert-resolved"]


def test_a_process_that_does_not_lead_ships_what_is_left(shipping: Shipping) -> None:
    """Until then it ships nothing."""
    process = Shipper(
        shipping.store,
        shipping.place,
        SETTINGS,
        Alerts(clock=shipping.clock),
        shipping.clock,
        sealed_at=lambda: None,
        patience=lambda: timedelta(seconds=2),
    )
    shipping.write(1)
    shipping.process().ship()
    shipping.write(1)
    process._round()
    led = [each.name for each in shipping.place.list(RECORDS)]
    shipping.clock.advance(11)
    process._round()

    assert led == [segment_name(1)]
    assert shipping.records() == shipping.exported()


def test_a_large_log_is_shipped_in_several_segments(shipping: Shipping) -> None:
    """A segment has at most 4 MiB, unless one record is longer."""
    big = "x" * 3_000_000
    shipping.store.append([record(n, at=START, big=big) for n in range(3)])
    seal(shipping.store)
    shipping.process().ship()
    names = [each.name for each in shipping.place.list(RECORDS)]

    assert names == [segment_name(first) for first in (1, 2, 3)]
    assert shipping.records() == shipping.exported()
    assert shipping.process(Counting(shipping.place)).ship().sequence == 3


def test_the_stored_name_has_twenty_digits(shipping: Shipping) -> None:
    shipping.write(1)
    shipping.process().ship()

    assert shipping.place.get(Stored(f"records/{1:020}.jsonl"))


# The contract of places: a bucket (moto's server over HTTP) and a folder.


def _names(place: Place, folder: str = "records/") -> list[str]:
    return [each.name for each in place.list(folder)]


def test_a_name_is_written_once(place: Place) -> None:
    first, second = place.put("records/1", b"one"), place.put("records/1", b"two")

    assert (first, second) == (True, False)
    assert place.get(Stored("records/1")) == b"one"
    assert place.get(Stored("records/1"), 2) == b"on"


def test_names_are_listed_by_folder_and_in_order(place: Place) -> None:
    assert _names(place) == []
    for name in ("records/2", "checkpoints/1", "records/1"):
        place.put(name, b"")

    assert _names(place) == ["records/1", "records/2"]
    assert _names(place, "checkpoints/") == ["checkpoints/1"]


def test_what_is_missing_cannot_be_read(place: Place) -> None:
    with pytest.raises(PlaceError, match=r"NoSuchKey|FileNotFound"):
        place.get(Stored("records/1"))


def test_two_writers_of_one_name_cannot_both_succeed(
    url: str, opened_place: Callable[[str], Place]
) -> None:
    places = [opened_place(url), opened_place(url)]
    written = [place.put("records/1", bytes([n])) for n, place in enumerate(places)]

    assert sorted(written) == [False, True]


def test_a_reader_gets_the_oldest_version(
    s3: str, bucket: str, opened_place: Callable[[str], Place]
) -> None:
    """A thief can put another version above ours, and a delete marker above that."""
    place = opened_place(f"s3://{bucket}/log")
    place.put("records/1", b"ours")
    place.put("records/2", b"ours")
    client = boto3.client("s3", endpoint_url=s3, region_name="us-east-1")
    client.put_object(Bucket=bucket, Key="log/records/1", Body=b"forged")
    client.delete_object(Bucket=bucket, Key="log/records/1")
    found = list(place.list("records/"))

    assert [each.was_replaced for each in found] == [True, False]
    assert [place.get(each) for each in found] == [b"ours", b"ours"]


def test_a_lock_is_found_to_be_missing(
    s3: str, bucket: str, opened_place: Callable[[str], Place]
) -> None:
    client = boto3.client("s3", endpoint_url=s3, region_name="us-east-1")
    client.create_bucket(Bucket=f"{bucket}-open")

    assert opened_place(f"s3://{bucket}").find_weakness() is None
    weakness = opened_place(f"s3://{bucket}-open").find_weakness()
    assert weakness == "the default retention of the bucket is missing"


def test_a_place_that_does_not_answer_fails(tmp_path: Path, bucket: str) -> None:
    closed = open_place(f"s3://{bucket}", "http://127.0.0.1:1", "us-east-1")
    for place in (closed, open_place((tmp_path / "gone").as_uri(), None, None)):
        with pytest.raises(PlaceError, match=r"\(\w+Error\)|\(FileNotFoundError\)"):
            place.put("records/1", b"")


@pytest.mark.parametrize(
    "url",
    ["s3://", "s3://a@b/c", "s3://b/c?x=1", "file://host/path", "https://x/y", "/x"],
)
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(InvalidInputError, match="must be s3://BUCKET/PREFIX"):
        open_place(url, None, None)


# What the start refuses, and what the doctor says about the shipped log.

REFUSED = (
    ({"AUDIT_SHIP_TO": "https://example.com"}, "AUDIT_SHIP_TO must be s3://"),
    ({"AUDIT_SHIP_MAX_LAG": "30"}, "AUDIT_SHIP_MAX_LAG needs AUDIT_SHIP_TO"),
    (
        {"AUDIT_SHIP_TO": "file:///place", "APP_ENV": "production"},
        "AUDIT_SHIP_TO needs AUDIT_SIGNING_KEY_FILE",
    ),
)


@pytest.mark.parametrize(("environ", "problem"), REFUSED)
def test_unusable_settings_are_refused(environ: dict[str, str], problem: str) -> None:
    container = build_container({"APP_ENV": "test", **environ})

    with pytest.raises(ConfigurationError, match=problem):
        check_place(container, paying=True)


@pytest.mark.parametrize("url", ["folder"], indirect=True)
def test_the_doctor_says_what_is_not_shipped(shipping: Shipping) -> None:
    """Nothing, then everything, then too little; and that it ended on purpose."""
    url = shipping.place.url
    on = build_container({"AUDIT_SHIP_TO": url, "APP_ENV": "test"})
    off = build_container({"APP_ENV": "production"})
    for container in (on, off):
        container.store, container.ledger_clock = shipping.store, shipping.clock
    never = check_shipping(off), check_shipping(on)
    shipping.write(2)
    shipping.process().ship()
    good = check_shipping(on), check_shipping(off)
    shipping.clock.now += timedelta(minutes=2)
    late = check_shipping(on)
    ended = [*worker_loops(off)], check_shipping(off)

    assert never[0].cure is not None
    assert never[1].code == late.code == Alert.SHIPPING_LATE
    assert [each.cure for each in good] == [None, None]
    assert good[1].detail == f"2 records are at {url}"
    assert (ended[0], ended[1].detail) == ([], never[0].detail)
