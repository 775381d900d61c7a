"""Contract of ``ControlStore``: a hold forbids every commit that precedes a payment."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from threading import Event

import pytest
from sqlalchemy import Connection, literal, select

from backends.sql import SQLStore
from backends.sql.advisory_locks import lock_keys
from backends.sql.columns import Plain
from backends.sql.database import Database
from backends.sql.hold_checks import is_token_stopped
from backends.sql.tables import refunds
from signer.errors import (
    HotWalletError,
    RowNotAuthenticError,
    SigningStoppedError,
    StaleStateError,
    StoreError,
    TenantBlockedError,
    TokenStoppedError,
)
from signer.model.audit_record import Record
from signer.model.hold import (
    EVERY_CHAIN,
    EVERYTHING,
    Hold,
    name_of_chain,
    name_of_tenant,
    name_of_token,
)
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
    forged_end,
    mined,
    moved,
    now,
    opened,
    paid,
    queued,
    refund_page,
    reserved,
    save,
    signed,
    step_to,
    stopped,
    transaction,
)
from tests.fixtures.races import race
from tests.support.keys import key_at, made_active
from tests.support.ledgers import open_ledger, seal


CHAIN, OTHER_CHAIN = 31337, 7
TOKEN, OTHER = queued().token_address, "0x" + "Ab" * 20
NAMED = TOKEN.lower()

# The name of each kind, the error of what it forbids, and the command that renews it.
KINDS: dict[str, tuple[str, type[HotWalletError], str]] = {
    "everything": (name_of_chain(EVERYTHING), SigningStoppedError, "--chain-id 0`"),
    "chain": (name_of_chain(CHAIN), SigningStoppedError, f"--chain-id {CHAIN}`"),
    "token": (name_of_token(CHAIN, TOKEN), TokenStoppedError, f"--token {NAMED}`"),
    "tenant": (name_of_tenant("gateway"), TenantBlockedError, "tenants block"),
}
EACH = pytest.mark.parametrize("kind", KINDS)
STOPS = pytest.mark.parametrize("kind", ["everything", "chain", "token"])

FORGED = (
    "INSERT INTO holds (name, at, reason, requested_by, version)"
    " VALUES ('{name}', '{at}', 'forged', 'thief', {version})"
)


def _hold(kind: str, reason: str = "a test") -> Hold:
    given = now(), reason, "cli:alice"
    if kind == "tenant":
        return Hold.of_tenant("gateway", *given)
    if kind == "token":
        return Hold.of_token(CHAIN, TOKEN, *given)
    return Hold.of_chain(CHAIN if kind == "chain" else EVERYTHING, *given)


def _begun(store: SQLStore, kind: str) -> Hold:
    hold = _hold(kind)
    assert store.begin_hold(hold)
    return hold


def _found(store: SQLStore, kind: str) -> Hold | None:
    if kind == "tenant":
        return store.find_block("gateway")
    return store.find_stop(CHAIN, NAMED)


def _forge(store: SQLStore, name: str, version: int = 0, at: str | None = None) -> None:
    at = at or now().isoformat(timespec="microseconds")
    forge(store, FORGED.format(name=name, at=at, version=version))


def _intent(store: SQLStore, stopped_by: int | None, named: str = "") -> Record:
    """Record the intent to sign what may be valid on a chain, and names a token."""
    key = key_at(WALLET)
    condition = SigningCondition(
        WALLET, key.key_id, SIGNING, stopped_by=stopped_by, named=named
    )
    record = Record.of({"event": "intent"}, now())
    store.append([record], condition=condition)
    return record


@EACH
def test_the_first_hold_stays_until_it_is_ended(store: SQLStore, kind: str) -> None:
    """A second one changes nothing; after the end, a new one replaces it (R27)."""
    name, *_ = KINDS[kind]
    assert _found(store, kind) is None
    first, again = _begun(store, kind), _hold(kind, "another reason")
    later = now() + timedelta(hours=1)

    assert not store.begin_hold(again)
    assert _found(store, kind) == first
    assert [*store.stops(), *store.blocks()] == [first]
    assert [store.end_hold(name, later) for _ in range(2)] == [True, False]
    assert _found(store, kind) is None
    assert [stop.ended_at for stop in store.stops()] == [later] * (kind != "tenant")
    assert store.begin_hold(again)
    assert _found(store, kind) == replace(again, version=2)


def test_stops_are_ended_separately(store: SQLStore) -> None:
    """The widest is found first, and listed first."""
    token, chain = _begun(store, "token"), stopped(store, CHAIN)
    everything = stopped(store, EVERYTHING)
    elsewhere = Hold.of_token(OTHER_CHAIN, TOKEN, now(), "a test", "cli:alice")
    assert store.begin_hold(elsewhere)

    assert list(store.stops()) == [everything, chain, elsewhere, token]
    assert store.find_stop(CHAIN) == store.find_stop(OTHER_CHAIN) == everything
    store.end_hold(everything.name, now())
    assert store.find_stop(CHAIN, NAMED) == chain
    assert store.find_stop(OTHER_CHAIN) is None
    assert store.end_hold(chain.name, now())
    assert store.find_stop(CHAIN, NAMED) == token
    assert store.find_stop(CHAIN) is None
    assert store.find_stop(OTHER_CHAIN, NAMED) == elsewhere


@EACH
def test_no_nonce_is_assigned(store: SQLStore, kind: str) -> None:
    """Until the hold is ended, also in a wallet that is not opened yet (R27)."""
    name, error, _ = KINDS[kind]
    refund, other = accepted(store), accepted(store, token_address=OTHER, tenant="b")
    _begun(store, kind)

    with pytest.raises(error):
        reserved(store, refund)
    refused, outcome = _reserve_all(store, [refund, other])
    assert isinstance(refused, error)
    concerns_all = kind in {"everything", "chain"}
    assert isinstance(outcome, error if concerns_all else Refund)
    store.end_hold(name, now())
    assert reserved(store, refund).nonce == (0 if concerns_all else 1)


def test_a_blocked_tenant_is_paid_what_has_a_nonce(store: SQLStore) -> None:
    before = reserved(store, accepted(store))
    _begun(store, "tenant")

    assert signed(store, before).status is Status.SIGNED


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


@STOPS
def test_no_signed_bytes_are_recorded(store: SQLStore, kind: str) -> None:
    """
    Bytes that a device signed when the stop came are not sent (R27).

    A no-op for a token, which has a reason, consumes the nonce.
    """
    first = reserved(store, accepted(store))
    sent = broadcast(store)
    _begun(store, kind)

    with pytest.raises(StaleStateError):
        signed(store, first)
    again = transaction(sent, attempt=1)
    replaced = step_to(sent, Status.SIGNED, now(), tx_hash=again.tx_hash)
    with pytest.raises(StaleStateError):
        save(store, sent, replaced, again)
    assert (store.get(first.id), store.get(sent.id)) == (first, sent)
    assert len(store.transactions(sent.id)) == 1
    if kind == "token":
        noop = replace(replaced, failure_code="token-stopped", failure_detail="odd")
        save(store, sent, noop, replace(again, kind=Kind.NOOP))
        assert len(store.transactions(sent.id)) == 2


@STOPS
def test_what_was_sent_is_still_confirmed(store: SQLStore, kind: str) -> None:
    """A stop changes nothing for refunds whose transactions nodes have (R27)."""
    sent = broadcast(store)
    _begun(store, kind)

    done = moved(store, mined(store, sent), Status.CONFIRMED)

    assert store.get(sent.id) == done


@pytest.mark.parametrize(
    ("kind", "stopped_by", "named", "is_refused"),
    [
        ("chain", CHAIN, "", True),
        ("chain", OTHER_CHAIN, "", False),
        ("chain", EVERYTHING, "", False),
        ("chain", None, "", False),
        ("everything", CHAIN, "", True),
        ("everything", EVERYTHING, "", True),
        ("everything", None, "", False),
        ("token", CHAIN, NAMED, True),
        ("token", CHAIN, f"0x00 a9059cbb{'0' * 24}{NAMED[2:]}ff", True),
        ("token", CHAIN, OTHER.lower(), False),
        ("token", CHAIN, "", False),
        ("token", CHAIN + 1, NAMED, False),
        ("token", EVERY_CHAIN, "", True),
    ],
)
def test_no_intent_to_sign_is_recorded(
    store: SQLStore, kind: str, stopped_by: int | None, named: str, *, is_refused: bool
) -> None:
    """What may be valid on every chain may also be for the token (R27)."""
    made_active(store, key_at(WALLET))
    _begun(store, kind)
    recorded = []

    if is_refused:
        with pytest.raises(KINDS[kind][1], match="`hotwallet resume`"):
            _intent(store, stopped_by, named)
    else:
        recorded.append(_intent(store, stopped_by, named))
    seal(store)
    assert [each.record for each in store.sealed(0, 9)] == recorded


@EACH
def test_a_changed_hold_is_in_force(store: SQLStore, kind: str) -> None:
    """It is listed as not authentic, survives an upgrade, and can be replaced (R27)."""
    name, _, advice = KINDS[kind]
    made_active(store, key_at(WALLET))
    _begun(store, kind)
    forged_end(store)

    (listed,) = [*store.stops(), *store.blocks()]
    assert (listed.in_force, listed.is_authentic) == (True, False)
    assert _found(store, kind) == listed
    assert store.migrate().action == "unchanged"
    with pytest.raises(RowNotAuthenticError, match=advice):
        store.end_hold(name, now())
    if kind != "tenant":
        with pytest.raises(RowNotAuthenticError, match=advice):
            _intent(store, CHAIN, NAMED)

    again = _hold(kind, "another reason")
    assert store.begin_hold(again)
    assert _found(store, kind) == replace(again, version=2)
    assert store.end_hold(name, now())
    assert _found(store, kind) is None


@pytest.mark.parametrize(
    "change",
    [
        "DELETE FROM holds",
        f"UPDATE holds SET name = 'token {OTHER_CHAIN} {NAMED}'",
        f"UPDATE holds SET name = 'token {CHAIN} {TOKEN}'",
    ],
    ids=["deleted", "another chain", "another spelling"],
)
def test_a_stop_that_another_program_hides(store: SQLStore, change: str) -> None:
    """It refuses the token alone, and can be replaced and ended (R27)."""
    name, *_ = KINDS["token"]
    refund, other = accepted(store), accepted(store, token_address=OTHER)
    opened(store)
    made_active(store, key_at(WALLET))
    _begun(store, "token")
    try:
        forge(store, f"{change} WHERE name = '{name}'")
    except StoreError:  # A trigger refused it.
        assert store.find_stop(CHAIN, refund.named) is not None
        return

    refused, outcome = _reserve_all(store, [refund, other])
    assert isinstance(refused, RowNotAuthenticError)
    assert isinstance(outcome, Refund)
    with pytest.raises(RowNotAuthenticError):
        store.end_hold(name, now())
    _begun(store, "token")
    assert store.end_hold(name, now())
    assert reserved(store, refund).nonce == 1


@EACH
def test_a_hold_that_was_put_back(store: SQLStore, kind: str) -> None:
    """The older row of the first one has a valid MAC, and ends nothing."""
    name, *_ = KINDS[kind]
    for _ in range(2):
        _begun(store, kind)
        store.end_hold(name, now())
    _begun(store, kind)

    with pytest.raises(StoreError):
        forge(
            store, f"UPDATE holds SET ended_at = at, version = 1 WHERE name = '{name}'"
        )
    assert _found(store, kind) is not None


def test_a_forged_stop_of_another_chain(store: SQLStore) -> None:
    """A row with an invented chain id prevents nothing, and survives an upgrade."""
    opened(store)
    _forge(store, "network 999999")

    assert store.find_stop(CHAIN) is None
    assert store.migrate().action == "unchanged"
    assert reserved(store, accepted(store)).nonce == 0
    assert [stop.is_authentic for stop in store.stops()] == [False]
    assert store.begin_hold(Hold.of_chain(999_999, now(), "forged", "cli:alice"))
    assert store.end_hold(name_of_chain(999_999), now())
    assert [stop.in_force for stop in store.stops()] == [False]


SPELLINGS = {
    "chain": [f"0{CHAIN}", f"-0{CHAIN}", "0", "", "-", "9" * 20, "9" * 5000],
    "token": [
        f"{CHAIN} {TOKEN}",
        f"0{CHAIN} {NAMED}",
        f"{CHAIN} {NAMED[2:]}",
        f"{CHAIN}",
        f"{CHAIN}  {NAMED}",
        f"{CHAIN} {NAMED} ",
        "",
    ],
}


@pytest.mark.parametrize("kind", SPELLINGS)
def test_forged_stops_with_another_spelling(store: SQLStore, kind: str) -> None:
    """They forbid nothing, and do not stand in the way of the stop, or of its end."""
    name, error, _ = KINDS[kind]
    opened(store)
    for each in SPELLINGS[kind]:
        _forge(store, f"{'network' if kind == 'chain' else 'token'} {each}")

    assert store.stops() == ()
    refund = accepted(store)
    _begun(store, kind)
    with pytest.raises(error):
        reserved(store, refund)
    assert store.end_hold(name, now())
    assert reserved(store, refund).nonce == 0


@EACH
@pytest.mark.parametrize("version", [1, 2**31 - 1])
def test_the_first_version_is_0(store: SQLStore, kind: str, version: int) -> None:
    """Otherwise the version of a replacement could be too large."""
    with pytest.raises(StoreError):
        _forge(store, KINDS[kind][0], version)

    assert [*store.stops(), *store.blocks()] == []


@pytest.mark.parametrize("at", ["infinity", "0044-03-15 BC", "20000-01-01"])
def test_times_that_cannot_be_read(postgresql_url: str, at: str) -> None:
    """PostgreSQL has times that Python cannot represent: the triggers refuse them."""
    end = f"UPDATE holds SET ended_at = '{at}', version = version + 1"
    with closing(open_ledger(postgresql_url)) as store:
        stopped(store, CHAIN)
        before = store.stops()
        with pytest.raises(StoreError):
            _forge(store, "network 7", at=at)
        with pytest.raises(StoreError):
            forge(store, end)

        assert store.stops() == before


def test_a_transaction_that_hangs_does_not_delay_a_stop_or_a_block(
    postgresql_url: str,
) -> None:
    """A host that is frozen in a reservation holds the lock that they wait for."""
    with closing(open_ledger(postgresql_url, timeout=0.2)) as hurried:
        hurried.check()
        hanging = Database(postgresql_url, pool_size=1, timeout=30.0)
        locked, released = Event(), Event()

        def hang(connection: Connection) -> None:
            lock_keys(connection, shared=True)
            locked.set()
            assert released.wait(30)

        with ThreadPoolExecutor(1) as pool:
            done = pool.submit(hanging.transaction, hang)
            assert locked.wait(30)
            stopped(hurried, EVERYTHING)
            _begun(hurried, "tenant")
            in_force = hurried.find_stop(CHAIN), hurried.find_block("gateway")
            released.set()
            done.result()
        hanging.close()

    assert None not in in_force


def _reserve_until_stopped(store: SQLStore, index: int) -> int:
    """Reserve until a stop; the first process stops after ten reservations."""
    count = 0
    while store.find_stop(CHAIN) is None:
        refund = accepted(store)
        if index == 0 and count == 10:
            stopped(store, EVERYTHING)
            # No other process commits a reservation from here on.
            return _reserved_count(store)
        try:
            reserved(store, refund)
        except (SigningStoppedError, StaleStateError):
            break  # The stop came before the transaction, or during it.
        count += 1
    return -1


def _reserved_count(store: SQLStore) -> int:
    rows = refund_page(store, "gateway", limit=1000).refunds
    return sum(row.nonce is not None for row in rows)


def test_no_process_reserves_after_the_stop_returned(
    database_url: str, store: SQLStore
) -> None:
    """Four processes race; none has reserved more when all have ended (R27)."""
    opened(store)
    made_active(store, key_at(WALLET))
    seen = max(race(_reserve_until_stopped, database_url, 4))

    assert seen >= 10
    assert _reserved_count(store) == seen


def _stop_each(store: SQLStore, index: int) -> int:
    """Stop 25 networks that have no stop yet; return how many this process stopped."""
    stops = [Hold.of_chain(n, now(), "race", f"cli:{index}") for n in range(1, 26)]
    return sum(store.begin_hold(stop) for stop in stops)


def test_of_many_first_stops_one_counts(database_url: str, store: SQLStore) -> None:
    """Of processes that stop a network at the same time, one makes the stop."""
    assert sum(race(_stop_each, database_url, 4)) == 25
    assert len(store.stops()) == 25


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
    store.begin_hold(Hold.of_token(CHAIN, address, now(), "odd mints", "cli:tests"))

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
    hold = Hold.of_token(CHAIN, stopped_token, now(), "odd mints", "cli:tests")
    store.begin_hold(hold)
    asked = select(
        is_token_stopped(
            literal(CHAIN),
            literal(token, Plain),
            literal(called, Plain),
            literal(amount, refunds.c.amount.type),
        )
    )

    assert store._database.run(lambda c: c.scalar(asked)) == is_found
