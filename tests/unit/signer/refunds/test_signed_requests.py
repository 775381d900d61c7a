"""
The service and its workers verify the requests of a tenant that signs them.

``tests/attacks/test_api_host.py`` plays the same attacks on each database.
"""

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from signer import strict_json
from signer.config.tenants import Tenant, TenantRegistry
from signer.errors import RequestSignatureError, RowNotAuthenticError
from signer.model.acceptance import NO_SIGNATURE, SignedRequest
from signer.model.refund import Refund, Status
from signer.refunds.request_body import read_refund
from signer.refunds.signed_requests import MAX_AGE, MAX_STORED_AGE, SignedRequests
from tests.fixtures.ledger import bound, refund_page
from tests.support.refunds import ACTOR, AMOUNT, CUSTOMER, SECOND, World, altered
from tests.support.signed_requests import RequestKey


GATEWAY = RequestKey()
THIEF = RequestKey(GATEWAY.key_id)  # Another key under the gateway's id.
TENANTS = TenantRegistry(
    {
        name: Tenant(subjects=(name,), request_keys={key.key_id: key.public})
        for name, key in (("gateway", GATEWAY), ("shop", RequestKey("shop")))
    }
    | {"unsigned": Tenant(subjects=("unsigned",))}
)

BODY = {
    "payment_session_id": "session-1",
    "reference": "reference-1",
    "network": "local",
    "token": "TUSD",
    "recipient": CUSTOMER,
    "amount": "12.50",
    "reason": "returned",
}


@pytest.fixture
def world(world: World) -> World:
    """A service whose tenant ``gateway`` signs its requests."""
    world.tenants = TENANTS
    return world


def _signed(world: World, key: RequestKey = GATEWAY, **changes: str) -> SignedRequest:
    body = json.dumps(BODY | changes).encode()
    return key.signed(body, "key-1", world.clock())


def _submit(world: World, signed: SignedRequest, tenant: str = "gateway") -> Refund:
    accepted = world.service.submit(
        tenant=tenant,
        idempotency_key="key-1",
        request=read_refund(strict_json.loads(signed.body)),
        actor=ACTOR,
        signed=signed,
    )
    return accepted.refund


def _verify(world: World, signed: SignedRequest) -> SignedRequest | None:
    verifier = SignedRequests(world.store, TENANTS)
    return verifier.verify("gateway", "key-1", signed, world.clock())


def _require(world: World, refund: Refund, **stored: Any) -> None:
    """Require *refund*; its request is stored with the changes in *stored*."""
    found = world.store.signed_request(refund.id)
    assert found is not None
    changed = replace(found, **stored)
    store = altered(world.store, signed_request=lambda _: changed)
    SignedRequests(store, TENANTS).require(refund)


def test_a_signed_request_is_stored_and_paid(world: World) -> None:
    """The worker verifies the bytes that the service stored, at the service's time."""
    signed = _signed(world)
    refund = _submit(world, signed)

    assert world.store.signed_request(refund.id) == replace(signed, at=world.clock())
    assert world.step(refund, times=3).status is Status.BROADCAST


def test_a_tenant_without_request_keys_need_not_sign(world: World) -> None:
    """Its signature is not read, and not stored."""
    signed = replace(_signed(world), signature="sig1=:AAAA:")
    refund = _submit(world, signed, tenant="unsigned")

    assert world.store.signed_request(refund.id) is None
    assert world.step(refund, times=3).status is Status.BROADCAST


def test_what_the_tenant_did_not_sign_is_refused(world: World) -> None:
    """The error names what to sign; nothing is stored."""
    signed = _signed(world)
    for bad in (
        NO_SIGNATURE,
        _signed(world, THIEF),
        replace(signed, body=signed.body + b" "),
        replace(signed, signature=_signed(world, amount="13").signature),
    ):
        with pytest.raises(RequestSignatureError, match="Sign POST /v1/refunds as"):
            _verify(world, bad)
    with pytest.raises(RequestSignatureError):
        _submit(world, _signed(world, THIEF))

    assert refund_page(world.store, "gateway").refunds == ()


@pytest.mark.parametrize("sign", [-1, 1], ids=["later", "earlier"])
def test_a_signature_is_accepted_for_five_minutes(world: World, sign: int) -> None:
    """In both directions, since the clocks of two hosts differ."""
    signed = _signed(world)
    world.clock.now += sign * MAX_AGE
    at_the_limit = _verify(world, signed)
    world.clock.now += sign * timedelta(seconds=1)

    assert at_the_limit is not None
    with pytest.raises(RequestSignatureError, match="more than 5 minutes"):
        _verify(world, signed)


@pytest.mark.parametrize("sign", [-1, 1], ids=["before", "after"])
def test_a_stored_signature_is_near_the_time_of_its_row(
    world: World, sign: int
) -> None:
    """A host of the API cannot store an old request as a new one."""
    signed = _signed(world)
    refund = _submit(world, signed)
    created = world.clock()
    world.clock.advance(days=30)  # How long it waits does not matter.

    _require(world, refund, at=created + sign * MAX_STORED_AGE)
    late = created + sign * (MAX_STORED_AGE + timedelta(seconds=1))
    with pytest.raises(RowNotAuthenticError, match="more than 10 minutes"):
        _require(world, refund, at=late)


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("recipient", SECOND.address, "has another recipient"),
        ("amount", AMOUNT + 1, "has another amount"),
        ("decimals", 7, "has another amount"),
        ("network", "other", "has another network"),
        ("token", "USDX", "has another token"),
        ("reason", None, "has another reason"),
        ("reference", "other", "has another reference"),
        ("payment_session_id", "other", "has another payment_session_id"),
        ("idempotency_key", "other", "signature is not valid"),
        ("tenant", "shop", "no request key"),
        ("calldata", b"\x01", "has another calldata"),
    ],
)
def test_a_row_that_the_tenant_did_not_request_is_not_paid(
    world: World, name: str, value: Any, problem: str
) -> None:
    """A thief of the MAC key changes one field of a row; a worker compares them all."""
    refund = _submit(world, _signed(world))
    requests = SignedRequests(world.store, TENANTS)

    requests.require(refund)
    with pytest.raises(RowNotAuthenticError, match=f"did not request .*{problem}"):
        requests.require(replace(refund, **{name: value}))


def test_a_request_is_for_one_service(world: World) -> None:
    """Two wallets share a tenants file: what one accepted, the other never pays."""
    signed = _signed(world)
    refund = _submit(world, signed)
    other = SignedRequests(world.store, TenantRegistry(TENANTS.tenants, "other"))

    with pytest.raises(RequestSignatureError, match='tag="other"') as refused:
        other.verify("gateway", "key-1", signed, world.clock())
    assert refused.value.accept.endswith('tag="other"')
    with pytest.raises(RowNotAuthenticError, match="name of this service, other"):
        other.require(refund)


def test_a_row_without_its_request_is_not_paid(world: World) -> None:
    """An invented row of a tenant that signs."""
    refund = world.accepted()

    with pytest.raises(RowNotAuthenticError, match="did not request the refund"):
        SignedRequests(world.store, TENANTS).require(refund)
    assert world.work() == 0
    assert world.stored(refund).moving.blocked_by == "row-not-authentic"


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"amount": 1}'])
def test_a_signed_body_that_is_no_request_pays_nothing(
    world: World, body: bytes
) -> None:
    """The tenant signed it, but the API would have refused it."""
    refund = _submit(world, _signed(world))
    bad = GATEWAY.signed(body, "key-1", world.clock())
    bad = replace(bad, at=world.clock())
    store = altered(world.store, signed_request=lambda _: bad)

    with pytest.raises(RowNotAuthenticError, match="did not request"):
        SignedRequests(store, TENANTS).require(refund)


def test_a_sweep_needs_no_request(world: World) -> None:
    """It has no tenant, and pays the active key."""
    signing = altered(TENANTS, request_keys=lambda _: {"key": b""})
    refund = world.accepted()
    requests = SignedRequests(world.store, signing)

    requests.require(replace(refund, **bound()))
    with pytest.raises(RowNotAuthenticError):
        requests.require(replace(refund, tenant="hotwallet operator"))


def test_a_refund_that_is_signed_already_goes_on(world: World) -> None:
    """Its bytes may be public; to stop it would only block the later nonces."""
    refund = world.step(_submit(world, _signed(world)), times=2)
    store = altered(world.store, signed_request=lambda _: None)

    assert refund.status is Status.SIGNED
    SignedRequests(store, TENANTS).require(refund)
