"""What every store promises.  A new database is done when it passes."""

import secrets
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backends.sql import SQLStore
from signer.errors import (
    ConflictError,
    IdempotencyMismatchError,
    InvalidInputError,
    StaleStateError,
    StoreError,
)
from signer.ports import Store
from signer.refunds.refund import OPEN, Move, Page, Refund, Status
from tests.fixtures.ledger import (
    OTHER_WALLET,
    WALLET,
    accepted,
    moved,
    now,
    queued,
    reserved,
    signed,
    transaction,
)


# Every example uses rows of its own, so that they may share the database.
shared = settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

TEXTS = st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=200
)
ZONES = st.integers(-14 * 60, 14 * 60).map(
    lambda minutes: timezone(timedelta(minutes=minutes))
)
MOMENTS = st.builds(
    lambda seconds, microseconds, zone: datetime.fromtimestamp(seconds, zone).replace(
        microsecond=microseconds
    ),
    st.integers(0, 2**32),
    st.integers(0, 999_999),
    ZONES,
)


def test_is_a_store(store: SQLStore) -> None:
    """The database is a store to the type checker, and says it is usable."""
    as_the_core_sees_it: Store = store

    as_the_core_sees_it.check()


class TestAccept:
    """``accept`` inserts once."""

    def test_stores_what_was_asked(self, store: SQLStore) -> None:
        """A new refund is created, and reads back field by field."""
        refund = queued(reason="broken on arrival")

        assert store.accept(refund) == (refund, True)
        assert store.get(refund.id) == refund

    @shared
    @given(amount=st.integers(1, 2**256 - 1))
    def test_amounts_are_exact(self, store: SQLStore, amount: int) -> None:
        """Every amount that an ERC-20 token knows reads back to the last unit."""
        refund = accepted(store, amount=amount)

        assert amount == _stored(store, refund).amount

    @shared
    @given(moment=MOMENTS)
    def test_times_are_exact(self, store: SQLStore, moment: datetime) -> None:
        """A time reads back to the microsecond, and in UTC, whatever its zone was."""
        refund = accepted(store, created_at=moment)
        created_at = _stored(store, refund).created_at

        assert moment == created_at
        assert UTC is created_at.tzinfo

    @shared
    @given(text=TEXTS)
    def test_texts_are_exact(self, store: SQLStore, text: str) -> None:
        """A text reads back letter by letter, in every script."""
        refund = accepted(store, reason=text)

        assert text == _stored(store, refund).reason

    @pytest.mark.parametrize("amount", [0, -1, 2**256])
    def test_impossible_amounts(self, store: SQLStore, amount: int) -> None:
        """Nothing, less than nothing and more than a word are no amounts."""
        refund = queued(amount=amount)

        with pytest.raises(StoreError):
            store.accept(refund)
        assert store.get(refund.id) is None

    def test_refuses_floats(self, store: SQLStore) -> None:
        """Money is an integer, whatever a driver would make of it."""
        with pytest.raises(StoreError):
            store.accept(queued(amount=1.0))

    def test_refuses_naive_times(self, store: SQLStore) -> None:
        """A time without a zone is refused, since nobody knows when it is."""
        with pytest.raises(StoreError):
            store.accept(queued(created_at=now().replace(tzinfo=None)))

    def test_replays(self, store: SQLStore) -> None:
        """The same key and request find the stored refund, as far as it has come."""
        first = accepted(store)
        now_reserved = reserved(store, first)
        again = replace(first, id=queued().id, created_at=now(), updated_at=now())

        assert (now_reserved, False) == store.accept(again)
        assert store.get(again.id) is None

    def test_find(self, store: SQLStore) -> None:
        """A client's key finds the refund that it made, and nobody else's."""
        refund = accepted(store)

        assert refund == store.find(refund.client, refund.idempotency_key)
        assert store.find("another", refund.idempotency_key) is None
        assert store.find(refund.client, "never used") is None
        assert store.find(refund.client, "a\0b") is None

    def test_key_for_another_request(self, store: SQLStore) -> None:
        """A used key with another request is a mismatch, and inserts nothing."""
        first = accepted(store)
        other = queued(idempotency_key=first.idempotency_key, fingerprint="ff" * 32)

        with pytest.raises(IdempotencyMismatchError, match=first.id):
            store.accept(other)
        assert store.get(other.id) is None

    def test_reference_under_another_key(self, store: SQLStore) -> None:
        """A used reference under a new key is a conflict that names the refund."""
        first = accepted(store)
        other = queued(reference=first.reference)

        with pytest.raises(ConflictError, match=first.id) as caught:
            store.accept(other)
        assert ConflictError is type(caught.value)
        assert store.get(other.id) is None

    def test_mismatch_comes_before_conflict(self, store: SQLStore) -> None:
        """When one refund has the key and another the reference, the key decides."""
        by_key, by_reference = accepted(store), accepted(store)
        other = queued(
            idempotency_key=by_key.idempotency_key,
            reference=by_reference.reference,
            fingerprint="ff" * 32,
        )

        with pytest.raises(IdempotencyMismatchError, match=by_key.id):
            store.accept(other)

    def test_clients_do_not_meet(self, store: SQLStore) -> None:
        """Keys and references belong to a client; another's are not in the way."""
        first = accepted(store)
        other = queued(
            client="another",
            idempotency_key=first.idempotency_key,
            reference=first.reference,
        )

        assert (other, True) == store.accept(other)

    def test_names_are_compared_byte_by_byte(self, store: SQLStore) -> None:
        """Keys that a locale would call equal are two keys."""
        for key in ("ss", "ß", "SS", "ss ", "e\u0301", "\u00e9"):
            accepted(store, idempotency_key=key)

        assert len(store.list("gateway").refunds) == 6

    @pytest.mark.parametrize("text", ["", "x" * 256, "a\0b", "\ud800"])
    @pytest.mark.parametrize("field", ["idempotency_key", "reference", "client"])
    def test_impossible_names(self, store: SQLStore, field: str, text: str) -> None:
        """Names that no index can hold are the caller's mistake, and name the field."""
        with pytest.raises(InvalidInputError) as caught:
            store.accept(queued(**{field: text}))

        assert field == caught.value.field

    def test_only_queued(self, store: SQLStore) -> None:
        """Nothing enters the ledger but by its first state."""
        with pytest.raises(ValueError, match="queued"):
            store.accept(queued(status=Status.CONFIRMED))
        with pytest.raises(ValueError, match="queued"):
            store.accept(queued(version=1))

    def test_taken_id(self, store: SQLStore) -> None:
        """An id that another refund has is a defect, and changes nothing."""
        first = accepted(store)

        with pytest.raises(StoreError):
            store.accept(queued(id=first.id))
        assert first == store.get(first.id)


class TestReserve:
    """``reserve`` gives nonces without gap or double."""

    def test_sets_the_reservation(self, store: SQLStore) -> None:
        """The reserved refund carries what was given, and is what the store has."""
        refund = accepted(store)
        at = now()
        after = store.reserve(
            refund, sender=WALLET, key_id="k", gas_limit=7, floor=3, at=at
        )

        assert after == refund.moved(
            Status.RESERVED, at, sender=WALLET, key_id="k", gas_limit=7, nonce=3
        )
        assert after == store.get(refund.id)

    def test_counts_on(self, store: SQLStore) -> None:
        """Each nonce is one past the highest, though the chain still counts less."""
        nonces = [reserved(store, accepted(store), floor=5).nonce for _ in range(4)]

        assert nonces == [5, 6, 7, 8]

    def test_follows_the_chain(self, store: SQLStore) -> None:
        """A floor above the highest nonce is the next one; a lower one does nothing."""
        nonces = [
            reserved(store, accepted(store), floor=floor).nonce for floor in (0, 9, 2)
        ]

        assert nonces == [0, 9, 10]

    def test_wallets_do_not_meet(self, store: SQLStore) -> None:
        """Each chain and each sender counts for itself."""
        first = reserved(store, accepted(store))
        other_sender = reserved(store, accepted(store), sender=OTHER_WALLET)
        other_chain = reserved(store, accepted(store, chain_id=1))

        assert [r.nonce for r in (first, other_sender, other_chain)] == [0, 0, 0]

    def test_spelling_of_a_wallet(self, store: SQLStore) -> None:
        """One wallet cannot count twice under two spellings of its address."""
        refund = accepted(store)

        with pytest.raises(ValueError, match="EIP-55"):
            reserved(store, refund, sender=WALLET.lower())
        assert refund == store.get(refund.id)

    def test_only_once(self, store: SQLStore) -> None:
        """One refund gets one nonce; the second to ask is told that it moved."""
        refund = accepted(store)
        first = reserved(store, refund)

        with pytest.raises(StaleStateError):
            reserved(store, refund)
        assert first == store.get(refund.id)

    def test_cancelled_meanwhile(self, store: SQLStore) -> None:
        """A refund that was cancelled under way gets no nonce."""
        refund = accepted(store)
        cancelled = moved(store, refund, Status.CANCELLED)

        with pytest.raises(StaleStateError):
            reserved(store, refund)
        assert cancelled == store.get(refund.id)

    def test_failures_leave_no_gap(self, store: SQLStore) -> None:
        """A reservation that fails, for whatever reason, uses no nonce up."""
        gone = accepted(store)
        moved(store, gone, Status.CANCELLED)
        first = reserved(store, accepted(store))
        with pytest.raises(StaleStateError):
            reserved(store, gone)
        with pytest.raises(StoreError):
            reserved(store, accepted(store), gas_limit=0)
        second = reserved(store, accepted(store))

        assert (first.nonce, second.nonce) == (0, 1)

    def test_unknown_refund(self, store: SQLStore) -> None:
        """What was never accepted cannot be reserved."""
        with pytest.raises(StaleStateError):
            reserved(store, queued())


class TestSave:
    """``save`` is one compare-and-set."""

    def test_replaces(self, store: SQLStore) -> None:
        """The next state, its transaction and its history are there together."""
        before = reserved(store, accepted(store))
        first = transaction(before)
        after = before.moved(Status.SIGNED, now(), tx_hash=first.tx_hash)
        store.save(before, after, first)

        assert after == store.get(before.id)
        assert (first,) == store.transactions(before.id)
        assert (
            Move(after.id, 2, Status.SIGNED, after.updated_at)
            == (store.history(after.id)[-1])
        )

    def test_whole_life(self, store: SQLStore) -> None:
        """A refund goes all the way, and back when a block is taken away."""
        sent = moved(
            store, signed(store, reserved(store, accepted(store))), Status.BROADCAST
        )
        block = {"block_number": 7, "block_hash": "0x07"}
        mined = moved(store, sent, Status.MINED, **block)
        again = moved(
            store, mined, Status.BROADCAST, block_number=None, block_hash=None
        )
        final = moved(
            store, moved(store, again, Status.MINED, **block), Status.CONFIRMED
        )

        assert final == store.get(final.id)
        assert [move.status for move in store.history(final.id)] == [
            "queued", "reserved", "signed", "broadcast",
            "mined", "broadcast", "mined", "confirmed",
        ]  # fmt: skip

    def test_stale(self, store: SQLStore) -> None:
        """The second to move a refund is refused, and nothing of it is stored."""
        before = reserved(store, accepted(store))
        after = signed(store, before)
        late = transaction(before)

        with pytest.raises(StaleStateError):
            store.save(
                before, before.moved(Status.SIGNED, now(), tx_hash=late.tx_hash), late
            )
        assert after == store.get(before.id)
        assert late not in store.transactions(before.id)
        assert len(store.history(before.id)) == 3

    def test_same_attempt_twice(self, store: SQLStore) -> None:
        """An attempt is recorded once; who is late moves nothing."""
        first = signed(store, reserved(store, accepted(store)))

        with pytest.raises(StaleStateError):
            store.save(first, first.moved(Status.BROADCAST, now()), transaction(first))
        assert first == store.get(first.id)
        assert len(store.transactions(first.id)) == 1

    def test_same_hash_twice(self, store: SQLStore) -> None:
        """The same bytes as another attempt are a defect, and move nothing."""
        first = signed(store, reserved(store, accepted(store)))
        copy = replace(store.transactions(first.id)[0], attempt=1)

        with pytest.raises(StoreError) as caught:
            store.save(first, first.moved(Status.BROADCAST, now()), copy)
        assert not caught.value.retryable
        assert first == store.get(first.id)

    def test_replacements_in_order(self, store: SQLStore) -> None:
        """Every transaction of a refund is kept, in the order of its attempts."""
        refund = signed(store, reserved(store, accepted(store)))
        for attempt in (1, 2):
            after = replace(refund, version=refund.version + 1, updated_at=now())
            store.save(refund, after, transaction(refund, attempt=attempt))
            refund = after

        kept = store.transactions(refund.id)
        assert [each.attempt for each in kept] == [0, 1, 2]
        assert {refund.nonce} == {each.nonce for each in kept}

    @shared
    @given(fee=st.integers(0, 2**256 - 1), raw=st.binary(min_size=1, max_size=300))
    def test_transactions_are_exact(
        self, store: SQLStore, fee: int, raw: bytes
    ) -> None:
        """Signed bytes and fees read back as they were."""
        before = reserved(store, accepted(store))
        kept = transaction(
            before, max_fee_per_gas=fee, max_priority_fee_per_gas=fee, raw=raw
        )
        store.save(
            before, before.moved(Status.SIGNED, now(), tx_hash=kept.tx_hash), kept
        )

        assert (kept,) == store.transactions(before.id)

    @pytest.mark.parametrize(
        "changes",
        [{"nonce": 1}, {"sender": OTHER_WALLET}, {"amount": 1}, {"recipient": WALLET}],
    )
    def test_for_life(self, store: SQLStore, changes: dict[str, object]) -> None:
        """Nonce, wallet, amount and recipient stay for life."""
        before = reserved(store, accepted(store))
        after = before.moved(Status.FAILED, now(), **changes)

        with pytest.raises(ValueError, match="for life"):
            store.save(before, after)
        assert before == store.get(before.id)

    def test_no_nonce_but_by_reservation(self, store: SQLStore) -> None:
        """The schema itself knows no reserved refund without a nonce."""
        before = accepted(store)

        with pytest.raises(StoreError):
            store.save(before, before.moved(Status.RESERVED, now()))
        assert before == store.get(before.id)

    @pytest.mark.parametrize(
        "change",
        [
            lambda refund: refund.moved(Status.SIGNED, now()),
            lambda refund: refund.moved(Status.SIGNED, now(), tx_hash="0x01").moved(
                Status.MINED, now()
            ),
        ],
        ids=["signed-without-hash", "mined-without-block"],
    )
    def test_states_have_their_facts(
        self, store: SQLStore, change: Callable[[Refund], Refund]
    ) -> None:
        """The schema knows no signed refund without hash, nor mined without block."""
        before = reserved(store, accepted(store))
        after = replace(change(before), version=before.version + 1)

        with pytest.raises(StoreError):
            store.save(before, after)
        assert before == store.get(before.id)

    def test_one_version_after_the_other(self, store: SQLStore) -> None:
        """A step that skips a version is a defect."""
        before = accepted(store)
        after = replace(before.moved(Status.CANCELLED, now()), version=2)

        with pytest.raises(ValueError, match="one version"):
            store.save(before, after)

    def test_foreign_transaction(self, store: SQLStore) -> None:
        """A transaction with another nonce cannot be recorded for a refund."""
        before = reserved(store, accepted(store))
        foreign = transaction(before, nonce=before.nonce + 1 if before.nonce else 1)
        after = before.moved(Status.SIGNED, now(), tx_hash=foreign.tx_hash)

        with pytest.raises(ValueError, match="another refund or nonce"):
            store.save(before, after, foreign)

    def test_words_of_strangers(self, store: SQLStore) -> None:
        """A contract's words cannot keep its refund from failing."""
        before = reserved(store, accepted(store))
        after = moved(store, before, Status.FAILED, failure_detail="no\0 \ud800!")

        stored = _stored(store, before)
        assert Status.FAILED is stored.status
        assert stored.failure_detail == "no\ufffd ?!"
        assert after.version == stored.version

    @shared
    @given(turns=st.lists(st.tuples(st.integers(0, 2), st.booleans()), max_size=12))
    def test_is_linear(self, store: SQLStore, turns: list[tuple[int, bool]]) -> None:
        """A save succeeds if and only if it starts from the newest version."""
        newest = accepted(store)
        views = [newest] * 3
        for index, look_again in turns:
            before = views[index]
            after = replace(before, version=before.version + 1, updated_at=now())
            if before.version == newest.version:
                store.save(before, after)
                newest = views[index] = after
                continue
            with pytest.raises(StaleStateError):
                store.save(before, after)
            if look_again:
                views[index] = _stored(store, before)

        assert newest == store.get(newest.id)
        assert list(range(newest.version + 1)) == [
            move.version for move in store.history(newest.id)
        ]


class TestReading:
    """Reading finds what is there, and in order."""

    @pytest.mark.parametrize("unknown", ["rf_0", "", "a\0b", "\ud800"])
    def test_unknown(self, store: SQLStore, unknown: str) -> None:
        """There is nothing under an unknown id, however odd it is."""
        assert store.get(unknown) is None
        assert store.transactions(unknown) == ()
        assert store.history(unknown) == ()
        assert Page((), None) == store.list(unknown)
        assert Page((), None) == store.list("gateway", payment_session_id=unknown)

    def test_history_begins_at_the_beginning(self, store: SQLStore) -> None:
        """The first line of a history is that the refund was queued."""
        refund = accepted(store)

        assert (Move(refund.id, 0, Status.QUEUED, refund.updated_at),) == (
            store.history(refund.id)
        )

    @shared
    @given(
        rows=st.lists(st.tuples(st.sampled_from("ab"), st.booleans()), max_size=12),
        limit=st.integers(1, 5),
        session=st.sampled_from(["a", "b", None]),
        status=st.sampled_from([Status.QUEUED, Status.CANCELLED, None]),
    )
    def test_pages(
        self,
        store: SQLStore,
        rows: list[tuple[str, bool]],
        limit: int,
        session: str | None,
        status: Status | None,
    ) -> None:
        """Page by page, each refund that fits comes once, and newest first."""
        client = secrets.token_hex(8)
        made = []
        for its_session, is_cancelled in rows:
            refund = accepted(store, client=client, payment_session_id=its_session)
            if is_cancelled:
                refund = moved(store, refund, Status.CANCELLED)
            made.append(refund)
        expected = [
            refund
            for refund in sorted(made, key=lambda refund: refund.id, reverse=True)
            if session in {None, refund.payment_session_id}
            and status in {None, refund.status}
        ]
        seen: list[Refund] = []
        cursor: str | None = None
        while True:
            page = store.list(
                client,
                payment_session_id=session,
                status=status,
                limit=limit,
                cursor=cursor,
            )
            seen += page.refunds
            cursor = page.next_cursor
            assert len(page.refunds) == limit or cursor is None
            if cursor is None:
                break

        assert expected == seen

    def test_new_refunds_do_not_shift_pages(self, store: SQLStore) -> None:
        """A refund that comes while somebody pages is not on a later page."""
        old = [accepted(store) for _ in range(4)]
        first = store.list("gateway", limit=2)
        accepted(store)
        second = store.list("gateway", limit=2, cursor=first.next_cursor)

        assert {refund.id for refund in old} == {
            refund.id for refund in first.refunds + second.refunds
        }

    @pytest.mark.parametrize(
        ("field", "given"),
        [
            ("limit", {"limit": 0}),
            ("limit", {"limit": 1001}),
            ("cursor", {"cursor": "\0"}),
        ],
    )
    def test_impossible_pages(
        self, store: SQLStore, field: str, given: dict[str, int]
    ) -> None:
        """A page that cannot be is the caller's mistake, and names the field."""
        with pytest.raises(InvalidInputError) as caught:
            store.list("gateway", **given)  # type: ignore[arg-type]

        assert field == caught.value.field

    def test_open_refunds(self, store: SQLStore) -> None:
        """The worker sees what is not final, oldest first, and no more than it asks."""
        done = moved(store, accepted(store), Status.CANCELLED)
        failed = moved(store, reserved(store, accepted(store)), Status.FAILED)
        waiting = [accepted(store), reserved(store, accepted(store))]
        waiting.append(signed(store, reserved(store, accepted(store))))
        waiting.sort(key=lambda refund: refund.id)

        assert not {done.status, failed.status} & OPEN
        assert tuple(waiting) == store.open_refunds(10)
        assert tuple(waiting[:2]) == store.open_refunds(2)
        assert tuple(waiting[2:]) == store.open_refunds(2, after=waiting[1].id)
        assert store.open_refunds(2, after=waiting[2].id) == ()


def _stored(store: SQLStore, refund: Refund) -> Refund:
    stored = store.get(refund.id)
    assert stored is not None
    return stored
