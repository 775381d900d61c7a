"""A shipper copies a real ledger's log to a bucket and to a folder."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from api.extras.audit_shipping.places import Place, PlaceError, Stored
from api.extras.audit_shipping.reader import CHECKPOINTS, RECORDS, segment_name
from api.extras.audit_shipping.shipper import DifferentError, Shipper
from signer.alerts import Alert, Alerts
from signer.audit.shipping import LATE, NEVER
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
