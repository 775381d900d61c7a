"""Contract of ``ControlStore``: the stop of a token forbids what names it."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from sqlalchemy import literal, select

from backends.sql import SQLStore
from backends.sql.columns import Plain
from backends.sql.hold_checks import is_token_stopped
from backends.sql.tables import refunds
from signer.errors import (
    HotWalletError,
    RowNotAuthenticError,
    SigningStoppedError,
    StaleStateError,
    StoreError,
    TokenStoppedError,
)
from signer.model.audit_record import Record
from signer.model.hold import EVERY_CHAIN, Hold, name_of_token
from signer.model.key import SIGNING, SigningCondition
from signer.model.payment import PaymentPurpose
from signer.model.refund import COIN, COIN_ADDRESS, Refund, Status
from signer.model.spending_limits import NO_LIMITS
from signer.model.transaction import Kind
from signer.ports.refund_store import Reservation
from tests.fixtures.ledger import (
    WALLET,
    accepted,
    broadcast,
    forge,
    now,
    opened,
    paid,
    queued,
    reserved,
    save,
    signed,
    step_to,
    stopped,
    transaction,
)
from tests.support.keys import key_at, made_active


CHAIN = 31337
OTHER = "0x" + "Ab" * 20
TOKEN = queued().token_address
NAME = name_of_token(CHAIN, TOKEN)


def _held(store: SQLStore, address: str = TOKEN, chain_id: int = CHAIN) -> Hold:
    held = Hold.of_token(chain_id, address, now(), "odd mints", "cli:tests")
    assert store.begin_hold(held)
    return held


def _reserve_all(
    store: SQLStore, refunds: Sequence[Refund]
) -> Sequence[Refund | HotWalletError]:
    key = key_at(WALLET)
    made_active(store, key)
    return paid(
        store.reserve_all(
            [Reservation(each, 65_000, NO_LIMITS, None) for each in refunds],
            sender=WALLET,
            key_id=key.key_id,
            counted=0,
            at=now(),
        )
    )


def _call(store: SQLStore, called: str, amount: int = 1, data: bytes = b"") -> Refund:
    return accepted(
        store,
        token=COIN,
        token_address=COIN_ADDRESS,
        recipient=called,
        amount=amount,
        calldata=data,
        purpose=PaymentPurpose.CALL,
    )


def _condition(chain_id: int, named: str) -> SigningCondition:
    key = key_at(WALLET)
    return SigningCondition(
        WALLET, key.key_id, SIGNING, stopped_by=chain_id, named=named
    )


def _intent(store: SQLStore, chain_id: int, named: str) -> None:
    record = Record.of({"event": "intent"}, now())
    store.append([record], condition=_condition(chain_id, named))


def test_only_the_token_waits(store: SQLStore) -> None:
    """Its refunds get no nonce; another token's in the same batch does."""
    waiting, other = accepted(store), accepted(store, token_address=OTHER)
    opened(store)
    held = _held(store)

    refused, paid = _reserve_all(store, [waiting, other])
    assert isinstance(refused, TokenStoppedError)
    assert isinstance(paid, Refund)
    assert paid.nonce == 0
    assert store.find_stop(CHAIN) is None
    assert store.find_stop(CHAIN, waiting.named) == held
    assert store.end_hold(NAME, now())
    assert reserved(store, waiting).nonce == 1


@pytest.mark.parametrize(
    ("address", "call", "is_refused"),
    [
        (OTHER, lambda store: _call(store, OTHER), True),
        (OTHER, lambda store: _call(store, OTHER, 0), True),
        (OTHER, lambda store: _call(store, TOKEN, 0, bytes.fromhex(OTHER[2:])), True),
        (OTHER, lambda store: _call(store, TOKEN), False),
        (OTHER, lambda store: accepted(store, recipient=OTHER), True),
        (COIN_ADDRESS, lambda store: _call(store, OTHER), True),
        (COIN_ADDRESS, lambda store: _call(store, OTHER, 0, bytes(20)), False),
        (COIN_ADDRESS, accepted, False),
    ],
    ids=map(str, range(8)),
)
def test_what_names_the_token(
    store: SQLStore,
    address: str,
    call: Callable[[SQLStore], Refund],
    is_refused: bool,
) -> None:
    """What is called and its calldata count; coin counts if it is moved."""
    refund = call(store)
    opened(store)
    _held(store, address)

    if is_refused:
        with pytest.raises(TokenStoppedError):
            reserved(store, refund)
    else:
        assert reserved(store, refund).nonce == 0


@pytest.mark.parametrize(
    ("token", "called", "amount", "stopped_token", "is_found"),
    [
        (TOKEN, OTHER, 1, TOKEN, True),
        (OTHER, TOKEN, 1, TOKEN, True),
        (OTHER, OTHER, 1, TOKEN, False),
        (COIN_ADDRESS, OTHER, 1, COIN_ADDRESS, True),
        (COIN_ADDRESS, OTHER, 0, COIN_ADDRESS, False),
    ],
)
def test_statements_find_it(
    store: SQLStore,
    token: str,
    called: str,
    amount: int,
    stopped_token: str,
    is_found: bool,
) -> None:
    """The condition of statements, for a stop that begins after it was verified."""
    _held(store, stopped_token)
    asked = select(
        is_token_stopped(
            literal(CHAIN),
            literal(token, Plain),
            literal(called, Plain),
            literal(amount, refunds.c.amount.type),
        )
    )

    assert store._database.run(lambda c: c.scalar(asked)) == is_found


def test_no_signed_bytes_are_recorded_but_a_no_op(store: SQLStore) -> None:
    """A no-op, which has a reason, consumes the nonce (R27)."""
    first = reserved(store, accepted(store))
    sent = broadcast(store)
    _held(store)

    with pytest.raises(StaleStateError):
        signed(store, first)
    again = transaction(sent, attempt=1)
    replaced = step_to(sent, Status.SIGNED, now(), tx_hash=again.tx_hash)
    with pytest.raises(StaleStateError):
        save(store, sent, replaced, again)
    noop = replace(replaced, failure_code="token-stopped", failure_detail="odd mints")
    save(store, sent, noop, replace(again, kind=Kind.NOOP))
    assert len(store.transactions(sent.id)) == 2


@pytest.mark.parametrize(
    ("chain_id", "named", "is_refused"),
    [
        (CHAIN, TOKEN.lower(), True),
        (CHAIN, f"0x00 a9059cbb{'0' * 24}{TOKEN[2:].lower()}ff", True),
        (CHAIN, OTHER.lower(), False),
        (CHAIN, "", False),
        (CHAIN + 1, TOKEN.lower(), False),
        (EVERY_CHAIN, "", True),
    ],
)
def test_no_intent_to_sign_is_recorded(
    store: SQLStore, chain_id: int, named: str, is_refused: bool
) -> None:
    """What may be valid on every chain may also be for the token (R27)."""
    made_active(store, key_at(WALLET))
    _held(store)

    if is_refused:
        with pytest.raises(TokenStoppedError, match="`hotwallet resume`"):
            _intent(store, chain_id, named)
    else:
        _intent(store, chain_id, named)


def test_stops_are_ended_separately(store: SQLStore) -> None:
    """The widest is found first, and listed first."""
    held, chain = _held(store), stopped(store, CHAIN)
    elsewhere = _held(store, chain_id=7)

    assert list(store.stops()) == [chain, elsewhere, held]
    assert store.find_stop(CHAIN, TOKEN.lower()) == chain
    assert store.end_hold(chain.name, now())
    assert store.find_stop(CHAIN, TOKEN.lower()) == held
    assert store.find_stop(7, TOKEN.lower()) == elsewhere


@pytest.mark.parametrize(
    "change",
    [
        f"DELETE FROM holds WHERE name = '{NAME}'",
        f"UPDATE holds SET ended_at = at, version = 1 WHERE name = '{NAME}'",
        f"UPDATE holds SET name = 'token 7 {TOKEN.lower()}' WHERE name = '{NAME}'",
        f"UPDATE holds SET name = 'token {CHAIN} {TOKEN}' WHERE name = '{NAME}'",
    ],
    ids=["deleted", "ended", "another chain", "another spelling"],
)
def test_a_changed_stop_is_in_force(store: SQLStore, change: str) -> None:
    """It refuses the token alone, and can be replaced and ended (R27)."""
    refund, other = accepted(store), accepted(store, token_address=OTHER)
    opened(store)
    made_active(store, key_at(WALLET))
    _held(store)
    try:
        forge(store, change)
    except StoreError:  # A trigger refused it.
        assert store.find_stop(CHAIN, refund.named) is not None
        return

    with pytest.raises(RowNotAuthenticError, match=f"--token {TOKEN.lower()}`"):
        _intent(store, CHAIN, TOKEN.lower())
    refused, paid = _reserve_all(store, [refund, other])
    assert isinstance(refused, RowNotAuthenticError)
    assert isinstance(paid, Refund)
    with pytest.raises(RowNotAuthenticError):
        store.end_hold(NAME, now())
    _held(store)
    assert store.end_hold(NAME, now())
    assert reserved(store, refund).nonce == 1


def test_a_stop_that_was_put_back(store: SQLStore) -> None:
    """The older row of the first stop has a valid MAC, and ends nothing."""
    _held(store)
    store.end_hold(NAME, now())
    _held(store)
    older = "ended_at = at, version = 1"
    with pytest.raises(StoreError):
        forge(store, f"UPDATE holds SET {older} WHERE name = '{NAME}'")

    assert store.find_stop(CHAIN, TOKEN.lower()) is not None


@pytest.mark.parametrize(
    "name",
    [
        f"token {CHAIN} {TOKEN}",
        f"token 0{CHAIN} {TOKEN.lower()}",
        f"token {CHAIN} {TOKEN[2:].lower()}",
        f"token {CHAIN}",
        f"token {CHAIN}  {TOKEN.lower()}",
        f"token {CHAIN} {TOKEN.lower()} ",
        "token ",
    ],
)
def test_a_forged_stop_with_another_spelling(store: SQLStore, name: str) -> None:
    """It forbids nothing, and does not stand in the way of the stop of the token."""
    opened(store)
    at = now().isoformat(timespec="microseconds")
    forge(
        store,
        "INSERT INTO holds (name, at, reason, requested_by, version)"
        f" VALUES ('{name}', '{at}', 'forged', 'thief', 0)",
    )

    assert store.stops() == ()
    refund = accepted(store)
    _held(store)
    with pytest.raises(SigningStoppedError):
        reserved(store, refund)
    assert store.end_hold(NAME, now())
    assert reserved(store, refund).nonce == 0
