"""Contract of wallets and of unrecorded transactions."""

from dataclasses import replace

import pytest

from backends.sql import SQLStore
from signer.errors import RowNotAuthenticError, StaleStateError, StoreError
from signer.model.refund import Refund, Status
from signer.model.transaction import Transaction
from signer.model.wallet import PAID, Pause, UnrecordedTransaction, Wallet
from tests.fixtures.ledger import (
    OTHER_WALLET,
    WALLET,
    accepted,
    adopted,
    forge,
    moved,
    now,
    opened,
    reserved,
    signed,
    unrecorded,
)
from tests.support.audit import overruled


CHAIN = 31337


def _wallet(store: SQLStore) -> Wallet:
    wallet = store.wallet(CHAIN, WALLET)
    assert wallet is not None
    return wallet


def test_a_wallet_is_opened_once(store: SQLStore) -> None:
    """The first call opens the wallet; later calls change nothing."""
    assert store.wallet(CHAIN, WALLET) is None

    first = Wallet(CHAIN, WALLET, 7, 7, Pause.RESTORED, now(), high_water=9)
    store.open_wallet(first)
    store.open_wallet(Wallet(CHAIN, WALLET, 0, 0))

    assert first == store.wallet(CHAIN, WALLET)
    assert store.wallet(CHAIN, OTHER_WALLET) is None
    assert store.wallet(1, WALLET) is None


def test_wallets_are_returned_in_order(store: SQLStore) -> None:
    """By chain and address, with the next nonce."""
    for chain_id, sender in ((2, WALLET), (1, OTHER_WALLET), (1, WALLET)):
        opened(store, chain_id, sender, first=4)
    reserved(store, accepted(store, chain_id=1), counted=4)

    assert [
        (wallet.chain_id, wallet.sender, wallet.next_nonce)
        for wallet in store.wallets()
    ] == [(1, WALLET, 5), (1, OTHER_WALLET, 4), (2, WALLET, 4)]


def test_the_next_nonce_follows_all_known_nonces(store: SQLStore) -> None:
    """The first nonce, those of refunds, and those of unrecorded transactions."""
    opened(store, first=3)
    seen = [_wallet(store).next_nonce]
    reserved(store, accepted(store))
    seen.append(_wallet(store).next_nonce)
    store.add_unrecorded(_wallet(store), [unrecorded(nonce=9)])
    seen.append(_wallet(store).next_nonce)
    moved(store, reserved(store, accepted(store)), Status.FAILED)
    seen.append(_wallet(store).next_nonce)

    assert seen == [3, 4, 10, 11]


def test_unknown_nonces_are_returned(store: SQLStore) -> None:
    """Nonces without a row are returned, lowest first, within the bounds."""
    opened(store, first=3)
    reserved(store, accepted(store), counted=3)
    store.add_unrecorded(_wallet(store), [unrecorded(nonce=6), unrecorded(nonce=7)])
    opened(store, sender=OTHER_WALLET, first=3)

    def unknown(below: int, limit: int = 100, sender: str = WALLET) -> list[int]:
        return list(store.unknown_nonces(CHAIN, sender, below, limit))

    assert unknown(10) == [4, 5, 8, 9]
    assert unknown(10, limit=3) == [4, 5, 8]
    assert [unknown(below) for below in (0, 2, 3, 4, 5)] == [[], [], [], [], [4]]
    assert unknown(6, sender=OTHER_WALLET) == [3, 4, 5]
    assert unknown(2, sender=OTHER_WALLET) == []
    assert list(store.unknown_nonces(1, WALLET, 5, 100)) == []


def test_a_paused_wallet_is_resumed(store: SQLStore) -> None:
    """A pause has a reason and a time."""
    at = now()
    store.pause(opened(store), Pause.FOREIGN_TRANSACTION, at)
    paused = _wallet(store)
    store.resume(paused, now(), ())

    assert paused == Wallet(CHAIN, WALLET, 0, 0, Pause.FOREIGN_TRANSACTION, at, 1)
    assert _wallet(store) == Wallet(CHAIN, WALLET, 0, 0, version=2)


def test_a_pause_has_a_high_water_mark(store: SQLStore) -> None:
    """Another pause replaces it, and a resume ends it."""
    store.pause(opened(store), Pause.RESTORED, now(), 7)
    marked = _wallet(store)
    store.pause(marked, Pause.RESTORED, now(), 8)
    raised = _wallet(store)
    store.pause(raised, Pause.CHAIN_AHEAD, now())
    replaced = _wallet(store)
    store.pause(replaced, Pause.RESTORED, now(), 9)
    store.resume(_wallet(store), now(), [])
    resumed = _wallet(store)

    wallets = (marked, raised, replaced, resumed)
    assert [each.high_water for each in wallets] == [7, 8, None, None]
    assert all(each.is_authentic for each in wallets)


def test_paused_wallets_are_found(store: SQLStore) -> None:
    store.open_wallet(Wallet(CHAIN, OTHER_WALLET, 0, 0))
    wallet = opened(store)
    assert store.paused_wallets() == set()

    store.pause(wallet, Pause.CHAIN_AHEAD, now())
    assert store.paused_wallets() == {(CHAIN, WALLET)}


@pytest.mark.parametrize("is_open", [True, False])
def test_only_the_current_version_is_changed(store: SQLStore, *, is_open: bool) -> None:
    """Neither a version that was changed since nor a wallet that was never opened."""
    old = Wallet(CHAIN, WALLET, 0, 0)
    if is_open:
        old = opened(store)
        store.add_unrecorded(old, [])
    before = store.wallets()

    with pytest.raises(StaleStateError):
        store.pause(old, Pause.CHAIN_AHEAD, now())
    with pytest.raises(StaleStateError):
        store.add_unrecorded(old, [unrecorded()])
    with pytest.raises(StaleStateError):
        store.resume(old, now(), ())
    assert store.wallets() == before
    assert store.foreign_transactions(CHAIN, WALLET) == ()


def _found(store: SQLStore, memo: bytes | None) -> UnrecordedTransaction | None:
    assert memo is not None
    return store.find_unrecorded(CHAIN, [b"another", memo]).get(memo)


def test_an_unrecorded_transaction_is_found_by_its_memo(store: SQLStore) -> None:
    ours = unrecorded(nonce=4, memo=b"\0" + b"m" * 15, gas_limit=65_000)
    store.add_unrecorded(opened(store), [ours, unrecorded(nonce=5, memo=b"n" * 16)])

    assert _found(store, ours.memo) == ours
    assert _found(store, b"o" * 16) is None
    assert store.find_unrecorded(1, [b"n" * 16]) == {}
    assert store.find_unrecorded(CHAIN, []) == {}


def test_the_first_transaction_of_a_nonce_stays(store: SQLStore) -> None:
    first, other = unrecorded(), unrecorded()
    store.add_unrecorded(opened(store), [first])
    store.add_unrecorded(_wallet(store), [other, unrecorded(nonce=1)])

    assert first == store.foreign_transactions(CHAIN, WALLET)[0]
    assert len(store.foreign_transactions(CHAIN, WALLET)) == 2


def test_transactions_are_added_all_or_none(store: SQLStore) -> None:
    """If one is invalid, neither the others nor the version change."""
    wallet = opened(store)

    with pytest.raises(StoreError):
        store.add_unrecorded(wallet, [unrecorded(nonce=0), unrecorded(nonce=-1)])
    assert store.foreign_transactions(CHAIN, WALLET) == ()
    assert wallet == _wallet(store)


def test_a_resume_accepts_foreign_transactions(store: SQLStore) -> None:
    """Transactions without a memo are returned until the wallet is resumed."""
    second, first = unrecorded(nonce=3), unrecorded(nonce=1)
    store.add_unrecorded(
        opened(store), [second, first, unrecorded(nonce=2, memo=b"m" * 16)]
    )
    store.pause(_wallet(store), Pause.FOREIGN_TRANSACTION, now())

    assert store.foreign_transactions(CHAIN, WALLET) == (first, second)
    store.resume(_wallet(store), now(), (first, second))
    assert store.foreign_transactions(CHAIN, WALLET) == ()


def test_a_resume_accepts_only_transactions_that_were_read(store: SQLStore) -> None:
    store.add_unrecorded(opened(store), [unrecorded(nonce=0)])
    read = _wallet(store)
    later = unrecorded(nonce=1)
    store.add_unrecorded(read, [later])

    with pytest.raises(StaleStateError):
        store.resume(read, now(), ())
    assert later in store.foreign_transactions(CHAIN, WALLET)


def test_an_unrecorded_transaction_names_the_refund_with_its_nonce(
    store: SQLStore,
) -> None:
    opened(store)
    holder, paid = reserved(store, accepted(store)), accepted(store)
    seen = [unrecorded(memo=paid.memo), unrecorded(nonce=1)]
    store.add_unrecorded(_wallet(store), seen)
    found = _found(store, paid.memo)

    assert found is not None
    assert (holder.nonce, found.is_held) == (0, True)
    (foreign,) = store.foreign_transactions(CHAIN, WALLET)
    assert not foreign.is_held


def test_a_queued_refund_is_adopted(store: SQLStore) -> None:
    """It becomes mined, by the unrecorded transaction with its memo."""
    refund = accepted(store)
    store.add_unrecorded(opened(store), [unrecorded(memo=refund.memo)])
    after = adopted(refund, 0)
    store.adopt(refund, after)
    found = _found(store, refund.memo)

    assert after == store.get(refund.id)
    assert [move.status for move in store.history(refund.id)] == [
        Status.QUEUED,
        Status.MINED,
    ]
    assert found is not None
    assert found.is_held


def test_a_refund_is_adopted_once(store: SQLStore) -> None:
    """Neither it nor another refund gets a nonce that it, or another one, has."""
    refund, other = accepted(store), accepted(store)
    cancelled = moved(store, accepted(store), Status.CANCELLED)
    waiting = accepted(store)
    holder = reserved(store, waiting)
    store.adopt(refund, adopted(refund, 7))

    for before, after in (
        (refund, adopted(refund, 8)),
        (refund, _held(refund, 8)),
        (other, adopted(other, 7)),
        (other, _held(other, 7)),
        (other, adopted(other, holder.nonce or 0)),
        (holder, adopted(waiting, 5)),
    ):
        with pytest.raises(StaleStateError):
            store.adopt(before, after)
    assert (other, cancelled) == (store.get(other.id), store.get(cancelled.id))


def _held(refund: Refund, nonce: int) -> Refund:
    return refund.assigned(
        Transaction.draft(
            [refund], now(), sender=WALLET, key_id="01", nonce=nonce, gas_limit=65_000
        )
    )


def test_a_queued_refund_gets_its_nonce_back(store: SQLStore) -> None:
    """It is reserved as before the restore, and the next nonce follows it."""
    opened(store)
    refund = accepted(store)
    after = store.adopt(refund, _held(refund, 7))

    assert store.get(refund.id) == after
    assert [move.status for move in store.history(refund.id)] == [
        Status.QUEUED,
        Status.RESERVED,
    ]
    assert _wallet(store).next_nonce == 8
    assert signed(store, after).status is Status.SIGNED


@pytest.mark.parametrize("kept", ["transactions", "attempts"])
def test_a_nonce_that_a_row_of_another_program_has(
    store: SQLStore, database_url: str, kept: str
) -> None:
    """No refund is adopted there: that another row has the nonce is no defect."""
    opened(store)
    holder = signed(store, reserved(store, accepted(store)))
    refund = accepted(store)
    rows = {"refunds", "transaction_payments", "transactions", "attempts"} - {kept}
    moved = (f"UPDATE {each} SET nonce = nonce + 5" for each in sorted(rows))
    overruled(database_url, *moved)

    for after in (_held(refund, 0), adopted(refund, 0)):
        with pytest.raises(StaleStateError):
            store.adopt(refund, after)
    assert store.get(refund.id) == refund
    assert holder.nonce == 0


def test_only_an_authentic_refund_gets_its_nonce_back(store: SQLStore) -> None:
    """A row that another program changed is not signed."""
    opened(store)
    refund = accepted(store)
    changed = replace(refund, amount=1)

    with pytest.raises(RowNotAuthenticError):
        store.adopt(changed, _held(changed, 7))
    assert store.get(refund.id) == refund


ACCEPTED = "UPDATE unrecorded_transactions SET accepted_at"

FORGED = (
    "INSERT INTO unrecorded_transactions (chain_id, sender, nonce, position, tx_hash,"
    " memo, gas_limit, block_number, block_hash, seen_at) VALUES"
    f" ({CHAIN}, '{WALLET}', {{}}, {{position}}, '0xf0', {{}}, 1, 1, '0x1',"
    " '2026-11-26T00:00:00.000000+00:00')"
)
"""A transaction that another program inserts, with a nonce and a memo."""


def test_a_changed_wallet_is_paused(store: SQLStore) -> None:
    """It assigns no nonce and cannot be changed, until it is opened again."""
    refund, other = accepted(store), accepted(store)
    reserved(store, refund)
    forge(store, "UPDATE wallets SET first_nonce = 7, version = version + 1")
    wallet = _wallet(store)

    assert (wallet.is_authentic, wallet.is_paused) == (False, True)
    for change in (
        lambda: store.pause(wallet, Pause.CHAIN_AHEAD, now()),
        lambda: store.add_unrecorded(wallet, []),
        lambda: store.resume(wallet, now(), ()),
        lambda: reserved(store, other),
    ):
        with pytest.raises(RowNotAuthenticError, match=WALLET):
            change()

    again = Wallet(CHAIN, WALLET, 3, 3, Pause.UNKNOWN_HISTORY, now())
    store.open_wallet(again)
    found = _wallet(store)
    assert (found.first_nonce, found.next_nonce, found.version) == (3, 3, 2)
    assert (found.is_authentic, found.paused_by) == (True, Pause.UNKNOWN_HISTORY)


def test_a_wallet_that_is_opened_again_looks_back(store: SQLStore) -> None:
    """A lower first nonce is kept, whether another program wrote it or not."""
    opened(store, first=2)
    forge(store, "UPDATE wallets SET paused_by = NULL, version = version + 1")
    store.open_wallet(Wallet(CHAIN, WALLET, 9, 9, Pause.UNKNOWN_HISTORY, now()))

    assert _wallet(store).first_nonce == 2


@pytest.mark.parametrize("position", [0, 1])
def test_an_invented_transaction_raises_no_nonce(
    store: SQLStore, position: int
) -> None:
    """The wallet is paused, and opening it again does not help."""
    refund = accepted(store)
    opened(store)
    forge(store, FORGED.format(9, "NULL", position=position))
    store.open_wallet(Wallet(CHAIN, WALLET, 0, 0, Pause.UNKNOWN_HISTORY, now()))

    assert not _wallet(store).is_authentic
    with pytest.raises(RowNotAuthenticError):
        reserved(store, refund)


def test_a_batch_has_a_row_for_each_item(store: SQLStore) -> None:
    """They are recorded together, once; and each ends its own refund."""
    marks = [bytes([number]) * 16 for number in range(1, 4)]
    items = [
        unrecorded(nonce=2, position=position, memo=mark, item_end=end)
        for position, (mark, end) in enumerate(
            zip(marks, (PAID, "reverted", PAID), strict=True)
        )
    ]
    store.add_unrecorded(opened(store), items)
    store.add_unrecorded(_wallet(store), items[:1])

    found = store.find_unrecorded(CHAIN, marks)

    assert [found[mark].position for mark in marks] == [0, 1, 2]
    assert [found[mark].has_paid for mark in marks] == [True, False, True]
    assert all(each.is_authentic for each in found.values())
    assert _wallet(store).is_authentic
    assert (_wallet(store).next_nonce, store.unknown_nonces(CHAIN, WALLET, 5, 9)) == (
        3,
        (0, 1, 3, 4),
    )


def test_an_invented_transaction_is_not_authentic(store: SQLStore) -> None:
    """Readers return it so: it neither pays a refund nor may it be accepted."""
    ours = unrecorded(nonce=4, memo=b"m" * 16)
    store.add_unrecorded(opened(store), [ours])
    blob = "x'6d'" if store._database.path else "'\\x6d'"
    forge(store, FORGED.format(1, blob, position=0))
    forge(store, FORGED.format(2, "NULL", position=0))
    wallet = _wallet(store)
    (foreign,) = store.foreign_transactions(CHAIN, WALLET)
    found = store.find_unrecorded(CHAIN, [b"m", b"m" * 16])

    assert wallet.is_authentic  # The last transaction is ours.
    assert not foreign.is_authentic
    assert [each.is_authentic for each in found.values()] == [True, False]
    with pytest.raises(RowNotAuthenticError, match="row of nonce 1"):
        store.resume(wallet, now(), [foreign])


def test_a_transaction_that_another_program_accepted(store: SQLStore) -> None:
    """It resumes no wallet."""
    store.add_unrecorded(opened(store), [unrecorded(), unrecorded(nonce=1, memo=b"m")])
    forge(store, f"{ACCEPTED} = seen_at WHERE nonce = 0")
    wallet = _wallet(store)

    assert store.foreign_transactions(CHAIN, WALLET) == ()
    with pytest.raises(RowNotAuthenticError, match="row of nonce 0"):
        store.resume(wallet, now(), ())
    assert _wallet(store) == wallet


BACK = (
    "DELETE FROM wallets",
    "UPDATE wallets SET paused_by = NULL, paused_at = NULL",
    "UPDATE wallets SET version = version + 2",
    "UPDATE wallets SET sender = 'thief', version = version + 1",
    "UPDATE wallets SET paused_by = 'thief', version = version + 1",
    "INSERT INTO wallets SELECT 7, sender, 0, NULL, NULL, 1, NULL, mac FROM wallets",
    "DELETE FROM unrecorded_transactions",
    "UPDATE unrecorded_transactions SET memo = NULL",
    "UPDATE unrecorded_transactions SET nonce = 8",
    f"{ACCEPTED} = NULL WHERE nonce = 0",
    f"{ACCEPTED} = '2026-01-01 00:00+00:00' WHERE nonce = 0",
)


def test_old_rows_cannot_be_put_back(store: SQLStore) -> None:
    """Versions rise, a transaction is accepted once, and no row is deleted."""
    store.add_unrecorded(opened(store), [unrecorded()])
    store.resume(_wallet(store), now(), store.foreign_transactions(CHAIN, WALLET))
    store.add_unrecorded(_wallet(store), [unrecorded(nonce=1, memo=b"m" * 16)])
    store.pause(_wallet(store), Pause.CHAIN_AHEAD, now())

    for statement in BACK:
        with pytest.raises(StoreError, match="a constraint is violated"):
            forge(store, statement)


@pytest.mark.parametrize("table", ["wallets", "unrecorded_transactions"])
def test_a_row_is_not_replaced(sqlite_store: SQLStore, table: str) -> None:
    """REPLACE would delete it without a trigger."""
    sqlite_store.add_unrecorded(opened(sqlite_store), [unrecorded()])
    before = sqlite_store.wallets()

    with pytest.raises(StoreError, match="a constraint is violated"):
        forge(sqlite_store, f"REPLACE INTO {table} SELECT * FROM {table}")
    assert before == sqlite_store.wallets()
