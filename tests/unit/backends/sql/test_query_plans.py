"""The cost of the store: round trips per method, and an index for every query."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import Connection, bindparam, insert, select, text

from backends.sql import (
    SQLStore,
    approvals,
    audit,
    claim_order,
    deliveries,
    events,
    queries,
    refund_reports,
    spending,
    tables,
)
from backends.sql.prepared import _Prepared
from backends.sql.refunds import REQUESTED
from backends.sql.statements import INSERT_MOVES
from backends.sql.tables import refunds, spendings
from backends.sql.wallet_rows import next_nonce
from signer.model.audit_record import Record
from signer.model.event import Delivery, DeliveryState
from signer.model.refund import Refund, Status
from signer.model.transaction import TransactionStatus
from signer.model.worker_row import WorkerRow
from signer.ports.event_store import DeliveryFilter
from signer.ports.refund_reports import RefundFilter
from tests.fixtures.ledger import (
    WALLET,
    accept,
    accepted,
    adopted,
    as_if,
    claimed,
    delay,
    filled,
    later,
    moved,
    now,
    opened,
    queued,
    reserve,
    save,
    signed,
    step_to,
    transaction,
)
from tests.support.keys import key_at
from tests.support.ledgers import collected_statements, open_ledger, query_plan, seal


KEY_ID = key_at(WALLET).key_id


# On SQLite and PostgreSQL.  A single statement is its own transaction; after BEGIN
# there is one COMMIT.  A move of a transaction leaves the row of its refund as it is.
EXPECTED = {
    "accept": ("BEGIN IMMEDIATE, SELECT, INSERT, INSERT, INSERT", "SELECT, WITH"),
    "replay": ("BEGIN IMMEDIATE, SELECT, INSERT, SELECT", "SELECT, WITH, SELECT"),
    "find earlier": ("SELECT", "SELECT"),
    "reserve": (
        f"BEGIN IMMEDIATE{', SELECT' * 3}, UPDATE{', INSERT' * 4}",
        f"BEGIN{', SELECT' * 4}, UPDATE{', INSERT' * 4}",
    ),
    "sign": (
        "BEGIN IMMEDIATE, UPDATE, INSERT, INSERT",
        "BEGIN, UPDATE, INSERT, INSERT",
    ),
    "move": (
        "BEGIN IMMEDIATE, UPDATE, INSERT, INSERT",
        "BEGIN, UPDATE, INSERT, INSERT",
    ),
    "postpone": ("BEGIN IMMEDIATE, UPDATE", "BEGIN, UPDATE"),
    "claim": ("WITH, BEGIN IMMEDIATE, UPDATE, SELECT", "WITH, BEGIN, UPDATE, SELECT"),
    "claim nothing": ("WITH", "WITH"),
    "advanced": ("SELECT", "SELECT"),
    "in flight": ("SELECT, SELECT", "SELECT, SELECT"),
    "below": ("SELECT", "SELECT"),
    "wallet": ("SELECT", "SELECT"),
    "find_unrecorded": ("SELECT", "SELECT"),
    "get": ("SELECT", "SELECT"),
    "ask to cancel": ("BEGIN IMMEDIATE, UPDATE, INSERT", "BEGIN, UPDATE, INSERT"),
    "prove": ("BEGIN IMMEDIATE, UPDATE", "UPDATE"),
    "record pass": ("BEGIN IMMEDIATE, INSERT", "INSERT"),
    "workers": ("SELECT", "SELECT"),
}


def _postponed(store: SQLStore, refund: Refund) -> Refund:
    after = delay(refund, now())
    save(store, refund, after)
    return after


def _steps(store: SQLStore) -> dict[str, Callable[[Refund], object]]:
    """Return a call of each frequent method, in a possible order."""
    accepted_before = accepted(store)
    return {
        "accept": lambda it: accept(store, it)[0],
        "replay": lambda it: accept(store, it)[0],
        "find earlier": lambda it: store.find_earlier(queued(), [it.tenant]),
        "reserve": lambda it: reserve(
            store, it, sender=WALLET, key_id=KEY_ID, gas_limit=1, counted=0, at=now()
        ),
        "sign": lambda it: signed(store, it),
        "move": lambda it: moved(store, it, Status.BROADCAST),
        "postpone": lambda it: _postponed(store, it),
        "claim": lambda it: claimed(store, later(1), later(21), 10)[0],
        "claim nothing": lambda it: store.claim(later(1), later(21), 10),
        "advanced": lambda it: store.find_advanced([it.id], [Status.QUEUED]),
        "in flight": lambda it: store.in_flight(10),
        "below": lambda it: store.open_below(it.chain_id, WALLET, 9, 10),
        "wallet": lambda it: store.wallet(it.chain_id, WALLET),
        "find_unrecorded": lambda it: store.find_unrecorded(it.chain_id, [it.memo]),
        "get": lambda it: store.get(it.id),
        "ask to cancel": lambda _: store.request_cancellation(
            accepted_before, now(), Record.of({"event": "test"}, now())
        ),
        "prove": lambda _: store.prove(WALLET, now()),
        "record pass": lambda _: store.record_pass(WorkerRow("a", now(), now())),
        "workers": lambda _: store.workers(),
    }


def test_each_method_has_few_round_trips(store: SQLStore) -> None:
    seen = {}
    refund = queued()
    opened(store)
    store.check()
    for name, step in _steps(store).items():
        with collected_statements(store) as statements:
            answer = step(refund)
        refund = answer if isinstance(answer, Refund) else refund
        seen[name] = ", ".join(
            each.partition(";")[0] if each.startswith("BEGIN") else each.split()[0]
            for each in statements
        )

    is_postgresql = store._database.dialect == "postgresql"
    assert seen == {name: each[is_postgresql] for name, each in EXPECTED.items()}


def test_the_audit_of_a_refund_needs_no_commit(store: SQLStore) -> None:
    """Intent and outcome belong to the transactions of reservation and signature."""
    opened(store)
    store.check()
    refund = accept(store, queued())[0]
    intent = Record.of({"event": "intent"}, now())
    outcome = Record.of({"event": "outcome"}, later(0.001))

    with collected_statements(store) as statements:
        refund = reserve(
            store,
            refund,
            sender=WALLET,
            key_id=KEY_ID,
            gas_limit=1,
            counted=0,
            at=now(),
            intent=intent,
        )
        after = step_to(refund, Status.SIGNED, now(), tx_hash="0x1")
        save(store, refund, after, transaction(refund, tx_hash="0x1"), outcome)
    seal(store)
    written = [each.record for each in store.sealed(0, 10)]
    begun = [each for each in statements if each.startswith("BEGIN")]

    assert written == [intent, outcome]
    assert len(begun) == 2


MOMENT = datetime(2026, 1, 31, tzinfo=UTC)

SEARCHES = (
    (RefundFilter(), "refunds"),
    (RefundFilter(recipient=WALLET), "refunds"),
    (RefundFilter(status=Status.REFUSED), "refunds"),
    (RefundFilter(status=Status.QUEUED), "ix_refunds_open"),
    (RefundFilter("tenant 3"), "ix_refunds_tenant"),
    (RefundFilter("tenant 3", Status.CONFIRMED), "ix_refunds_state"),
    (RefundFilter("tenant 3", Status.BROADCAST), "ix_refunds_state"),
    (RefundFilter(status=Status.BROADCAST), "ix_refunds_open"),
    (RefundFilter("tenant 3", payment_session_id="session 5"), "ix_refunds_session"),
    (
        RefundFilter("tenant 3", Status.QUEUED, payment_session_id="session 5"),
        "ix_refunds_session",
    ),
    (RefundFilter("tenant 3", network="n", min_amount=Decimal(1)), "ix_refunds_tenant"),
    (
        RefundFilter(accepted_from=MOMENT, accepted_before=MOMENT, network="n"),
        "refunds",
    ),
    (RefundFilter("tenant 3", accepted_from=MOMENT), "ix_refunds_tenant"),
)


def test_a_search_reads_a_bounded_part(
    filled_store: SQLStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The part that a page looks at is read in the order of an index."""
    monkeypatch.setattr(refund_reports, "SEARCHED", 50)
    for wanted, index in SEARCHES:
        for has_cursor in (False, True):
            query = refund_reports.found_among(wanted, has_cursor=has_cursor)
            given = refund_reports.parameters(wanted, queued().id)
            plan = query_plan(filled_store, query, {**given, "at_most": 10})

            if filled_store._database.path:
                assert index in plan
                assert "TEMP B-TREE" not in plan
            # PostgreSQL may read all transactions while they are few.
            assert "Seq Scan on refunds" not in plan


def test_an_earlier_refund_is_found_in_two_indexes(filled_store: SQLStore) -> None:
    """One row by its key and one by its reference, not all of the tenants' refunds."""
    given = {"of_tenants": ["tenant 3"], "key": "key", "name": "order"}
    plan = query_plan(filled_store, queries.EARLIER, given)

    assert "Seq Scan" not in plan
    assert "ix_refunds_tenant" not in plan
    assert "SCAN refunds" not in plan


@pytest.mark.parametrize(
    ("statement", "given"),
    [
        (queries.BY_REFERENCE, {"of_tenant": "tenant 3", "name": "order"}),
        (queries.BY_NONCE, {"chain_id": 1, "sender": "0x", "nonce": 7}),
    ],
    ids=["reference", "nonce"],
)
def test_a_client_that_repeats_a_call_reads_one_refund(
    filled_store: SQLStore, statement: Any, given: dict[str, Any]
) -> None:
    plan = query_plan(filled_store, statement, given)

    assert "uq_refunds_" in plan or "sqlite_autoindex_refunds_" in plan
    assert "Seq Scan" not in plan


def test_open_refunds_of_a_tenant_are_counted_in_an_index(
    filled_store: SQLStore,
) -> None:
    """The cost does not grow with the final refunds."""
    given = {"of_tenant": "tenant 3", "at_most": 10}
    plan = query_plan(filled_store, queries.COUNT_OPEN, given)

    # PostgreSQL may read the open refunds of all tenants if they are few.
    expected = "ix_refunds_state" if filled_store._database.path else "ix_refunds_"
    assert expected in plan
    assert "Seq Scan" not in plan


@pytest.mark.parametrize(
    ("statement", "index"),
    [
        (queries.FLYING, "ix_transactions_movable"),
        (queries.BELOW, "ix_transactions_movable"),
        (queries.WITHOUT_RECEIPT, "ix_transactions_"),
        (claim_order.DUE, "ix_refunds_queued"),
        (claim_order.DUE_ELSEWHERE, "ix_refunds_queued"),
        (claim_order.DUE_SWEEPS, "ix_refunds_queued"),
        (claim_order.CLAIM_QUEUED, "refunds"),
        (claim_order.CLAIM_TRANSACTIONS, "transactions"),
        (REQUESTED, "ix_refunds_cancel_requested"),
        (claim_order.postponing("network"), "ix_refunds_queued"),
        (claim_order.postponing("tenant"), "ix_refunds_queued"),
        (
            claim_order.postponing("network", "tenant", "token"),
            "ix_refunds_queued",
        ),
    ],
    ids=[
        "in-flight",
        "below",
        "without receipt",
        "due",
        "due elsewhere",
        "due sweeps",
        "claim queued",
        "claim transactions",
        "cancellation requests",
        "postpone network",
        "postpone tenant",
        "postpone token",
    ],
)
def test_the_worker_reads_open_refunds_only(
    filled_store: SQLStore, statement: Any, index: str
) -> None:
    """An idle pass reads partial indexes, however many refunds are final."""
    given = {
        "ids": [queued().id],
        "nonces": [(31337, WALLET, 7)],
        "after": "",
        "at_most": 9,
        "places": 9,
        "full": [999],
        "of_sender": WALLET,
        "ahead": 4,
        "now": now(),
        "far": later(120),
        "until": later(20),
        "chain_id": 31337,
        "sender": WALLET,
        "nonce": 1500,
        "of_network": "local",
        "of_tenant": "tenant 3",
        "of_token": "TUSD",
        "code": "wallet-paused",
    }
    plan = query_plan(filled_store, statement, given)

    # PostgreSQL sometimes takes the other index of open refunds, which are few.
    others = set() if filled_store._database.path else {"ix_refunds_open"}
    assert any(each in plan for each in {index} | others)
    assert "Seq Scan" not in plan
    assert "SCAN refunds\n" not in plan


def test_transactions_are_limited_before_their_refunds_are_read(
    filled_store: SQLStore,
) -> None:
    """A wallet with a long queue is asked for its first one in each pass."""
    given = {"chain_id": 31337, "sender": WALLET, "nonce": 1500, "at_most": 9}
    plan = query_plan(filled_store, queries.BELOW, given)

    assert "ix_transactions_movable" in plan
    assert "Sort" not in plan
    assert "TEMP B-TREE" not in plan
    # The inner limit, before the rows of refunds are read.
    assert "CO-ROUTINE below" in plan or plan.count("Limit") == 2


def test_refunds_that_await_an_approval_are_read_alone(filled_store: SQLStore) -> None:
    """Once in each pass, with their proposals."""
    given = {"at_most": 9, "now": now(), "since": later(-3600)}
    plan = query_plan(filled_store, approvals.DECIDED, given)

    assert "ix_refunds_awaiting" in plan
    assert "Seq Scan on refunds" not in plan
    assert (
        "ix_approvals_refund" in plan or filled_store._database.dialect == "postgresql"
    )


@pytest.mark.parametrize(
    "statement",
    [
        claim_order.DUE,
        claim_order.postponing("network"),
        claim_order.postponing("tenant"),
        claim_order.postponing("network", "tenant", "token"),
    ],
    ids=["due", "postpone network", "postpone tenant", "postpone token"],
)
def test_refunds_that_wait_are_not_read(store: SQLStore, statement: Any) -> None:
    """The cost grows with what is due, and not with what waits for a later time."""
    opened(store)
    filled(store, [queued(due_at=later(60)) for _ in range(1500)])
    if store._database.dialect == "postgresql":
        store._database.run(lambda c: c.execute(text("VACUUM ANALYZE")))
    counts = {"at_most": 9, "places": 9, "ahead": 4}
    given = {**counts, "now": now(), "far": later(120)}
    given |= {
        "until": later(20),
        "of_network": "local",
        "of_tenant": "gateway",
        "of_token": "TUSD",
    }
    plan = query_plan(store, statement, given | {"code": "wallet-paused"})

    assert "SCAN refunds" not in plan
    assert "Seq Scan on refunds" not in plan
    assert "ix_refunds_queued" in plan
    assert "due_at<" in plan or "due_at <=" in plan


def test_transactions_that_wait_are_not_read(store: SQLStore) -> None:
    """The cost grows with what is due, however many transactions are in flight."""
    opened(store)
    waiting = {"status": Status.BROADCAST, "tx_hash": "0x1"}
    rows = [queued(**waiting, nonce=n) for n in range(1500)]
    filled(store, [delay(each, later(60)) for each in rows])
    if store._database.dialect == "postgresql":
        store._database.run(lambda c: c.execute(text("VACUUM ANALYZE")))
    counts = {"at_most": 9, "places": 9, "ahead": 4}
    given = {**counts, "now": now(), "far": later(120)}
    plan = query_plan(store, claim_order.DUE, given)

    assert "SCAN transactions" not in plan
    assert "Seq Scan" not in plan
    assert "ix_transactions_due" in plan
    assert "due_at<" in plan or "due_at <=" in plan


def test_awaited_refunds_are_found_by_their_ids(filled_store: SQLStore) -> None:
    """The cost does not grow with the other refunds."""
    ids = [queued().id for _ in range(16)]
    (given,) = queries.advanced(ids, [Status.QUEUED, Status.RESERVED, Status.SIGNED])
    plan = query_plan(filled_store, queries.ADVANCED, given)

    assert "SCAN refunds" not in plan
    assert "Seq Scan on refunds" not in plan


_DEAD = DeliveryFilter(state=DeliveryState.DEAD)


def test_events_come_from_an_index(store: SQLStore) -> None:
    """What is new or due is found alone, however many events were delivered."""
    _fill_events(store, 3000)
    given = {
        "at_most": 9,
        "latest": 2**60,
        "of_tenant": "tenant 3",
        "after": 900,
        "now": now(),
        "until": later(60),
        "of_refund": "rf_3",
        "before": now(),
        "before_sequence": 2**60,
    }
    for statement, index in (
        (events.NEW, "ix_events_new"),
        (events.LAST, "uq_events_sequence"),
        (events.PAGE, "ix_events_tenant"),
        (deliveries.DUE_TENANTS, "ix_webhook_deliveries_due"),
        (deliveries.CLAIM, "ix_webhook_deliveries_due"),
        (deliveries.newest(_DEAD), "ix_webhook_deliveries_dead"),
        (deliveries.newest(replace(_DEAD, tenant="x")), "ix_webhook_deliveries_dead"),
        (deliveries.newest(DeliveryFilter()), "ix_webhook_deliveries_sequence"),
        (deliveries.newest(DeliveryFilter("x")), "ix_webhook_deliveries_tenant"),
        (
            deliveries.newest(DeliveryFilter(refund_id="x")),
            "ix_webhook_deliveries_refund",
        ),
        (events.OLD, "uq_events_sequence"),
        (deliveries.REPLAY_DEAD, "ix_webhook_deliveries_dead"),
    ):
        plan = query_plan(store, statement, given)

        assert index in plan
        assert "Seq Scan" not in plan
        assert "SCAN events\n" not in plan
        assert "SCAN webhook_deliveries\n" not in plan


def _fill_events(store: SQLStore, count: int) -> None:
    """Insert events that were delivered, and a few that are new, due or dead."""
    rows, sent = [], []
    for n in range(count):
        tenant, refund_id = f"tenant {n % 99}", f"rf_{n // 3}"
        event_id, is_new = f"evt_{n}", n % 1000 == 0
        rows.append(
            {"id": event_id, "tenant": tenant, "refund_id": refund_id, "version": n}
            | {"status": Status.QUEUED, "at": now()}
            | {"sequence": None if is_new else n + 1}
        )
        state = {50: "pending", 60: "dead"}.get(n % 100, "delivered")
        row = Delivery(
            *(event_id, tenant, refund_id, n + 1, DeliveryState(state)),
            *(1, now(), None, now(), 1),
        )
        sent.append(asdict(row))
    store._database.transaction(lambda c: c.execute(insert(tables.events), rows))
    table = tables.webhook_deliveries
    store._database.transaction(lambda c: c.execute(insert(table), sent))
    if store._database.dialect == "postgresql":
        # Other tests left deleted rows, which change the costs of a plan.
        store._database.run(lambda c: c.execute(text("VACUUM FULL ANALYZE")))


def test_spendings_come_from_an_index(store: SQLStore) -> None:
    """R27: the limits read the last 24 hours only."""
    rows = [
        {"chain_id": 31337, "token_address": WALLET, "tenant": f"tenant {n}"}
        | {"recipient": str(n), "hour": n, "amount": 1}
        for n in range(1500)
    ]
    store._database.transaction(lambda c: c.execute(insert(spendings), rows))
    if store._database.dialect == "postgresql":
        store._database.run(lambda c: c.execute(text("ANALYZE")))
    given = {
        "hour": None,
        "chain_id": 31337,
        "tokens": [WALLET],
        "tenants": ["", "gateway"],
        "recipients": ["", WALLET],
        "payments": [("", ""), ("", WALLET), ("gateway", ""), ("gateway", WALLET)],
    }
    plan = query_plan(store, spending._RECENT[store._database.dialect], given)

    assert {
        "sqlite": "(chain_id=? AND token_address=? AND tenant=? AND recipient=? AND"
        " hour>?)",
        "postgresql": "pk_spendings",
    }[store._database.dialect] in plan


def test_the_last_start_comes_from_an_index(store: SQLStore) -> None:
    """A start reads no signing records, however many there are."""
    store.append(
        [
            Record.of({"event": "digest-sign-requested", "n": n}, now())
            for n in range(2000)
        ]
    )
    if store._database.dialect == "postgresql":
        store._database.run(lambda c: c.execute(text("ANALYZE")))
    plan = query_plan(store, audit._CONFIGURATION, {"process": "x", "before": "av"})

    assert "ix_audit_records_configuration" in plan
    assert "Seq Scan" not in plan


@pytest.mark.parametrize(
    ("statement", "index"),
    [
        (refund_reports.BY_TENANT, "ix_attempts_signed_at"),
        (refund_reports._LAST_RESULTS, "ix_refunds_result"),
    ],
    ids=["tenants", "results"],
)
def test_automatic_stops_read_recent_rows_only(
    filled_store: SQLStore, statement: Any, index: str
) -> None:
    """The rules cost the same in a ledger of any size."""
    given = {"of_chain": 31337, "since": later(-60), "at_most": 20}
    plan = query_plan(filled_store, statement, given)

    assert index in plan
    assert "Seq Scan on attempts" not in plan
    assert "SCAN attempts" not in plan


@pytest.mark.parametrize(
    ("statement", "index"),
    [
        (refund_reports.OPEN_REFUNDS, "ix_refunds_open"),
        (refund_reports.ACCEPTED, "pk_refunds"),
        (refund_reports.LAST_PAYMENTS, "ix_refunds_result"),
    ],
    ids=["open", "accepted", "last payments"],
)
def test_metrics_read_few_rows(
    filled_store: SQLStore, statement: Any, index: str
) -> None:
    """A scrape costs the same in a ledger of any size."""
    # PostgreSQL would read a table of 1,500 rows to find 200 of them.
    given = {"first": queued().id, "of_chain": 31337, "at_most": 20}
    plan = query_plan(filled_store, statement, given)

    # SQLite names the index of a primary key after the table.
    names = {index, "sqlite_autoindex_refunds_1" if index == "pk_refunds" else index}
    assert any(name in plan for name in names), plan
    assert "Seq Scan" not in plan
    assert "SCAN refunds\n" not in plan


def test_open_refunds_are_counted_without_the_final_transactions(
    postgresql_url: str,
) -> None:
    """Also when so many are open that reading a whole table would be cheaper."""
    with closing(open_ledger(postgresql_url)) as store:
        final = [adopted(queued(), n) for n in range(2000)]
        filled(store, [as_if(each, status=Status.CONFIRMED) for each in final])
        filled(store, [queued() for _ in range(500)])
        store._database.run(lambda c: c.execute(text("VACUUM ANALYZE")))
        plan = query_plan(store, refund_reports.OPEN_REFUNDS, {})

    assert "ix_transactions_movable" in plan
    assert "Seq Scan on transactions" not in plan


def test_the_first_payment_of_a_recipient_comes_from_an_index(
    filled_store: SQLStore,
) -> None:
    """Also of a recipient whom many refunds pay."""
    given = {"chain_id": 1, "token_address": "0x", "recipient": "0x"}

    plan = query_plan(filled_store, spending._FIRST_CONFIRMED, given)

    assert "ix_refunds_confirmed" in plan


def test_the_spendings_of_a_day_come_from_an_index(store: SQLStore) -> None:
    rows = [
        {"chain_id": 31337, "token_address": WALLET, "tenant": f"tenant {n}"}
        | {"recipient": str(n), "hour": n, "amount": 1}
        for n in range(1500)
    ]
    store._database.transaction(lambda c: c.execute(insert(spendings), rows))
    if store._database.dialect == "postgresql":
        store._database.run(lambda c: c.execute(text("ANALYZE")))
    statement = refund_reports.SPENT[store._database.dialect]
    given = {"hour": None, "of_chain": 31337, "tokens": [WALLET, "gas"]}
    plan = query_plan(store, statement, {**given, "of_tenant": ""})

    assert {
        "sqlite": "(chain_id=? AND token_address=? AND tenant=? AND recipient=? AND"
        " hour>?)",
        "postgresql": "pk_spendings",
    }[store._database.dialect] in plan


def test_hashes_come_from_an_index(sqlite_store: SQLStore) -> None:
    """The hashes of what was sent are looked up by nonce."""
    given = {"chain_id": 0, "sender": "", "nonce": 0, "at_most": 500}
    plan = query_plan(sqlite_store, queries.HASHES, given)

    assert "SEARCH attempts USING INDEX" in plan
    assert "(chain_id=? AND sender=? AND nonce=?)" in plan


def test_recent_fees_come_from_indexes(filled_store: SQLStore) -> None:
    """The last confirmed transactions of a wallet are found by nonce."""
    given = {"chain_id": 31337, "sender": WALLET, "since": now(), "at_most": 20}
    plan = query_plan(filled_store, queries.MAX_FEES, given)

    assert {"sqlite": "chain_id=? AND sender=?", "postgresql": "pk_transactions"}[
        filled_store._database.dialect
    ] in plan
    assert "Seq Scan on refunds" not in plan
    assert "TEMP B-TREE" not in plan


def test_the_next_nonce_comes_from_indexes(filled_store: SQLStore) -> None:
    """A reservation reads the last nonce of refunds and of unrecorded transactions."""
    given = {"chain_id": 31337, "sender": WALLET}
    wallet = (
        bindparam("chain_id", type_=refunds.c.chain_id.type),
        bindparam("sender", type_=refunds.c.sender.type),
    )
    plan = query_plan(filled_store, select(next_nonce(*wallet)), given)

    for index in INDEXES_OF_NONCES[filled_store._database.dialect]:
        assert index in plan
    assert "Seq Scan on refunds" not in plan
    assert "Seq Scan on unrecorded_transactions" not in plan
    assert "TEMP B-TREE" not in plan
    assert "Sort" not in plan


INDEXES_OF_NONCES = {
    # SQLite names the indexes of unique constraints and primary keys.
    "sqlite": (
        "SEARCH refunds_1 USING COVERING INDEX sqlite_autoindex_refunds_",
        "SEARCH unrecorded_transactions_1 USING COVERING INDEX sqlite_autoindex_",
        "(chain_id=? AND sender=? AND nonce>?)",
    ),
    "postgresql": ("uq_refunds_position", "pk_unrecorded_transactions"),
}


def test_a_history_is_written_from_the_places_in_transactions(
    filled_store: SQLStore,
) -> None:
    """However many refunds are open."""
    values = {
        "transactions_status": TransactionStatus.MINED,
        "transactions_updated_at": now(),
        "transactions_version": 1,
        "transactions_chain_id": 1,
        "transactions_sender": WALLET,
        "transactions_nonce": 0,
        "payments": 1,
    }

    def explain(connection: Connection) -> str:
        prepared = _Prepared(INSERT_MOVES, connection.dialect)
        is_sqlite = connection.dialect.name == "sqlite"
        how = "EXPLAIN QUERY PLAN" if is_sqlite else "EXPLAIN"
        given = prepared.parameters([values])
        return str(connection.exec_driver_sql(f"{how} {prepared.text}", given).all())

    plan = filled_store._database.run(explain)

    # SQLite names the index of a constraint after the table.
    assert "uq_refunds_position" in plan or "sqlite_autoindex_refunds_4" in plan
