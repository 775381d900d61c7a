"""Webhooks: signatures, addresses, retention, and what an operator may ask for."""

import base64
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from standardwebhooks.webhooks import Webhook, WebhookVerificationError
from structlog.testing import capture_logs

from backends.sql import SQLStore
from signer.audit.log import AuditLog
from signer.config.tenants import Tenant, TenantRegistry
from signer.errors import (
    CursorExpiredError,
    InvalidInputError,
    NotFoundError,
    StoreUnavailableError,
)
from signer.keys.admin_audit import AdminAudit
from signer.model.audit_record import Actor, Operation
from signer.model.event import DeliveryState, sequence_at
from signer.ports.clock import utc_now
from signer.ports.event_store import DeliveryAttempt, DeliveryFilter, Pruned
from signer.webhooks.delivery_admin import MAX_DEAD, MAX_EVENTS, DeliveryAdmin, Replay
from signer.webhooks.endpoint import LOOPBACK, Network, may_send_to
from signer.webhooks.event_feed import EventFeed, EventRetention
from signer.webhooks.signatures import (
    PrivateKey,
    Secret,
    WebhookPublicKey,
    read_private_keys,
    read_public_keys,
    read_secrets,
    sign,
    verify,
)
from tests.fixtures.ledger import accepted, later
from tests.support.ledgers import seal
from tests.support.refunds import altered
from tests.support.ring import SILENCE
from tests.support.waiting import Timer
from tests.support.webhooks import Receiver, dispatcher


ALICE = Actor("cli:alice")

_WEBHOOK = {"url": "https://shop.example/hook"}

REGISTRY = TenantRegistry(
    {
        "shop": Tenant.model_validate({"subjects": ["shop"], "webhook": _WEBHOOK}),
        "gateway": Tenant.model_validate({"subjects": ["gateway"]}),
    }
)


def _admin(store: SQLStore, over: Any = None) -> DeliveryAdmin:
    audit = AdminAudit(AuditLog(SILENCE, journal=store), Operation.ADMINISTRATION)
    return DeliveryAdmin(over or store, REGISTRY, audit, utc_now)


def _events(store: SQLStore, count: int = 1, tenant: str = "shop") -> list[str]:
    """Return the ids of new events with deliveries, the oldest first."""
    for _ in range(count):
        accepted(store, tenant=tenant)
    store.sequence_events(99, utc_now(), lambda _: True)
    rows = store.deliveries(count, DeliveryFilter(tenant))
    return [row.event_id for row, _ in reversed(rows)]


def _give_up_all(store: SQLStore) -> None:
    found = store.claim_deliveries({"shop": 99}, 99, later(1), later(60))
    store.record_attempts(
        [
            DeliveryAttempt(each.delivery, DeliveryState.DEAD, utc_now(), "status-500")
            for each in found
        ],
        utc_now(),
    )


def _records(store: SQLStore) -> list[tuple[str, str, Any]]:
    seal(store)
    records = [each.record.fields for each in store.sealed(0, 100)]
    assert {each["actor"] for each in records} <= {"cli:alice"}
    return [(each["event"], each["outcome"], each["details"]) for each in records]


def test_pages(sqlite_store: SQLStore) -> None:
    """A page that is not the last one has the number to continue before."""
    ids = _events(sqlite_store, 3)
    admin = _admin(sqlite_store)
    first = admin.list(DeliveryFilter(), 2)
    rest = admin.list(DeliveryFilter(), 2, first.next_before)

    assert [row.event_id for row, _ in first.deliveries] == [ids[2], ids[1]]
    assert [row.event_id for row, _ in rest.deliveries] == [ids[0]]
    assert rest.next_before is None
    assert admin.find(ids[0])[0] == rest.deliveries[0][0]


@pytest.mark.parametrize("event_id", ["evt_none", "", f"evt_{'0' * 32}", "\0"])
def test_an_unknown_event(sqlite_store: SQLStore, event_id: str) -> None:
    """It is not found; its replay is recorded as refused, without a strange text."""
    admin = _admin(sqlite_store)
    with pytest.raises(NotFoundError):
        admin.find(event_id)
    with pytest.raises(NotFoundError, match="no such event of a tenant with a webhook"):
        admin.replay([event_id], ALICE)
    known = [event_id] if event_id.endswith("00") else []

    assert _records(sqlite_store) == [
        ("webhook-replay-requested", "success", {"events": known}),
        ("webhook-replay-refused", "not-found", {"events": known}),
    ]


def test_a_replay_of_events(sqlite_store: SQLStore) -> None:
    """Those without a webhook are missing; the record has what was done."""
    (sent,), (other,) = _events(sqlite_store), _events(sqlite_store, tenant="gateway")
    _give_up_all(sqlite_store)
    result = _admin(sqlite_store).replay([sent, other, sent], ALICE)

    assert result == Replay([sent], [other])
    assert sqlite_store.deliveries(9, DeliveryFilter(state=DeliveryState.DEAD)) == []
    assert _records(sqlite_store) == [
        ("webhook-replay-requested", "success", {"events": [sent, other]}),
        ("webhook-replay-succeeded", "success", {"events": [sent], "count": 1}),
    ]


def test_too_many_events(sqlite_store: SQLStore) -> None:
    """Nothing is done, nor recorded."""
    ids = [f"evt_{n:032x}" for n in range(MAX_EVENTS + 1)]
    with pytest.raises(InvalidInputError, match="at most 100 events"):
        _admin(sqlite_store).replay(ids, ALICE)

    assert _records(sqlite_store) == []


def test_a_replay_of_what_was_given_up(sqlite_store: SQLStore) -> None:
    _events(sqlite_store, 3)
    _give_up_all(sqlite_store)
    done = _admin(sqlite_store).replay_dead("shop", ALICE)

    assert (done.count, done.is_complete) == (3, True)
    # A call makes a limited number due, in one short transaction.
    full = altered(sqlite_store, replay_dead=lambda *_: MAX_DEAD)
    more = _admin(sqlite_store, full).replay_dead("shop", ALICE)
    assert (more.count, more.is_complete) == (MAX_DEAD, False)
    broken = altered(sqlite_store, replay_dead=StoreUnavailableError("gone"))
    with pytest.raises(StoreUnavailableError):
        _admin(sqlite_store, broken).replay_dead("shop", ALICE)

    first, last = _records(sqlite_store)[:2], _records(sqlite_store)[-1]
    assert first == [
        ("webhook-replay-requested", "success", {"tenant": "shop"}),
        ("webhook-replay-succeeded", "success", {"tenant": "shop", "count": 3}),
    ]
    assert last[:2] == ("webhook-replay-refused", "store-unavailable")


@pytest.mark.parametrize("tenant", ["gateway", "unknown", "\0"])
def test_a_tenant_without_a_webhook(sqlite_store: SQLStore, tenant: str) -> None:
    with pytest.raises(NotFoundError, match="no webhook for this tenant"):
        _admin(sqlite_store).replay_dead(tenant, ALICE)

    assert _records(sqlite_store)[-1][:2] == ("webhook-replay-refused", "not-found")


# How long events are kept, and what a cursor promises.

KEEP = timedelta(days=90)

DAY = timedelta(days=1)


def _event(store: SQLStore, at: datetime) -> int:
    """Return the sequence number of a new event that gets it at *at*."""
    accepted(store)
    store.sequence_events(1, at, lambda _: False)
    number = store.events("gateway", 0, 99, utc_now() + DAY).events[-1][0].sequence
    assert number is not None
    return number


def _read(feed: EventFeed, after: int) -> list[int | None]:
    return [event.sequence for event, _ in feed.page("gateway", after, 9).events]


def test_a_reader_that_comes_back_in_time_misses_nothing(
    sqlite_store: SQLStore,
) -> None:
    """Its cursor may be as old as the events; what follows it may not."""
    now = utc_now()
    old, newer = _event(sqlite_store, now - 400 * DAY), _event(sqlite_store, now - DAY)
    feed = EventFeed(sqlite_store, KEEP, lambda: now)

    assert _read(feed, old) == [newer]
    for cursor in (newer, newer + 7):
        assert feed.page("gateway", cursor, 9).cursor == cursor  # An empty page.


def test_a_reader_that_comes_too_late_gets_an_error(sqlite_store: SQLStore) -> None:
    """Whether the events were deleted already or not."""
    now = utc_now()
    read, missed, last = (_event(sqlite_store, now - n * DAY) for n in (99, 98, 92))
    _event(sqlite_store, now - DAY)
    feed = EventFeed(sqlite_store, KEEP, lambda: now)
    retention = EventRetention(sqlite_store, KEEP, lambda: now, timer=Timer())
    for _ in range(2):
        for cursor in (1, read, missed):
            with pytest.raises(CursorExpiredError, match="after=0"):
                feed.page("gateway", cursor, 9)
        assert len(_read(feed, last)) == 1
        retention.work()

    assert len(sqlite_store.events("gateway", 0, 9, now).events) == 2


def test_the_beginning_is_what_is_certainly_kept(sqlite_store: SQLStore) -> None:
    """A reader that starts there has a day until its cursor is too old."""
    now = utc_now()
    for ago in (99, 90.5):
        _event(sqlite_store, now - ago * DAY)
    first, second = (_event(sqlite_store, now - n * DAY) for n in (89.9, 1))
    feed = EventFeed(sqlite_store, KEEP, lambda: now)
    (event, _), *_ = feed.page("gateway", 0, 1).events
    later = EventFeed(sqlite_store, KEEP, lambda: now + DAY)

    assert event.sequence == first
    assert _read(later, first) == [second]


def test_small_batches(sqlite_store: SQLStore) -> None:
    """One after the other with pauses, and then none for ten minutes."""
    now = utc_now()
    for n in range(6):
        _event(sqlite_store, now - 99 * DAY + timedelta(seconds=n))
    timer = Timer()
    retention = EventRetention(sqlite_store, KEEP, lambda: now, timer=timer, batch=2)
    left = []
    with capture_logs() as logs:
        for seconds in (0, 0.1, 0.5, 0.5, 60):
            timer.now += seconds
            retention.work()
            left.append(len(sqlite_store.events("gateway", 0, 9, now).events))

    assert left == [4, 4, 2, 1, 1]
    assert [(each["event"], each["count"]) for each in logs] == [
        ("events-pruned", 2),
        ("events-pruned", 2),
        ("events-pruned", 1),
    ]


def test_another_process_deletes(sqlite_store: SQLStore) -> None:
    """Then this one looks again in ten minutes, from the beginning."""
    asked: list[int] = []

    def prune(_: datetime, after: int, limit: int) -> Pruned | None:
        asked.append(after)
        return [Pruned(limit, 7), None, Pruned(0, 0)][len(asked) - 1]

    timer = Timer()
    store = altered(sqlite_store, prune_events=prune)
    retention = EventRetention(store, KEEP, utc_now, timer=timer)
    for seconds in (0, 1, 1, 600):
        timer.now += seconds
        retention.work()

    assert asked == [0, 7, 0]


def test_the_dispatcher_deletes(sqlite_store: SQLStore) -> None:
    """In its thread, after the deliveries."""
    now = utc_now()
    for n in range(2):
        _event(sqlite_store, now - 99 * DAY + timedelta(seconds=n))
    retention = EventRetention(sqlite_store, KEEP, utc_now)
    dispatcher(sqlite_store, Receiver(), {}, retention=retention).work()

    (event, _), *others = sqlite_store.events("gateway", 0, 9, now).events
    assert others == []
    assert event.sequence is not None
    assert event.sequence > sequence_at(now - 99 * DAY)


# The signatures of Standard Webhooks.

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

BODY = b'{"type":"refund.confirmed","data":{"amount":"12.50"}}'

KEY = PrivateKey(bytes(range(32)))

SECRET = Secret(b"\x01" * 32)


def test_the_reference_library_verifies_a_secret() -> None:
    """The package ``standardwebhooks`` of the specification's authors accepts it."""
    now = datetime.now(UTC)  # The library compares it with the system's clock.
    headers = dict(sign([KEY, SECRET], "evt_1", now, BODY))
    reference = Webhook(SECRET.format())

    assert reference.verify(BODY, headers)["type"] == "refund.confirmed"
    for changed in (
        {**headers, "webhook-id": "evt_2"},
        {**headers, "webhook-timestamp": str(int(now.timestamp()) + 1)},
    ):
        with pytest.raises(WebhookVerificationError):
            reference.verify(BODY, changed)
    with pytest.raises(WebhookVerificationError):
        reference.verify(BODY + b" ", headers)


def test_cryptography_verifies_a_key() -> None:
    """An independent check of ``v1a``: Ed25519 over id, time and body."""
    headers = sign([KEY], "evt_1", NOW, BODY)
    scheme, _, text = headers["webhook-signature"].partition(",")
    public = Ed25519PublicKey.from_public_bytes(
        base64.urlsafe_b64decode(KEY.public.jwk()["x"] + "=")
    )
    message = f"evt_1.{int(NOW.timestamp())}.".encode() + BODY

    assert scheme == "v1a"
    public.verify(base64.b64decode(text), message)
    with pytest.raises(InvalidSignature):
        public.verify(base64.b64decode(text), message + b" ")


@pytest.mark.parametrize("key", [KEY.public, SECRET], ids=["key", "secret"])
def test_our_own_verification(key: WebhookPublicKey | Secret) -> None:
    """One valid signature of several suffices, so that keys can be replaced."""
    headers = sign([PrivateKey.generate(), KEY, SECRET], "evt_1", NOW, BODY)
    old = Secret.generate()

    assert verify([old, key], headers, BODY, NOW) == "evt_1"
    with pytest.raises(InvalidInputError, match="no signature"):
        verify([old], headers, BODY, NOW)
    with pytest.raises(InvalidInputError, match="no signature"):
        verify([key], headers, BODY + b" ", NOW)
    with pytest.raises(InvalidInputError, match="five minutes"):
        verify([key], headers, BODY, NOW + timedelta(seconds=302))
    for name in headers:
        with pytest.raises(InvalidInputError, match="missing"):
            verify([key], {**headers, name: ""}, BODY, NOW)
    with pytest.raises(InvalidInputError, match="missing"):
        verify([key], {**headers, "webhook-timestamp": "\u0661"}, BODY, NOW)


@pytest.mark.parametrize(
    "signature", ["v1a,", "v1a,*", "v1a,AAAA", "v1,AAAA", "v2,AAAA", "v1a", "\xe4,\xe4"]
)
def test_signatures_that_are_none(signature: str) -> None:
    for key in (KEY.public, SECRET):
        assert not key.is_valid(signature, BODY)


def test_keys_have_one_text() -> None:
    """A secret stays out of representations, and a public key has an id."""
    short = f"whsk_{base64.b64encode(KEY.seed).decode()}"

    assert PrivateKey.parse(KEY.format()) == KEY == PrivateKey.parse(short)
    assert WebhookPublicKey.parse(KEY.public.format()) == KEY.public
    assert Secret.parse(SECRET.format()) == SECRET
    assert KEY.public.jwk()["kid"] == KEY.public.id == "56475aa75463474c"
    assert (repr(KEY), repr(SECRET)) == ("PrivateKey()", "Secret()")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "whsk_",
        "whsk_*",
        "whsk_\xe4",
        f"whpk_{base64.b64encode(bytes(32)).decode()}",
        f"whsk_{base64.b64encode(bytes(31)).decode()}",
        f"whsk_{base64.b64encode(bytes(64)).decode()}",
        f"whsk_{base64.b64encode(bytes(65)).decode()}",
    ],
)
def test_texts_that_are_no_key(text: str) -> None:
    """The error does not quote the text, which may be a secret in the wrong place."""
    with pytest.raises(ValueError, match="24 to 64"):
        Secret.parse(f"whsec_{base64.b64encode(bytes(23)).decode()}")
    with pytest.raises(ValueError, match="32 bytes"):
        WebhookPublicKey.parse(f"whpk_{base64.b64encode(bytes(33)).decode()}")

    with pytest.raises(ValueError, match=r"whsk_ and Base64|32 bytes") as caught:
        PrivateKey.parse(text)

    assert not text.removeprefix("whsk_") or text not in str(caught.value)


def test_files(tmp_path: Path) -> None:
    """Each line is a key; files of secrets must be their owner's alone."""
    path = tmp_path / "keys"
    path.touch(mode=0o600)
    other = PrivateKey.generate()
    path.write_text(f"{KEY.format()}\n{other.format()}\n", encoding="ascii")
    assert read_private_keys(path) == [KEY, other]
    path.write_text(SECRET.format(), encoding="ascii")
    assert read_secrets(path) == [SECRET]
    path.write_text(KEY.public.format(), encoding="ascii")
    path.chmod(0o644)
    assert read_public_keys(path) == [KEY.public]
    with pytest.raises(ValueError, match="chmod 600"):
        read_secrets(path)
    for content, problem in (
        (b"", "1 to 4 lines"),
        (b"x\n" * 5, "1 to 4 lines"),
        (b"\xff", "not text"),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=problem):
            read_public_keys(path)


# To which addresses events may be sent.

REFUSED = [
    *("0.0.0.0", "0.255.255.255", "10.0.0.1", "10.255.255.255", "100.64.0.1"),
    *("100.100.100.200", "100.127.255.255", "127.0.0.1", "127.255.255.254"),
    *("168.63.129.16", "169.254.0.1", "169.254.169.254", "169.254.170.2"),
    *("172.16.0.1", "172.31.255.255", "192.0.0.1", "192.0.0.192", "192.0.2.1"),
    *("192.31.196.1", "192.52.193.1", "192.88.99.1", "192.168.0.1"),
    *("192.168.255.255", "192.175.48.1", "198.18.0.1", "198.19.255.255"),
    *("198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.255", "240.0.0.1"),
    *("255.255.255.255", "::", "::1", "::127.0.0.1", "::8.8.8.8", "::ffff:127.0.0.1"),
    *("::ffff:8.8.8.8", "::ffff:169.254.169.254", "::ffff:0:8.8.8.8"),
    *("64:ff9b::7f00:1", "64:ff9b::808:808", "64:ff9b:1::808:808", "100::1"),
    *("2001::1", "2001:0:808:808::1", "2001:2::1", "2001:10::1", "2001:20::1"),
    *("2001:db8::1", "2002:7f00:1::", "2002:808:808::", "2620:4f:8000::1", "3fff::1"),
    *("4000::1", "5f00::1", "fc00::1", "fd00:ec2::254", "fdff:ffff::1", "fe80::1"),
    *("fe80::1%eth0", "2606:4700::1111%eth0", "fec0::1", "ff02::1"),
    *("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "", "localhost", "127.1"),
    *("2130706433", "0x7f000001", "0177.0.0.1", "8.8.8.8:443"),
]


@pytest.mark.parametrize("address", REFUSED)
def test_addresses_that_are_not_public(address: str) -> None:
    """Private, special, embedded and malformed addresses are refused."""
    assert not may_send_to(address)


@pytest.mark.parametrize(
    "address",
    [
        *("1.1.1.1", "8.8.8.8", "9.255.255.255", "100.63.255.255", "100.128.0.1"),
        *("126.255.255.255", "128.0.0.1", "169.253.255.255", "172.15.255.255"),
        *("172.32.0.1", "192.167.255.255", "223.255.255.255", "2001:200::1"),
        *("2606:4700:4700::1111", "2a00:1450:4001:80b::200e"),
    ],
)
def test_public_addresses(address: str) -> None:
    assert may_send_to(address)


def test_what_an_operator_allows() -> None:
    """An internal network can be allowed; cloud metadata cannot."""
    everything: list[Network] = [IPv4Network("0.0.0.0/0"), IPv6Network("::/0")]

    assert may_send_to("10.1.2.3", [ip_network("10.1.0.0/16")])
    assert not may_send_to("10.2.2.3", [ip_network("10.1.0.0/16")])
    assert may_send_to("127.0.0.1", LOOPBACK)
    assert may_send_to("::1", LOOPBACK)
    assert not may_send_to("::ffff:127.0.0.1", LOOPBACK)
    for metadata in (
        *("169.254.169.254", "100.100.100.200", "168.63.129.16", "192.0.0.192"),
        *("fd00:ec2::254", "fe80::a9fe:a9fe"),
    ):
        assert not may_send_to(metadata, everything)
