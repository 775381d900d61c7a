"""
A thief of a host of the API: its code, its database role, and the key of the MACs.

The thief can insert any refund with a valid MAC, and has seen every request.  The
thief does not have the keys with which the gateway signs.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import insert

from backends.sql import SQLStore
from backends.sql.tables import request_signatures
from signer import strict_json
from signer.alerts import Alert
from signer.config.tenants import Tenant, TenantRegistry
from signer.errors import HotWalletError
from signer.model.acceptance import SignedRequest
from signer.model.payment import PaymentState
from signer.model.refund import Refund, Status, new_refund_id
from signer.refunds.request_body import read_refund
from tests.attacks.theft import let_work
from tests.fixtures.ledger import as_if, bound, filled
from tests.support.ledgers import ROW_MACS, open_ledger
from tests.support.refunds import ACTOR, AMOUNT, CUSTOMER, FakeClock, World
from tests.support.signed_requests import RequestKey


THIEF = "0x90F79bf6EB2c4f870365E785982E1f101E93b906"

GATEWAY = RequestKey()
OTHERS = RequestKey(GATEWAY.key_id)  # The thief's own key, under the gateway's id.

TENANTS = TenantRegistry(
    {
        "gateway": Tenant(
            subjects=("gateway", "pod-1"), request_keys={GATEWAY.key_id: GATEWAY.public}
        ),
        "shop": Tenant(
            subjects=("shop",), request_keys={"shop": RequestKey("shop").public}
        ),
    }
)


@dataclass
class Host:
    """What the thief does on the host of the API."""

    world: World
    url: str

    def body(self, number: int = 1, **changes: str) -> bytes:
        """Return the body of a request, as the gateway writes it."""
        fields = {
            "payment_session_id": f"session-{number}",
            "reference": f"reference-{number}",
            "network": "local",
            "token": "TUSD",
            "recipient": CUSTOMER,
            "amount": "12.50",
        }
        return json.dumps({**fields, **changes}).encode()

    def signed(self, number: int = 1, key: RequestKey = GATEWAY) -> SignedRequest:
        """Return a request that is signed now."""
        body, at = self.body(number), self.world.clock()
        return replace(key.signed(body, f"key-{number}", at), at=at)

    def accept(self, number: int = 1) -> Refund:
        """Accept a request that the gateway signed."""
        signed = self.signed(number)
        return self.world.service.submit(
            tenant="gateway",
            idempotency_key=f"key-{number}",
            request=read_refund(strict_json.loads(signed.body)),
            actor=ACTOR,
            signed=signed,
        ).refund

    def insert(self, refund: Refund, signed: SignedRequest | None = None) -> None:
        """Insert *refund* with a valid MAC, and its request."""
        sealed = replace(refund, mac=ROW_MACS.compute(refund))
        with closing(SQLStore(self.url)) as store:
            filled(store, [sealed])
            if signed is not None:
                row = {"refund_id": refund.id, **asdict(signed)}
                store._database.transaction(
                    lambda c: c.execute(insert(request_signatures), [row])
                )

    def work(self) -> None:
        """Run a worker and mine blocks for some minutes."""
        let_work(self.world, self.world.worker)


@contextmanager
def _host(url: str) -> Iterator[Host]:
    clock = FakeClock()
    clock.now = datetime.now(UTC)  # PostgreSQL dates what it stores by its own clock.
    with closing(open_ledger(url)) as store:
        yield Host(World(store, clock=clock, tenants=TENANTS), url)


@pytest.fixture
def host(database_url: str) -> Iterator[Host]:
    """A service whose tenants sign, on each database in turn."""
    with _host(database_url) as made:
        yield made


@pytest.fixture
def genuine(host: Host) -> Refund:
    """The row of a request that the gateway signed, which nothing has stored yet."""
    return _row(host)


def _row(host: Host) -> Refund:
    now = host.world.clock()
    request = read_refund(strict_json.loads(host.body()))
    token = host.world.network.tokens["TUSD"]
    return Refund(
        id=new_refund_id(now),
        tenant="gateway",
        idempotency_key="key-1",
        fingerprint=request.fingerprint(),
        reference=request.reference,
        payment_session_id=request.payment_session_id,
        network="local",
        chain_id=host.world.network.chain_id,
        token="TUSD",
        token_address=token.address,
        decimals=token.decimals,
        recipient=CUSTOMER,
        amount=AMOUNT,
        reason=None,
        state=PaymentState.QUEUED,
        created_at=now,
        updated_at=now,
        due_at=now,
    )


def _require_frozen(host: Host, refund: Refund) -> None:
    """Require that *refund* waits with an alert, and that another one was paid."""
    other = host.accept(number=2)

    host.work()

    assert host.world.chain.payouts() == [(CUSTOMER, AMOUNT)]
    assert host.world.stored(other).status is Status.CONFIRMED
    assert host.world.stored(refund).status is refund.status
    assert host.world.stored(refund).moving.blocked_by == "row-not-authentic"
    assert host.world.store.alert_counts()[str(Alert.ROW_CHANGED)] >= 1


def test_what_the_gateway_signed_is_paid(host: Host, genuine: Refund) -> None:
    """The row that the attacks below change is paid, once, as it is."""
    host.insert(genuine, host.signed())

    host.work()

    assert host.world.chain.payouts() == [(CUSTOMER, AMOUNT)]


Sign = Callable[[Host], SignedRequest | None]


def _nothing(_: Host) -> None:
    """A refund that no gateway requested."""


def _body(body: bytes) -> Sign:
    """Return what lets the gateway sign a *body* that the API refuses."""

    def sign(host: Host) -> SignedRequest:
        at = host.world.clock()
        return replace(GATEWAY.signed(body, "key-1", at), at=at)

    return sign


CHANGES: list[dict[str, Any]] = [
    {"recipient": THIEF},
    {"amount": AMOUNT + 1},
    {"amount": 10 * AMOUNT},
    {"reason": "other"},
    {"payment_session_id": "other"},
    {"reference": "other"},
    {"idempotency_key": "other"},
    {"idempotency_key": "other", "reference": "other"},
]
"""Redirect or enlarge a request, or give it another name."""

FORGED: list[tuple[dict[str, Any], Sign]] = [
    # Of any tenant, listed or not.
    ({"tenant": "gateway", "recipient": THIEF}, _nothing),
    ({"tenant": "pod-1", "recipient": THIEF}, _nothing),
    ({"tenant": "shop", "recipient": THIEF}, _nothing),
    ({"tenant": "nameless", "recipient": THIEF}, _nothing),
    # The thief's key does not count, under any id.
    ({}, lambda host: host.signed(key=OTHERS)),
    # What the gateway signed is not a request of another tenant.
    ({"tenant": "shop"}, Host.signed),
    *((changes, Host.signed) for changes in CHANGES),
    *(({}, _body(each)) for each in (b"", b"{}", b'{"amount": 1}', b"[]")),
]


@pytest.mark.parametrize(("changes", "sign"), FORGED, ids=range(len(FORGED)))
def test_a_row_that_is_not_the_signed_request(
    host: Host, genuine: Refund, changes: dict[str, Any], sign: Sign
) -> None:
    """It waits with an alert, and others are paid."""
    forged = replace(genuine, **changes)
    host.insert(forged, sign(host))

    _require_frozen(host, forged)


@pytest.mark.parametrize("changes", CHANGES, ids=str)
def test_a_changed_refund_with_a_nonce(
    host: Host, genuine: Refund, changes: dict[str, Any]
) -> None:
    """Its nonce may block the wallet, and nothing is paid."""
    signer = host.world.signer
    changed = as_if(
        replace(genuine, **changes),
        status=Status.RESERVED,
        sender=signer.address,
        key_id=signer.key_id,
        nonce=0,
        gas_limit=60_000,
    )
    host.insert(changed, host.signed())

    host.work()

    assert host.world.chain.payouts() == []
    assert host.world.stored(changed).moving.blocked_by == "row-not-authentic"


@pytest.mark.parametrize(
    "changes",
    [
        {"decimals": 7, "amount": 10 * AMOUNT},
        {"decimals": 7, "amount": 10 * AMOUNT, "failure_code": "x"},
        {"token_address": THIEF},
        {"chain_id": 1},
    ],
    ids=str,
)
def test_another_token_or_chain(
    host: Host, genuine: Refund, changes: dict[str, Any]
) -> None:
    """What a request does not say must be as the networks file says."""
    changed = replace(genuine, **changes)
    host.insert(changed, host.signed())
    other = host.accept(number=2)

    host.work()

    assert host.world.chain.payouts() == [(CUSTOMER, AMOUNT)]
    assert host.world.stored(other).status is Status.CONFIRMED
    assert host.world.stored(changed).moving.blocked_by == "policy-violation"
    assert host.world.stored(changed).nonce is None


@pytest.mark.parametrize("status", [Status.QUEUED, Status.RESERVED, Status.BROADCAST])
def test_an_invented_sweep(host: Host, genuine: Refund, status: Status) -> None:
    """A sweep needs no request, and pays only the active key's address."""
    signer = host.world.signer
    sweep = replace(genuine, **bound(signer.address), recipient=THIEF)
    if status is not Status.QUEUED:
        sweep = as_if(
            sweep,
            status=status,
            sender=signer.address,
            key_id=signer.key_id,
            nonce=0,
            gas_limit=60_000,
            tx_hash=f"0x{'00' * 32}",
        )
    host.insert(sweep)

    host.work()

    assert host.world.chain.payouts() == []


@pytest.mark.parametrize("status", [Status.SIGNED, Status.BROADCAST, Status.MINED])
def test_a_refund_without_signed_bytes(
    host: Host, genuine: Refund, status: Status
) -> None:
    """A row that says that it is signed already: there is nothing to send."""
    unknown = f"0x{'00' * 32}"
    invented = as_if(
        genuine,
        recipient=THIEF,
        status=status,
        sender=host.world.signer.address,
        key_id=host.world.signer.key_id,
        nonce=0,
        gas_limit=60_000,
        tx_hash=unknown,
        block_number=1,
        block_hash=unknown,
    )
    host.insert(invented)

    host.work()

    assert host.world.chain.broadcasts == []


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"reference": "other"},
        {"idempotency_key": "other"},
        {"idempotency_key": "other", "reference": "other"},
        {"tenant": "pod-1"},
    ],
    ids=str,
)
def test_a_paid_request_is_not_repeated(
    host: Host, genuine: Refund, changes: dict[str, Any]
) -> None:
    """One signed body is paid once: it names its key and its reference."""
    refund = host.accept()
    host.work()
    signed = host.world.store.signed_request(refund.id)
    repeated = replace(genuine, **changes)
    with suppress(HotWalletError):  # Most are refused by unique constraints.
        host.insert(repeated, signed)

    host.work()

    assert host.world.chain.payouts() == [(CUSTOMER, AMOUNT)]


@pytest.mark.parametrize("hours", [-1, 1])
def test_an_old_signature(host: Host, genuine: Refund, hours: int) -> None:
    """A request that was signed long before it was stored, or for later."""
    created = host.world.clock() + timedelta(hours=hours)
    signed = GATEWAY.signed(host.body(), "key-1", created)
    backdated = replace(genuine, created_at=created, updated_at=created)
    host.insert(backdated, replace(signed, at=host.world.clock()))

    _require_frozen(host, backdated)


def test_an_old_signature_is_not_dated_back(postgresql_url: str) -> None:
    """PostgreSQL dates what it stores; on SQLite the thief can write every row."""
    with _host(postgresql_url) as host:
        created = host.world.clock() - timedelta(hours=1)
        signed = GATEWAY.signed(host.body(), "key-1", created)
        backdated = replace(_row(host), created_at=created, updated_at=created)
        host.insert(backdated, replace(signed, at=created))

        _require_frozen(host, backdated)


@pytest.mark.parametrize("change", ["signature = ''", "at = at", "body = body"])
def test_a_stored_request_never_changes(host: Host, change: str) -> None:
    """Neither its body nor its time."""
    store = host.world.store
    refund = host.accept()
    before = store.signed_request(refund.id)

    with closing(SQLStore(host.url)) as thieves, pytest.raises(HotWalletError):
        thieves._database.transaction(
            lambda c: c.exec_driver_sql(f"UPDATE request_signatures SET {change}")
        )

    assert store.signed_request(refund.id) == before is not None
