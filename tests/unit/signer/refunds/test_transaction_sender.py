"""A transfer of a client becomes one refund, also if the client repeats it."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from signer.errors import ConflictError, IdempotencyMismatchError
from signer.model.refund import Refund
from signer.refunds.token_transfer import ContractCall, Payment, TokenTransfer
from signer.refunds.transaction_sender import (
    WINDOW_SECONDS,
    TransactionSender,
    is_derived_key,
)
from tests.support.calls import CONTRACT, PING, RULES
from tests.support.policy_approvals import ruled
from tests.support.refunds import ACTOR, CUSTOMER, SECOND, World, altered


TRANSFER = TokenTransfer(SECOND.address, None, "TUSD", CUSTOMER, "12.500000")

# The start of a window: its reference changes in the middle.
START = datetime.fromtimestamp(WINDOW_SECONDS * 15_000_000, UTC)


def _sender(world: World, store: object = None) -> TransactionSender:
    return TransactionSender(
        world.service,
        store or world.store,  # type: ignore[arg-type]
        world.clock,
        lambda refund: refund.id,
    )


def _accept(
    world: World, at: float, transfer: Payment = TRANSFER, tenant: str = "shop"
) -> Refund:
    world.clock.now = START + timedelta(seconds=at)
    return _sender(world).accept(transfer, "local", tenant, ACTOR)


@pytest.mark.parametrize(
    ("first", "second", "is_same"),
    [
        (0, 0, True),
        (10, 119, True),
        (59, 61, True),
        (100, 121, True),
        (100, 219, True),
        (119.9, 120.1, True),
        (100, 221, False),
        (0, 120, False),
    ],
)
def test_a_repeated_transfer(
    world: World, *, first: float, second: float, is_same: bool
) -> None:
    """The same one within two minutes, also across the edge of a window."""
    earlier, later = _accept(world, first), _accept(world, second)

    assert (earlier.id == later.id) is is_same
    assert earlier.reference.startswith("rpc-")
    assert earlier.reference == earlier.payment_session_id


@pytest.mark.parametrize(
    "change", [{"amount": "12.500001"}, {"recipient": "0x" + "11" * 20}]
)
def test_another_transfer(world: World, change: dict[str, str]) -> None:
    other = replace(TRANSFER, **change)  # type: ignore[arg-type]

    assert _accept(world, 1).id != _accept(world, 1, other).id


def test_another_tenant(world: World) -> None:
    """It neither joins nor sees the refund of the first."""
    first, second = _accept(world, 1), _accept(world, 1, tenant="other")

    assert first.id != second.id
    assert first.reference != second.reference


@pytest.mark.parametrize("second", [119.9, 120.1, 61])
def test_two_requests_at_the_same_moment(world: World, second: float) -> None:
    """The one that does not see the other is refused by the ledger, and joins it."""
    first = _accept(world, 59.9 if second == 61 else 119.5)
    world.clock.now = START + timedelta(seconds=second)
    seen: list[str] = []

    def find(tenant: str, key: str) -> Refund | None:
        seen.append(key)
        # As if the first was not committed yet.
        return None if len(seen) <= 2 else world.store.find(tenant, key)

    racing = _sender(world, altered(world.store, find=find))
    second_refund = racing.accept(TRANSFER, "local", "shop", ACTOR)

    assert second_refund.id == first.id


def test_a_conflict_that_no_window_explains(world: World) -> None:
    _accept(world, 59.9)
    world.clock.now = START + timedelta(seconds=61)
    hidden = altered(world.store, find=lambda *_: None)

    with pytest.raises(ConflictError):
        _sender(world, hidden).accept(TRANSFER, "local", "shop", ACTOR)


def test_an_explicit_key(world: World) -> None:
    """It names the transfer for ever, and an equal one with another key is new."""
    sender = _sender(world)
    first = sender.accept(TRANSFER, "local", "shop", ACTOR, "key-1")
    world.clock.advance(days=3)
    again = sender.accept(TRANSFER, "local", "shop", ACTOR, "key-1")
    other = sender.accept(TRANSFER, "local", "shop", ACTOR, "key-2")

    assert (first.id, first.idempotency_key) == (again.id, "key-1")
    assert other.id != first.id
    changed = replace(TRANSFER, amount="1")
    with pytest.raises(IdempotencyMismatchError):
        sender.accept(changed, "local", "shop", ACTOR, "key-1")


@pytest.mark.parametrize("second", [1, 61, 119])
def test_a_repeated_call(world: World, second: float) -> None:
    """Its content is recipient, coin and calldata."""
    ruled(world, RULES)
    call = ContractCall(SECOND.address, None, CONTRACT, 0, PING)

    first = _accept(world, 1, call, "gateway")
    again = _accept(world, second, call, "gateway")
    changed = _accept(world, 1, replace(call, value=1), "gateway")
    other = _accept(world, 1, replace(call, data=PING + b"\0"), "gateway")
    coin = ContractCall(SECOND.address, None, CUSTOMER, 1, b"")

    assert first.id == again.id
    assert len({each.id for each in (first, changed, other)}) == 3
    assert (first.recipient, first.amount, first.calldata) == (CONTRACT, 0, PING)
    assert _accept(world, 1, coin, "gateway").calldata == b""


def test_derived_keys_have_a_form_of_their_own(world: World) -> None:
    assert is_derived_key(_accept(world, 1).idempotency_key)
    assert not is_derived_key("key-1")
